#!/usr/bin/env bash
# The comparison that `make bench` prints: Signet's pair beside nginx, HAProxy and Envoy on the same work, five
# alternating rounds, then medians of per-round ratios, then instruction counts. ROUNDS, WORK and SECS narrow it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${BENCH_WORK:-/tmp/mesh-bench}
out=$work/results-$(date +%Y%m%d-%H%M%S).jsonl
"$here/bench.py" check
"$here/bench.py" run --rounds "${ROUNDS:-5}" --secs "${SECS:-4}" ${WORK:+--work "$WORK"} ${SUT:+--sut "$SUT"} --out "$out"
"$here/bench.py" report "$out"
"$here/bench.py" ratios "$out"
"$here/user_context.py"
[ -n "${NO_CALLGRIND:-}" ] || "$here/instructions.py"
