"""How one system compares with the others: for each round the ratio of its figure to each peer's in the same round,
then the median over the rounds. A round in which the host stole more than 3 % of the CPU is dropped, on both sides."""
import json
import statistics

MOST_STOLEN_PCT = 3.0
# workload -> (what is compared, where it stands, how it is scaled, whether less is better)
FIGURES = {
    "W1": ("CPU of the pair per HTTP/1.1 request, us", lambda r: r["cpu_pair_per_unit"] * 1000, True),
    "W2": ("CPU of the pair per HTTP/2 request, us", lambda r: r["cpu_pair_per_unit"] * 1000, True),
    "W3@1000": ("added p99 at 1,000 requests/s, us", lambda r: r.get("added_p99_us"), True),
    "W3@4000": ("added p99 at 4,000 requests/s, us", lambda r: r.get("added_p99_us"), True),
    "W4-up": ("one TCP stream to the server, GB/s", lambda r: r["gb_per_s"], False),
    "W4-down": ("one TCP stream to the client, GB/s", lambda r: r["gb_per_s"], False),
    "W5-http": ("CPU of the pair per new client connection, HTTP, us", lambda r: r["cpu_pair_per_unit"] * 1000, True),
    "W5-tcp": ("CPU of the pair per full mutual handshake, TCP, us", lambda r: r["cpu_pair_per_unit"] * 1000, True),
    "W6-h1": ("RSS per idle HTTP connection, larger side, KiB", lambda r: idle(r), True),
    "W6-tcp": ("RSS per idle TCP connection, larger side, KiB", lambda r: idle(r), True),
    "fresh": ("RSS of a fresh sidecar, larger side, MiB", lambda r: max(r["fresh"][k]["rss"] for k in r["fresh"]) / 1024, True),
}


def idle(r):
    return max((r["held"][k]["rss"] - r["fresh"][k]["rss"]) / 1000 for k in r["held"])


def load(files):
    """{(workload, round): {system: figure}}"""
    rounds = {}
    for number, name in enumerate(files):
        for line in open(name):
            r = json.loads(line)
            if "work" not in r or "failed" in r or r["sut"] == "direct":
                continue
            if r.get("steal_pct", 0) > MOST_STOLEN_PCT:
                continue
            for work in (r["work"], "fresh") if r["work"] == "W6-h1" else (r["work"],):
                if work in FIGURES:
                    figure = FIGURES[work][1](r)
                    if figure is not None:
                        rounds.setdefault((work, (number, r["round"])), {})[r["sut"]] = figure
    return rounds


def show(files, of):
    rounds = load(files)
    print("| what | system | its figure | " + of + " | ratio, median (min-max) | rounds |\n|---|---|---|---|---|---|")
    for work, (what, _, less) in FIGURES.items():
        here = [v for (w, _), v in sorted(rounds.items()) if w == work and of in v]
        for peer in sorted({p for v in here for p in v if p != of}):
            both = [v for v in here if peer in v and v[peer] > 0]
            if not both:
                continue
            ratio = [v[of] / v[peer] for v in both]
            print(f"| {what} ({'less' if less else 'more'} is better) | {peer} | {statistics.median(v[peer] for v in both):.2f} "
                  f"| {statistics.median(v[of] for v in both):.2f} | {statistics.median(ratio):.2f} ({min(ratio):.2f}-{max(ratio):.2f}) "
                  f"| {len(both)} |")
