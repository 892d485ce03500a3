#!/usr/bin/env bash
# Runs each fuzz target for some seconds (FUZZ_SECONDS, 5 unless set), beginning with its corpus: `run.sh [TARGET…]`.
# With stable Rust: what cargo-fuzz would do without a sanitizer, which the parsers, being free of unsafe code, do not need.
# What is found on the way is kept in `found`; an input that fails stands in `artifacts`: give it to the target's program to
# see it fail again.
set -euo pipefail

cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-5}
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, build scripts and macros are built without these.
flags="--cfg fuzzing -Cpasses=sancov-module"
for flag in -sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters -sanitizer-coverage-pc-table \
  -sanitizer-coverage-trace-compares -simplifycfg-branch-fold-threshold=0; do
  flags+=" -Cllvm-args=$flag"
done
flags+=" -Cdebug-assertions -Coverflow-checks"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
RUSTFLAGS="${RUSTFLAGS:-} $flags" cargo build --release --locked --quiet --target "$host"

if [ $# = 0 ]; then
  for file in fuzz_targets/*.rs; do
    set -- "$@" "$(basename "$file" .rs)"
  done
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "$@"; do
  mkdir -p artifacts "found/$target"
  if ! "$CARGO_TARGET_DIR/$host/release/$target" "found/$target" "corpus/$target" -max_total_time="$seconds" -timeout=5 \
    -rss_limit_mb=1024 -max_len=2048 -print_final_stats=1 -artifact_prefix="artifacts/$target-" >"$log" 2>&1; then
    cat "$log"
    echo "fuzz: $target fails: see above, and gateway/fuzz/artifacts" >&2
    exit 1
  fi
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  coverage=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges, \2 features/p' "$log" | tail -n 1)
  echo "fuzz: $target: $executions executions, $coverage"
done
