#!/usr/bin/env python3
"""Runs the workloads on every system under test, in turn (A B C A B C ..), and prints the tables.

  ./bench.py list
  ./bench.py check [SUT..]                      are both sidecars in the path, and is mTLS demanded?
  ./bench.py run [--sut a,b] [--work W1,W2,..] [--rounds 3] [--secs 6] [--out FILE]
  ./bench.py report FILE..                      medians (min-max) of one or more result files
  ./bench.py ratios FILE.. [--of signet]        medians of per-round ratios to each peer, stolen rounds dropped

Each workload's round holds the lock file $BENCH_LOCK (if set) so that it doesn't overlap with other heavy work.
check and run put themselves into a network namespace of their own (as root; BENCH_NO_NETNS=1 prevents it).
"""
import argparse
import contextlib
import fcntl
import importlib.util
import json
import os
import pathlib
import re
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "lib"))
sys.dont_write_bytecode = True
import ratios  # noqa: E402
from common import (APP_HTTP, APP_TCP, CERTS, MESH_IP, PORTS, RUN, SERVER_NAME, WORK, cpu_s, end,  # noqa: E402
                    jline, mem_kib, pinned, spawn, tool, wait_port)

WORKLOADS = ["W1", "W2", "W3", "W4", "W5", "W6"]


def adapters():
    out = {}
    dirs = [HERE / "sut"] + [pathlib.Path(d) for d in os.environ.get("BENCH_SUT", "").split(":") if d]
    for f in sorted(f for d in dirs for f in d.glob("*/adapter.py")):
        spec = importlib.util.spec_from_file_location(f"sut_{f.parent.name.replace('-', '_')}", f)
        m = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(m)
        for a in m.ADAPTERS:
            out[a.name] = a()
    return dict(sorted(out.items(), key=lambda kv: kv[0] != "direct"))


