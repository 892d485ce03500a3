#!/usr/bin/env bash
# Server time of one publish by the function, and by a two-line script that only does XADD and
# PUBLISH, in one run: usec_per_call of INFO commandstats, 50,000 calls each with 200 bytes of data,
# in turns, after a warm-up. Needs redis-server, redis-cli and redis-benchmark.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
redis-server --port 0 --unixsocket "$dir/redis" --save "" --dir "$dir" >"$dir/log" &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$dir"' EXIT
cli=(redis-cli -s "$dir/redis")
until "${cli[@]}" PING >/dev/null 2>&1; do kill -0 "$server"; done

# As protocol::publish::library() makes it.
{
  printf '#!lua name=sse\n'
  head -n 1 src/publish.lua
  printf 'local function publish(KEYS, ARGV)\n'
  tail -n +2 src/publish.lua
  printf "\nend\nredis.register_function('sse_publish', publish)\n"
} | "${cli[@]}" -x FUNCTION LOAD >/dev/null
sha=$("${cli[@]}" SCRIPT LOAD "\
redis.call('XADD', KEYS[1], 'MAXLEN', '~', 1000, '*', 'event', 'chat', 'data', ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[1])")
data=$(printf 'x%.0s' $(seq 200))

run() { redis-benchmark -s "$dir/redis" -n 10000 -P 16 -q "$@" >/dev/null; }
both() {
  run FCALL sse_publish 1 sse:room:a event chat data "$data"
  run EVALSHA "$sha" 1 sse:room:b "$data"
}
both
"${cli[@]}" CONFIG RESETSTAT >/dev/null
for _ in 1 2 3 4 5; do both; done
"${cli[@]}" INFO commandstats | tr -d '\r' | awk -F'[:,=]' '
  /cmdstat_fcall:/ { f = $7; fails += $11 } /cmdstat_evalsha:/ { e = $7; fails += $11 }
  END {
    printf "function %.2f us, two-line script %.2f us, ratio %.2f\n", f, e, f / e
    exit fails > 0 || f > 3.5 * e
  }'
