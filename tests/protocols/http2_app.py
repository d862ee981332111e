"""A well-behaved HTTP/2 app on the `h2` library. It keeps what it received whole, and answers with it: the request's body, or
as many bytes as the path `/large/N` asks for."""
import socket
import threading

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings


class App:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.whole = []
        threading.Thread(target=self.accept, daemon=True).start()

    def saw(self, path):
        """The whole requests of this path, each as headers (a list of pairs), body and trailers."""
        with self.lock:
            return [r for r in self.whole if (b":path", path.encode()) in r[0]]

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        # What is valid is for the peer under test to see to: the library's own checks would hide it.
        config = h2.config.H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False,
                                           validate_outbound_headers=False, normalize_outbound_headers=False)
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        requests, waiting = {}, {}
        try:
            sock.sendall(connection.data_to_send())
            while data := sock.recv(65536):
                for event in connection.receive_data(data):
                    stream = getattr(event, "stream_id", None)
                    if isinstance(event, h2.events.RequestReceived):
                        requests[stream] = [event.headers, b"", []]
                    elif isinstance(event, h2.events.DataReceived) and stream in requests:
                        requests[stream][1] += event.data
                        connection.acknowledge_received_data(event.flow_controlled_length, stream)
                    elif isinstance(event, h2.events.TrailersReceived) and stream in requests:
                        requests[stream][2] = event.headers
                    elif isinstance(event, h2.events.StreamReset):
                        requests.pop(stream, None)
                        waiting.pop(stream, None)
                    elif isinstance(event, h2.events.StreamEnded) and stream in requests:
                        whole = requests.pop(stream)
                        with self.lock:
                            self.whole.append(whole)
                        try:
                            self.answer(connection, stream, whole, waiting)
                        except h2.exceptions.ProtocolError:
                            pass  # reset in the same breath
                    elif isinstance(event, h2.events.ConnectionTerminated):
                        return
                self.flush(connection, waiting)
                sock.sendall(connection.data_to_send())
        except (OSError, h2.exceptions.ProtocolError):
            pass
        finally:
            sock.close()

    @staticmethod
    def answer(connection, stream, whole, waiting):
        fields = dict(whole[0])
        path = fields.get(b":path", b"").decode()
        body = b"x" * int(path.split("/")[2]) if path.startswith("/large/") else whole[1]
        end = fields.get(b":method") == b"HEAD" or not body
        connection.send_headers(stream, [(":status", "200"), ("x-app", "h2")], end_stream=end)
        if not end:
            waiting[stream] = body

    @staticmethod
    def flush(connection, waiting):
        for stream in list(waiting):
            body = waiting[stream]
            while body:
                room = min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size)
                if room <= 0:
                    break
                connection.send_data(stream, body[:room], end_stream=len(body) <= room)
                body = body[room:]
            if body:
                waiting[stream] = body
            else:
                del waiting[stream]
