#!/usr/bin/env bash
# A small load end to end: two gateways on a Redis of their own, a run, a storm with a node that is killed, a
# comparison. Nothing here looks at a time; each run fails if a single event is lost, repeated or out of order.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${CARGO_TARGET_DIR:-target}/${PROFILE:-debug}
work=$(mktemp -d)
pids=()
cleanup() {
  status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$status" != 0 ]; then tail -n 20 "$work"/*.log >&2 || true; fi
  rm -rf "$work"
}
trap cleanup EXIT

wait_for() { # URL
  for _ in $(seq 300); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return; fi
    sleep 0.05
  done
  echo "nothing answers on port $1" >&2
  exit 1
}

read -r redis one two < <(deploy/free_ports.py 3)
redis-server --port "$redis" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >"$work/redis.log" 2>&1 &
pids+=($!)
wait_for "$redis"
for address in "$one" "$two"; do
  "$bin/sse-gateway" --redis "redis://127.0.0.1:$redis" --listen "127.0.0.1:$address" --admin-listen 127.0.0.1:0 \
    --dev --log warn >"$work/gateway-$address.log" 2>&1 &
  pids+=($!)
done
wait_for "$one"
wait_for "$two"

load=("$bin/sse-loadtest")
to=(--url "http://127.0.0.1:$one,http://127.0.0.1:$two" --redis "redis://127.0.0.1:$redis" --quiet)
echo "smoke: a run over HTTP, through XADD, and through the function with clients that leave and return"
"${load[@]}" run "${to[@]}" --publish http -c 200 -r 10 --rate 100 -d 1s >"$work/run-http.log"
"${load[@]}" run "${to[@]}" --publish xadd -c 200 -r 10 --rate 100 -d 1s --spread zipf >"$work/run-xadd.log"
"${load[@]}" run "${to[@]}" -c 200 -r 10 --rate 200 -d 2s --churn 50/s --away 200ms --stalled 1 --slow 2% \
  --workers 2 --html "$work/run.html" --json "$work/run.json" >"$work/run.log"
grep -q '</html>' "$work/run.html"
echo "smoke: the same clients, twenty on each connection over HTTP/2"
"${load[@]}" run "${to[@]}" -c 200 -r 10 --rate 200 -d 2s --churn 50/s --away 200ms --http2 20 >"$work/run-http2.log"
echo "smoke: a node is killed, then all streams are cut"
"${load[@]}" storm "${to[@]}" -c 200 -r 10 --rate 200 -d 3s --kill "${pids[2]}" --spread-over 500ms >"$work/storm.log"
echo "smoke: a comparison"
"${load[@]}" compare --gateway "$bin/sse-gateway" --quick --rounds 1 --systems gateway,floor,plain,gateway-redis,relay \
  --loads fanout,rooms-redis --quiet --html "$work/compare.html" >"$work/compare.log"
grep -q '</html>' "$work/compare.html"
echo "smoke: tokens, TLS and HTTP/2"
"${load[@]}" compare --gateway "$bin/sse-gateway" --quick --rounds 1 --systems gateway --loads tokens,tls,http2 --quiet \
  >"$work/compare-exposed.log"
if grep 'Not measured' "$work/compare-exposed.log"; then exit 1; fi
grep -qE '\b([0-9]+) of \1 runs clean' "$work/compare-exposed.log"
echo "smoke: clean"