@contextlib.contextmanager
def lock():
    path = os.environ.get("BENCH_LOCK")
    if not path:
        yield
        return
    with open(path, "a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def host():
    """CPU-seconds of the whole machine so far, by kind."""
    f = [int(x) / os.sysconf("SC_CLK_TCK") for x in open("/proc/stat").readline().split()[1:9]]
    return {"user": f[0] + f[1], "system": f[2], "idle": f[3] + f[4], "irq": f[5] + f[6], "steal": f[7]}


class App:
    """The application; started anew for each measurement."""
    def __enter__(self):
        self.p = spawn(pinned("app", [tool("bench-echo"), "--http", f"127.0.0.1:{APP_HTTP},127.0.0.2:{APP_HTTP}",
                                      "--tcp", f"127.0.0.1:{APP_TCP},127.0.0.2:{APP_TCP}"
                                      + (f",{MESH_IP}:{APP_TCP}" if os.environ.get("BENCH_IN_NETNS") else "")]),
                       RUN / "echo.log")
        wait_port("127.0.0.1", APP_HTTP, proc=self.p)
        wait_port("127.0.0.1", APP_TCP, proc=self.p)
        return self

    def __exit__(self, *a):
        end([self.p], 1)


class Pair:
    """A started system under test, answering."""
    def __init__(self, a, mode):
        self.a, self.mode = a, mode

    def __enter__(self):
        self.addr = self.a.start(self.mode)
        host, port = self.addr.split(":")
        last = ""
        for _ in range(150):
            try:
                with socket.create_connection((host, int(port)), 2) as s:
                    s.settimeout(2)
                    if self.mode == "tcp":
                        s.sendall(b"Ex")
                        if s.recv(1) == b"x":
                            return self
                    elif self.mode == "h2":
                        # a raw h2c preface; any SETTINGS frame back will do, the load tool checks the rest
                        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
                        if len(s.recv(9)) == 9:
                            return self
                    else:
                        s.sendall(b"GET / HTTP/1.1\r\nhost: %s\r\nconnection: close\r\n\r\n" % SERVER_NAME.encode())
                        last = s.recv(64)
                        if last.startswith(b"HTTP/1.1 200"):
                            return self
            except OSError as e:
                last = repr(e)
            time.sleep(0.1)
        self.a.stop()
        raise RuntimeError(f"{self.a.name}/{self.mode}: no answer through the pair: {last}")

    def __exit__(self, *a):
        self.a.stop()

    def snap(self, app):
        pids = self.a.pids()
        s = {k: cpu_s(p) for k, p in pids.items()}
        if len(set(pids.values())) == 1 and pids:
            s["server"] = 0.0  # one process is both: counted once, as the client's
        s["app"] = cpu_s(app.p.pid)
        return s

    def mem(self):
        return {k: mem_kib(p) for k, p in self.a.pids().items()}


def load(*args, timeout=90):
    """Runs bench-load; returns its figures with its own CPU-seconds."""
    before = os.times()
    r = subprocess.run(pinned("load", [tool("bench-load"), *map(str, args)]), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=timeout)
    after = os.times()
    if r.returncode:
        raise RuntimeError(f"bench-load {args}: {r.stderr[-400:]}")
    out = jline(r.stdout)
    out["load_cpu"] = after.children_user + after.children_system - before.children_user - before.children_system
    return out


def h2load(addr, secs, conns, streams, warm=1):
    before = os.times()
    r = subprocess.run(pinned("load", ["h2load", "-D", str(secs), "--warm-up-time", str(warm), "-c", str(conns),
                                       "-m", str(streams), "-t", "1", f"http://{addr}/"]),
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=secs + 60)
    after = os.times()
    m = re.search(r"finished in ([\d.]+)(m?s), ([\d.]+) req/s", r.stdout)
    q = re.search(r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, "
                  r"(\d+) timeout", r.stdout)
    c = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", r.stdout)
    if not (m and q and c):
        raise RuntimeError(f"h2load: {r.stdout[-600:]}")
    return {"rps": float(m.group(3)), "ok": int(c.group(1)), "bad": int(q.group(5)) + sum(int(x) for x in c.groups()[1:]),
            "secs": secs,
            "load_cpu": after.children_user + after.children_system - before.children_user - before.children_system}


def diff(a, b):
    return {k: round(b[k] - a[k], 4) for k in b}


def per_request(pair, app, fn, unit):
    """CPU is read around the load's whole run (warm-up too), so it is divided by the work of all of it."""
    c0, s0, w0 = pair.snap(app), host(), time.time()
    r = fn()
    c1, s1, w1 = pair.snap(app), host(), time.time()
    r["cpu"] = diff(c0, c1)
    r["wall"] = round(w1 - w0, 3)
    h = r["host"] = diff(s0, s1)
    r["steal_pct"] = round(100 * h["steal"] / max(0.01, sum(h.values())), 2)
    # what nobody of ours accounts for: interrupts (the kernel books loopback's there) and other programs
    r["other_cores"] = round((h["user"] + h["system"] + h["irq"] - sum(r["cpu"].values()) - r["load_cpu"]) / (w1 - w0), 3)
    r["steal_cores"] = round(h["steal"] / (w1 - w0), 3)
    r["idle_cores"] = round(h["idle"] / (w1 - w0), 3)
    n = unit(r)
    for k in ("client", "server"):
        if k in r["cpu"]:
            r[f"cpu_{k}_per_unit"] = r["cpu"][k] / n if n else None
    r["cpu_pair_per_unit"] = sum(r["cpu"].get(k, 0) for k in ("client", "server")) / n if n else None
    r["mem"] = pair.mem()
    return r


def w1(a, secs):
    with App() as app, Pair(a, "h1") as p:
        yield "W1", per_request(p, app, lambda: load("max", "--addr", p.addr, "--conns", 64, "--secs", secs),
                                lambda r: r["all"] / 1000)


def w2(a, secs):
    with App() as app, Pair(a, "h2") as p:
        # h2load's --warm-up-time would leave requests uncounted: warm up in a run of its own
        h2load(p.addr, 1, 16, 32, 0)
        yield "W2", per_request(p, app, lambda: h2load(p.addr, secs, 16, 32, 0), lambda r: r["ok"] / 1000)


def w3(a, secs):
    """The direct path and the pair, one right after the other; again (at most six times) while the host steals CPU,
    since a stolen millisecond is a tail latency."""
    for rps in (1000, 4000):
        args = ["--conns", 64, "--secs", secs, "--warm", 0.5, "--rps", rps]
        best = None
        with App() as app, Pair(a, "h1") as p:
            for _ in range(6):
                h0, t0 = host(), time.time()
                base = load("rate", "--addr", f"127.0.0.1:{APP_HTTP}", *args) if a.name != "direct" else None
                r = per_request(p, app, lambda: load("rate", "--addr", p.addr, *args), lambda r: r["all"] / 1000)
                stolen = (host()["steal"] - h0["steal"]) / (time.time() - t0)
                if base:
                    r["direct"] = base
                    for k in ("p50_us", "p99_us", "p999_us"):
                        r["added_" + k] = round(r[k] - base[k], 1)
                if best is None or stolen < best[0]:
                    best = (stolen, r)
                if stolen < 0.03:
                    break
        yield f"W3@{rps}", best[1]


def w4(a, secs):
    for d in ("up", "down"):
        with App() as app, Pair(a, "tcp") as p:
            cal = load("bulk", "--addr", p.addr, "--dir", d, "--bytes", 1 << 28)
            n = int(min(64e9, max(3e8, cal["gb_per_s"] * 1e9 * secs)))
            yield f"W4-{d}", per_request(p, app, lambda: load("bulk", "--addr", p.addr, "--dir", d, "--bytes", n),
                                         lambda r: r["bytes"] / 1e9)


def w5(a, secs):
    if "h1" in a.modes:
        with App() as app, Pair(a, "h1") as p:
            yield "W5-http", per_request(p, app, lambda: load("newconn", "--addr", p.addr, "--conns", 32, "--secs", secs),
                                         lambda r: r["ok"] / 1000)
    if "tcp" in a.modes:
        with App() as app, Pair(a, "tcp") as p:
            yield "W5-tcp", per_request(p, app, lambda: load("newconn", "--raw", "--addr", p.addr, "--conns", 32,
                                                             "--secs", secs), lambda r: r["ok"] / 1000)


def w6(a, secs):
    if a.name == "direct":
        return
    for mode in ("h1", "tcp"):
        if mode not in a.modes:
            continue
        with App() as app:
            a.start(mode)
            try:
                time.sleep(2)
                r = {"fresh": {k: mem_kib(p) for k, p in a.pids().items()}}
                h = subprocess.Popen([tool("bench-load"), "idle", "--addr", a.addr, "--conns", "1000", "--secs", "60"]
                                     + (["--raw"] if mode == "tcp" else []),
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                try:
                    line = h.stdout.readline()
                    r.update(json.loads(line) if line else {"bad": 1000})
                    time.sleep(1)
                    r["held"] = {k: mem_kib(p) for k, p in a.pids().items()}
                    c0 = {k: cpu_s(p) for k, p in a.pids().items()}
                    time.sleep(4)
                    c1 = {k: cpu_s(p) for k, p in a.pids().items()}
                    r["idle_cpu_pct"] = {k: round((c1[k] - c0[k]) / 4 * 100, 2) for k in c1}
                finally:
                    with contextlib.suppress(OSError):
                        h.stdin.close()
                    end([h], 3)
            finally:
                a.stop()
        yield f"W6-{mode}", r


RUNNERS = {"W1": (w1, "h1"), "W2": (w2, "h2"), "W3": (w3, "h1"), "W4": (w4, "tcp"), "W5": (w5, None), "W6": (w6, None)}


def quietest(fn, a, o):
    """Measures again where other programs, or other machines on the same host, took CPU meanwhile; keeps the least
    disturbed of at most o.tries."""
    best = None
    for _ in range(o.tries):
        got = list(fn(a, o.secs))
        noise = max((r.get("other_cores", 0) + r.get("steal_cores", 0) for _, r in got), default=0)
        if best is None or noise < best[0]:
            best = (noise, got)
        if noise <= o.max_other:
            break
    return best[1] if best else []


def measure(a, w, rnd, o, f):
    fn, mode = RUNNERS[w]
    if mode and mode not in a.modes:
        return
    try:
        for label, r in quietest(fn, a, o):
            f.write(json.dumps({"sut": a.name, "work": label, "round": rnd, **r}) + "\n")
            f.flush()
            brief = {k: r[k] for k in ("rps", "gb_per_s", "bad", "p50_us", "p99_us", "added_p99_us", "cpu_pair_per_unit",
                                       "other_cores") if r.get(k) is not None}
            print(rnd, a.name, label, json.dumps(brief), flush=True)
    except Exception as e:  # one that fails must not stop the others
        print(rnd, a.name, w, "FAILED:", repr(e)[:400], flush=True)
        f.write(json.dumps({"sut": a.name, "work": w, "round": rnd, "failed": repr(e)[:400]}) + "\n")


def run(o):
    every = adapters()
    names = o.sut.split(",") if o.sut else [n for n, a in every.items() if a.available()[0]]
    works = o.work.split(",") if o.work else WORKLOADS
    out = pathlib.Path(o.out or WORK / f"results-{int(time.time())}.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a") as f:
        for n in names:
            ok, why = every[n].available()
            if not ok:
                raise SystemExit(f"{n}: {why}")
            f.write(json.dumps({"meta": n, "version": every[n].version(), "note": every[n].note}) + "\n")
        for rnd in range(o.rounds):
            for w in works:
                with lock():  # one workload on all systems, so that they are measured close together
                    for n in names:
                        measure(every[n], w, rnd, o, f)
    print(out)


# ---------------------------------------------------------------- check
def tls_try(port, addr="127.0.0.1", cert=None, alpn=None, version=ssl.TLSVersion.TLSv1_3):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_NONE
    c.minimum_version = c.maximum_version = version
    if cert:
        c.load_cert_chain(CERTS / f"{cert}.crt", CERTS / f"{cert}.key")
    if alpn:
        c.set_alpn_protocols([alpn])
    try:
        with socket.create_connection((addr, port), 3) as s, c.wrap_socket(s, server_hostname=SERVER_NAME) as t:
            t.settimeout(3)
            info = f"{t.version()} {t.cipher()[0]}"
            t.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            got = t.recv(12)
            return bool(got.startswith(b"HTTP/1.1 200")), f"{info} {got!r}"
    except (OSError, ssl.SSLError) as e:
        return False, type(e).__name__


def check(o):
    bad = 0
    for n, a in adapters().items():
        if o.suts and n not in o.suts:
            continue
        ok, why = a.available()
        if not ok:
            print(f"{n:16} not available: {why}")
            continue
        for mode in a.modes:
            with App(), lock():
                try:
                    with Pair(a, mode) as p:
                        line = f"{n:16} {mode:4} answers at {p.addr}"
                        if a.pids():
                            where = getattr(a, "mtls", lambda m: ("127.0.0.1", PORTS[m][1]))(mode)
                            alpn = "h2" if mode == "h2" or getattr(a, "inner_h2_for_h1", False) else "http/1.1"
                            plain, w0 = tls_try(where[1], where[0], None, alpn)
                            old, w1_ = tls_try(where[1], where[0], "client", alpn, ssl.TLSVersion.TLSv1_2)
                            line += f"; without a client cert: {'ACCEPTED' if plain else 'refused'} ({w0}); " \
                                    f"TLS 1.2: {'ACCEPTED' if old else 'refused'} ({w1_})"
                            if mode == "h1" and alpn == "http/1.1" and not hasattr(a, "mtls"):
                                with_cert, w2_ = tls_try(where[1], where[0], "client", alpn)
                                line += f"; with: {'accepted' if with_cert else 'REFUSED'} ({w2_})"
                                bad += not with_cert
                            bad += plain + old
                        if mode == "h2":
                            r = h2load(p.addr, 1, 4, 8, 0)
                            line += f"; h2load ok {r['ok']} bad {r['bad']}"
                            bad += r["bad"] > 0 or r["ok"] == 0
                        print(line)
                except Exception as e:
                    bad += 1
                    print(f"{n:16} {mode:4} FAILED {e!r}")
    return 1 if bad else 0


# ---------------------------------------------------------------- report
def med(v, f="{:.0f}"):
    v = [x for x in v if x is not None]
    if not v:
        return "-"
    if len(v) == 1:
        return f.format(v[0])
    return f"{f.format(statistics.median(v))} ({f.format(min(v))}-{f.format(max(v))})"


def table(head, rows):
    if not rows:
        return "(not run)\n"
    out = ["| " + " | ".join(head) + " |", "|" + "|".join("---" for _ in head) + "|"]
    out += ["| " + " | ".join(r) + " |" for r in rows]
    return "\n".join(out) + "\n"


def growth(rs, part):
    """KiB of RSS for each of the 1,000 held connections."""
    return [(r["held"][part]["rss"] - r["fresh"][part]["rss"]) / 1000 for r in rs]


def report(o):
    recs, meta = [], {}
    for f in o.files:
        for line in open(f):
            r = json.loads(line)
            if "meta" in r:
                meta[r["meta"]] = r
            else:
                recs.append(r)
    order = [n for n in adapters() if any(r["sut"] == n for r in recs)]
    order += sorted({r["sut"] for r in recs} - set(order))

    def pick(n, w):
        return [r for r in recs if r["sut"] == n and r["work"] == w and "failed" not in r]

    def get(rs, *path):
        out = []
        for r in rs:
            for p in path:
                r = r.get(p) if isinstance(r, dict) else None
            out.append(r)
        return out

    def ms(v):
        return [None if x is None else x * 1000 for x in v]

    def mib(v):
        return [None if x is None else x / 1024 for x in v]

    def rows(w, cols, skip=()):
        out = []
        for n in order:
            rs = pick(n, w)
            if n in skip:
                continue
            if not rs:
                fails = [r for r in recs if r["sut"] == n and r["work"] == w.split("@")[0].split("-")[0] and "failed" in r]
                if fails:
                    out.append([n, f"failed: {fails[0]['failed'][:80]}"] + ["-"] * (len(cols) - 1))
                continue
            out.append([n] + [c(rs) for c in cols])
        return out

    def bad(rs):
        return str(sum(r.get("bad", 0) for r in rs))

    def cores(rs):
        # how busy the machine was, and with whom: cores used by client / server sidecar / app / load
        def c(k):
            return statistics.median((r["load_cpu"] if k == "load" else r["cpu"].get(k, 0)) / r["wall"] for r in rs)
        return " / ".join(f"{c(k):.2f}" for k in ("client", "server", "app", "load"))

    for w, title in (("W1", "W1: HTTP/1.1 keep-alive, 64 connections, as fast as it goes"),
                     ("W2", "W2: h2c in, 16 connections x 32 streams, as fast as it goes")):
        print(f"### {title}\n")
        print(table(["", "req/s", "CPU-ms per 1000 req: pair", "client", "server", "req/s that one busy core per sidecar "
                     "would allow", "peak RSS MiB client", "server", "cores used client / server / app / load", "bad"],
                    rows(w, [lambda rs: med(get(rs, "rps")),
                             lambda rs: med(ms(get(rs, "cpu_pair_per_unit"))) if rs[0]["sut"] != "direct" else "-",
                             lambda rs: med(ms(get(rs, "cpu_client_per_unit"))),
                             lambda rs: med(ms(get(rs, "cpu_server_per_unit"))),
                             lambda rs: "-" if rs[0]["sut"] == "direct" else "{:.0f}".format(
                                 1000 / max(statistics.median(get(rs, "cpu_client_per_unit")),
                                            statistics.median(get(rs, "cpu_server_per_unit")))),
                             lambda rs: med(mib(get(rs, "mem", "client", "hwm"))),
                             lambda rs: med(mib(get(rs, "mem", "server", "hwm"))), cores, bad])))
    for rps in (1000, 4000):
        print(f"### W3: latency at {rps} requests/s (open loop, HTTP/1.1, 64 connections), microseconds\n")
        print(table(["", "p50", "p99", "p99.9", "ADDED p50", "ADDED p99", "ADDED p99.9", "CPU-ms per 1000 req: pair", "bad"],
                    rows(f"W3@{rps}", [lambda rs: med(get(rs, "p50_us")), lambda rs: med(get(rs, "p99_us")),
                                       lambda rs: med(get(rs, "p999_us")), lambda rs: med(get(rs, "added_p50_us")),
                                       lambda rs: med(get(rs, "added_p99_us")), lambda rs: med(get(rs, "added_p999_us")),
                                       lambda rs: med(ms(get(rs, "cpu_pair_per_unit"))) if rs[0]["sut"] != "direct" else "-",
                                       bad])))
    for d, what in (("up", "client to server"), ("down", "server to client")):
        print(f"### W4: one TCP stream, {what}\n")
        print(table(["", "GB/s", "CPU-s per GB: pair", "client", "server", "cores used client / server / app / load"],
                    rows(f"W4-{d}", [lambda rs: med(get(rs, "gb_per_s"), "{:.2f}"),
                                     lambda rs: med(get(rs, "cpu_pair_per_unit"), "{:.2f}") if rs[0]["sut"] != "direct" else "-",
                                     lambda rs: med(get(rs, "cpu_client_per_unit"), "{:.2f}"),
                                     lambda rs: med(get(rs, "cpu_server_per_unit"), "{:.2f}"), cores])))
    for k, what in (("http", "HTTP/1.1, a new client connection for each request; mTLS pooled between the two"),
                    ("tcp", "TCP, a new client connection for each echoed byte (a full mTLS handshake each, where "
                            "the product does not multiplex)")):
        print(f"### W5-{k}: {what}\n")
        print(table(["", "connections/s", "p50 us", "p99 us", "CPU-ms per 1000: pair", "client", "server",
                     "cores used client / server / app / load", "bad"],
                    rows(f"W5-{k}", [lambda rs: med(get(rs, "rps")), lambda rs: med(get(rs, "p50_us")),
                                     lambda rs: med(get(rs, "p99_us")),
                                     lambda rs: med(ms(get(rs, "cpu_pair_per_unit"))) if rs[0]["sut"] != "direct" else "-",
                                     lambda rs: med(ms(get(rs, "cpu_client_per_unit"))),
                                     lambda rs: med(ms(get(rs, "cpu_server_per_unit"))), cores, bad])))
    print("### W6: memory, MiB (RSS, of a freshly started proxy and with 1,000 idle client connections)\n")
    for mode in ("h1", "tcp"):
        print(f"{'HTTP/1.1, one request made on each' if mode == 'h1' else 'TCP, one byte echoed on each'}:\n")
        print(table(["", "fresh client", "fresh server", "1000 idle: client", "1000 idle: server",
                     "KiB per connection client", "server", "idle CPU % client / server", "bad"],
                    rows(f"W6-{mode}", [lambda rs: med(mib(get(rs, "fresh", "client", "rss")), "{:.1f}"),
                                        lambda rs: med(mib(get(rs, "fresh", "server", "rss")), "{:.1f}"),
                                        lambda rs: med(mib(get(rs, "held", "client", "rss")), "{:.1f}"),
                                        lambda rs: med(mib(get(rs, "held", "server", "rss")), "{:.1f}"),
                                        lambda rs: med(growth(rs, "client"), "{:.1f}"),
                                        lambda rs: med(growth(rs, "server"), "{:.1f}"),
                                        lambda rs: f"{med(get(rs, 'idle_cpu_pct', 'client'), '{:.1f}')} / {med(get(rs, 'idle_cpu_pct', 'server'), '{:.1f}')}",
                                        bad], skip=("direct",))))
    print("### What was run\n")
    print(table(["", "version", "how"], [[n, meta.get(n, {}).get("version", ""), meta.get(n, {}).get("note", "")] for n in order]))
    st = [r["steal_pct"] for r in recs if "steal_pct" in r]
    oc = [r["other_cores"] for r in recs if "other_cores" in r]
    if oc:
        print(f"Cores taken by other programs and interrupts during measurements: median {abs(statistics.median(oc)):.2f}.")
    if st:
        print(f"CPU time stolen by the host during measurements: median {statistics.median(st):.1f} %, most {max(st):.0f} %.")


def isolate():
    """Starts over inside a network namespace that has nothing but its own loopback: no traffic can leave,
    no port is taken, no firewall or conntrack rule of the machine is in the path."""
    if os.environ.get("BENCH_IN_NETNS") or os.geteuid() != 0:
        return
    os.environ["BENCH_IN_NETNS"] = "1"
    os.execvp("unshare", ["unshare", "-n", "sh", "-c", f'ip link set lo up && ip addr add {MESH_IP}/32 dev lo && exec "$@"',
                          "sh",
                          sys.executable, *sys.argv])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="cmd", required=True)
    sub.add_parser("list")
    c = sub.add_parser("check")
    c.add_argument("suts", nargs="*")
    r = sub.add_parser("run")
    r.add_argument("--sut")
    r.add_argument("--work")
    r.add_argument("--rounds", type=int, default=3)
    r.add_argument("--secs", type=int, default=6)
    r.add_argument("--out")
    r.add_argument("--max-other", type=float, default=0.15,
                   help="measure again where more cores than this went to other programs or were stolen by the host")
    r.add_argument("--tries", type=int, default=3)
    t = sub.add_parser("report")
    t.add_argument("files", nargs="+")
    q = sub.add_parser("ratios")
    q.add_argument("files", nargs="+")
    q.add_argument("--of", default="signet")
    o = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, too
    if o.cmd in ("check", "run") and not os.environ.get("BENCH_NO_NETNS"):
        isolate()
    if o.cmd == "list":
        for n, a in adapters().items():
            ok, why = a.available()
            print(f"{n:16} {a.version() if ok else 'not available: ' + why}")
    elif o.cmd == "check":
        return check(o)
    elif o.cmd == "run":
        run(o)
    elif o.cmd == "ratios":
        ratios.show(o.files, o.of)
    else:
        report(o)


if __name__ == "__main__":
    sys.exit(main())
