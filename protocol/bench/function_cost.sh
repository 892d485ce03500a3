#!/usr/bin/env bash
# Server time of one publish by the function, and by a two-line script that only does XADD and
# PUBLISH, in one run: usec_per_call of INFO commandstats, for 200 bytes of data.
# Needs redis-server, redis-cli, redis-benchmark and a `sse-publish` (first argument, or in PATH).
set -euo pipefail
publish=${1:-sse-publish}
port=${PORT:-7390}
dir=$(mktemp -d)
redis-server --port "$port" --save "" --dir "$dir" >/dev/null &
server=$!
trap 'kill $server; rm -rf "$dir"' EXIT
cli=(redis-cli -p "$port")
until "${cli[@]}" PING >/dev/null 2>&1; do :; done
"$publish" load --redis "redis://127.0.0.1:$port" >/dev/null
data=$(printf 'x%.0s' $(seq 200))
sha=$("${cli[@]}" SCRIPT LOAD "
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', 1000, '*', 'event', 'chat', 'data', ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[1]) return id")
run() { redis-benchmark -p "$port" -n 20000 -P 16 -q "$@" >/dev/null; }
run FCALL sse_publish 1 sse:room:a event chat data "$data"
run EVALSHA "$sha" 1 sse:room:b "$data"
"${cli[@]}" CONFIG RESETSTAT >/dev/null
for _ in 1 2 3 4 5; do
  run FCALL sse_publish 1 sse:room:a event chat data "$data"
  run EVALSHA "$sha" 1 sse:room:b "$data"
done
"${cli[@]}" INFO commandstats | tr -d '\r' | awk -F'[:,=]' '
  /cmdstat_fcall:/ { f = $7 } /cmdstat_evalsha:/ { e = $7 }
  END { printf "function %.2f us, two-line script %.2f us, ratio %.2f\n", f, e, f / e }'
