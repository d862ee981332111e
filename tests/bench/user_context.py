#!/usr/bin/env python3
"""What a user costs: the CPU time of the pair per HTTP/1.1 request that nobody asked for a user, and per one whose JWT the receiver
verifies (a remembered one: the same token comes again and again), decides by a hundred policies, and shows to the app. Alternating
rounds; the difference of their medians is the user's price, the token's 500 bytes of header on the way included."""
import base64
import http.server
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "lib")]
sys.dont_write_bytecode = True
ROUNDS, SECONDS = 5, 3


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*args, data=None):
    return subprocess.run(["openssl", *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True).stdout


class Issuer:
    """An issuer of tokens: a key of openssl's, and its key set on loopback."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.key = f"{self.folder.name}/key.pem"
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key)
        point = openssl("ec", "-in", self.key, "-pubout", "-outform", "DER")[-64:]
        jwk = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1", "x": b64(point[:32]), "y": b64(point[32:])}
        body = json.dumps({"keys": [jwk]}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.folder.cleanup()

    def token(self):
        now = int(time.time())
        claims = {"iss": self.url, "sub": "alice", "aud": "shop", "iat": now, "exp": now + 3600, "jti": "t-1", "client_id": "web",
                  "scope": "orders:read orders:write", "email": "alice@example.com", "groups": ["staff", "ops"]}
        head = {"typ": "at+jwt", "alg": "ES256", "kid": "k1"}
        signed = ".".join(b64(json.dumps(part).encode()) for part in (head, claims))
        der = openssl("dgst", "-sha256", "-sign", self.key, data=signed.encode())
        at, numbers = 2, b""
        for _ in range(2):
            length = der[at + 1]
            numbers += der[at + 2:at + 2 + length][-32:].rjust(32, b"\0")
            at += 2 + length
        return f"{signed}.{b64(numbers)}"


def documents(issuer):
    """Beside the pair's own: an issuer, and a hundred policies of which the last one permits."""
    yield (f"kind: Issuer\nmetadata: {{name: idp}}\nspec: {{issuer: '{issuer.url}', jwksUri: '{issuer.url}/jwks', audiences: [shop], "
           "algorithms: [ES256], tokenTypes: [at+jwt], scopeClaim: scope, claims: [email, groups]}\n")
    for n in range(100):
        to = f"paths: ['/v1/things-{n}/{{id}}']" if n < 99 else "methods: [GET]"
        yield (f"kind: MeshPolicy\nmetadata: {{namespace: bench, name: p{n}}}\nspec: {{effect: permit, target: {{service: server}}, "
               f"from: {{workloads: [ns/bench/sa/client]}}, user: {{scopes: ['orders:read']}}, to: {{{to}}}}}\n")


def load(address, seconds, headers):
    args = [part for header in headers for part in ("-H", header)]
    said = subprocess.run(["h2load", "--h1", "-D", str(seconds), "--warm-up-time", "0", "-c", "64", "-t", "1", *args,
                           f"http://{address}/"], stdout=subprocess.PIPE, text=True, timeout=120).stdout
    found = re.search(r"(\d+) succeeded, (\d+) failed", said)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
    return int(codes.group(1)), int(found.group(2)) + sum(int(codes.group(n)) for n in (2, 3, 4))


def measure(bench, adapter, headers):
    with bench.App():
        address = adapter.start("h1")
        try:
            # Until the issuer's keys are there.
            until = time.time() + 20
            while load(address, 1, headers)[1]:
                if time.time() > until:
                    raise SystemExit("the pair answers no request with a user")
            pids = adapter.pids().values()
            before = sum(bench.cpu_s(pid) for pid in pids)
            good, bad = load(address, SECONDS, headers)
            spent = sum(bench.cpu_s(pid) for pid in pids) - before
        finally:
            adapter.stop()
    if bad:
        raise SystemExit(f"{bad} requests failed")
    return spent / good * 1e6


def main():
    import bench
    adapter = bench.adapters()["signet"]
    module = type(adapter).launch.__globals__
    plain = module["REGISTRY"]
    module["CONTROL_PLANE"] += "issuers: {allowPrivateAddresses: true, allowHttp: true}\n"
    with Issuer() as issuer:
        more = "".join("---\napiVersion: signet.mesh/v1alpha1\n" + one for one in documents(issuer))
        of_users = plain.replace("identity: ns/bench/sa/server}]\n", "identity: ns/bench/sa/server}]\n  userContext: original\n")
        of_users = of_users[:of_users.rindex("---\n")] + more.replace("%", "%%")
        headers = [f"authorization: Bearer {issuer.token()}"]
        spent = {"nobody": [], "a user": []}
        for _ in range(ROUNDS):
            for who, registry, sent in (("nobody", plain, []), ("a user", of_users, headers)):
                module["REGISTRY"] = registry
                spent[who].append(measure(bench, adapter, sent))
    print("| request for | CPU of the pair per request, us, median (min-max) |\n|---|---|")
    for who, figures in spent.items():
        print(f"| {who} | {statistics.median(figures):.1f} ({min(figures):.1f}-{max(figures):.1f}) |")
    print(f"\nA user's price: {statistics.median(spent['a user']) - statistics.median(spent['nobody']):.1f} us")


if __name__ == "__main__":
    main()
