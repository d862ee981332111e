"""A server on Python's own `http.server`, which reads heads and leaves bodies to its handler: it keeps what it saw of each request, and
what `urllib` makes of the path. `GET /__seen` gives that out and forgets it. Prints its port."""
import http.server
import json
import posixpath
import socket
import sys
import threading
import urllib.parse

seen = []
lock = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __getattr__(self, name):
        # Any method at all.
        if name.startswith("do_"):
            return self.take
        raise AttributeError(name)

    def body(self):
        if "chunked" in (self.headers["transfer-encoding"] or ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b"\n", b""):
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers["content-length"] or 0))

    def take(self):
        body = self.body()
        answer = b"ok"
        with lock:
            if self.path == "/__seen":
                answer = json.dumps(seen).encode()
                seen.clear()
            else:
                path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path, errors="surrogateescape")
                seen.append({
                    "method": self.command, "target": self.path, "headers": [[n.lower(), v] for n, v in self.headers.items()],
                    "body": body.decode("latin1"), "resolved": posixpath.normpath(path).encode("utf-8", "replace").decode(),
                })
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def send_error(self, code, *rest, **others):
        with lock:
            seen.append({"error": code})
        super().send_error(code, *rest, **others)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
