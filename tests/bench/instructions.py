#!/usr/bin/env python3
"""Instructions that each of Signet's sidecars executes per request, and per new connection of bytes (a full handshake each),
counted by callgrind: the same from run to run whatever else the machine does. Two runs of different length are subtracted,
so that start-up does not count. SUT names another adapter than `signet`."""
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "lib")]
sys.dont_write_bytecode = True
REQUESTS = (500, 2500)
CONNECTIONS = (50, 250)
SUT = os.environ.get("SUT", "signet")


def request(addr, mode, requests):
    args = ["-n", str(requests), "-c", "4", "-t", "1"]
    args += ["-m", "8"] if mode == "h2" else ["--h1"]
    r = subprocess.run(["h2load", *args, f"http://{addr}/"], stdout=subprocess.PIPE, text=True, timeout=300)
    done = re.search(r"(\d+) succeeded", r.stdout)
    if not done or int(done.group(1)) != requests:
        raise SystemExit(f"h2load: {r.stdout[-400:]}")


def connect(addr, connections):
    """One connection after the other, with one byte that comes back."""
    host, port = addr.split(":")
    for _ in range(connections):
        with socket.create_connection((host, int(port)), 30) as stream:
            stream.sendall(b"Ex")
            if stream.recv(1) != b"x":
                raise SystemExit("the byte did not come back")


def totals(part, mode, requests):
    """Instructions executed by one sidecar while `requests` requests were served."""
    import bench
    out = bench.WORK / "run" / f"callgrind-{part}-{mode}-{requests}.out"
    os.environ[f"SIGNET_WRAP_{part}"] = f"valgrind --tool=callgrind --callgrind-out-file={out}"
    adapter = bench.adapters()[SUT]
    try:
        with bench.App(), bench.Pair(adapter, mode) as pair:
            if mode == "tcp":
                connect(pair.addr, requests)
            else:
                request(pair.addr, mode, requests)
    finally:
        del os.environ[f"SIGNET_WRAP_{part}"]
    # After the pair has ended: callgrind writes at exit.
    found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M)
    return int(found.group(1))


def main():
    if not shutil.which("valgrind"):
        raise SystemExit("instructions: valgrind is not installed")
    import bench
    bench.isolate()
    print("| sidecar | protocol | instructions per request, or connection |\n|---|---|---|")
    for mode in ("h1", "h2", "tcp"):
        few, many = CONNECTIONS if mode == "tcp" else REQUESTS
        for part in ("client", "server"):
            per = (totals(part, mode, many) - totals(part, mode, few)) / (many - few)
            print(f"| {part} | {mode} | {per:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
