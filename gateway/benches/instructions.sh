#!/usr/bin/env bash
# Instructions per operation, compared with instructions.txt within 5 %. `--update` writes it anew.
# Timings differ from run to run on a shared machine; instructions hardly do.
set -euo pipefail
cd "$(dirname "$0")"

command -v valgrind >/dev/null || { echo "instructions: valgrind is not installed, nothing counted"; exit 0; }
binary=$(cargo bench -q -p gateway --bench instructions --no-run --message-format=json |
  sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -x "$binary" ] || { echo "instructions: the benchmark was not built" >&2; exit 1; }

# Of WORK COUNT, all in all.
total() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$binary" "$1" "$2" 2>&1 |
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}

# Twice as much less once as much: what is done before and after cancels out.
per_operation() {
  local once twice
  once=$(total "$1" "$2")
  twice=$(total "$1" "$(($2 * 2))")
  echo $(((twice - once) / $2))
}

counts=$(mktemp)
trap 'rm -f "$counts"' EXIT
{
  echo "encode $(per_operation encode 20000)"
  echo "append $(per_operation append 8192)"
  echo "sweep-256 $(per_operation sweep 200)"
} >"$counts"

if [ "${1:-}" = --update ]; then
  cp "$counts" instructions.txt
  cat instructions.txt
  exit
fi
awk 'NR == FNR { was[$1] = $2; next }
  { change = was[$1] ? ($2 / was[$1] - 1) * 100 : 0
    printf "%-10s %9d instructions, baseline %9d, %+.1f %%\n", $1, $2, was[$1], change
    if (!was[$1] || change > 5 || change < -5) bad = 1 }
  END { if (bad) print "instructions: off the baseline by more than 5 %; if that is meant: instructions.sh --update"; exit bad }
' instructions.txt "$counts"
