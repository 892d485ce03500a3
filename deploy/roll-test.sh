#!/usr/bin/env bash
# Rolls three nodes behind the shipped configuration of a balancer under load: every node is stopped by SIGTERM and started again,
# one after the other. Every client has to get every event once and in order, and to come back by itself. That goes for the clients of
# sse-loadtest and for tabs of real browsers, with a bare EventSource: none may end closed. And clients have to come back
# evenly: no tenth of a drain time may see more than twice the mean.
#
#   deploy/roll-test.sh [STREAMS [ROLLS]]      defaults: 2000 3; the programs are those of target/release
#
#   BALANCER=nginx     behind nginx.conf instead of haproxy.cfg
#   SPREAD=5           drain.spread in seconds, 10 by default
#   OLD=/path/to/sse-gateway     an older version: the nodes begin with it, the first roll brings the new one, the second
#                      the old one again, and so on; an sse-publish beside it publishes too
#   PORT=18300         of the balancer; the nodes have the next ones
#   CHROMIUM, FIREFOX  which browsers; empty is none of that kind. By default those that are installed
set -euo pipefail
cd "$(dirname "$0")/.."

streams=${1:-2000} rolls=${2:-3}
balancer=${BALANCER:-haproxy}
bin=${BIN:-${CARGO_TARGET_DIR:-target}/${PROFILE:-release}}
# HAProxy asks every second, twice; nginx does not ask.
delay=2 spread=${SPREAD:-10}
# After the last stream was closed, the last client waits this long, and then a moment: stream.retry and stream.retry_jitter.
back=6
CHROMIUM=${CHROMIUM-$(command -v chromium || command -v chromium-browser || true)}
FIREFOX=${FIREFOX-$(command -v firefox-esr || command -v firefox || true)}
export CHROMIUM FIREFOX

say() { printf 'roll-test: %s\n' "$*" >&2; }
fail() {
  say "FAILED: $*"
  exit 1
}
for program in redis-server redis-cli "$balancer" curl python3 "$bin"/sse-{gateway,loadtest,publish} ${OLD:+"$OLD"}; do
  command -v "$program" > /dev/null || fail "$program is missing"
done
page=gateway/tests/page
if [ -n "$CHROMIUM$FIREFOX" ] && ! command -v node > /dev/null; then
  say "browsers are left out: node is missing"
  CHROMIUM='' FIREFOX=''
fi
if [ -n "$CHROMIUM" ] && [ ! -d $page/node_modules/playwright-core ] && ! npm install --prefix $page --no-audit --no-fund --silent > /dev/null 2>&1; then
  say "Chromium is left out: npm, or its registry for playwright-core, cannot be had"
  CHROMIUM=
fi
[ -n "$CHROMIUM$FIREFOX" ] || [ -z "${CI:-}" ] || fail "no browser is installed"

work=$(mktemp -d)
declare -A pids
cleanup() {
  status=$?
  kill "${pids[@]}" 2> /dev/null || true
  wait 2> /dev/null || true
  if [ "$status" != 0 ]; then tail -n 3 "$work"/*.log >&2 || true; fi
  rm -rf "$work"
}
trap cleanup EXIT

# Ten ports in a row, and those of the admin listeners, that nobody uses. A number that ends in 0: see the nodes behind nginx.
first=${PORT:-$(python3 -c '
import random, socket
def free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
while True:
    first = random.randrange(1100, 2900) * 10
    if all(free(first + port) for port in [-1, 0, 1, 2, 3, 1001, 1002, 1003]):
        break
print(first)')}
redis=redis://127.0.0.1:$((first - 1))
site=http://127.0.0.1:$first
redis() { redis-cli -p $((first - 1)) "$@"; }
answers() { curl --silent --fail --retry 100 --retry-delay 0 --retry-all-errors --output /dev/null "$1" || fail "$2 does not answer"; }

redis-server --port $((first - 1)) --bind 127.0.0.1 --save '' --appendonly no --dir "$work" > "$work/redis.log" & pids[redis]=$!

# start NODE PROGRAM
start() {
  local port=$((first + $1))
  "$2" --redis "$redis" --node "node-$1" --listen "127.0.0.1:$port" --publish-key k --log info --config "$work/gateway.toml" \
    >> "$work/node-$1.log" 2>&1 & pids[$1]=$!
  answers "http://127.0.0.1:$((port + 1000))/readyz" "node $1"
}
printf '[drain]\ndelay = "%ss"\nspread = "%ss"\ngrace = "%ss"\n' "$delay" "$spread" $((delay + spread + 20)) > "$work/gateway.toml"
for node in 1 2 3; do start $node "${OLD:-$bin/sse-gateway}"; done

case $balancer in
  haproxy)
    BIND=127.0.0.1:$first ERRORS=$PWD/deploy/errors \
      GATEWAY_1=127.0.0.1:$((first + 1)) GATEWAY_2=127.0.0.1:$((first + 2)) GATEWAY_3=127.0.0.1:$((first + 3)) \
      GATEWAY_1_ADMIN_PORT=$((first + 1001)) GATEWAY_2_ADMIN_PORT=$((first + 1002)) GATEWAY_3_ADMIN_PORT=$((first + 1003)) \
      haproxy -db -f deploy/haproxy.cfg > "$work/haproxy.log" 2>&1 & pids[haproxy]=$! ;;
  nginx)
    sed -E "s/127\.0\.0\.1:808([0-9])/127.0.0.1:$((first / 10))\1/" deploy/nginx.conf > "$work/nginx.conf"
    nginx -p "$work" -c "$work/nginx.conf" > "$work/nginx.log" 2>&1 & pids[nginx]=$! ;;
  *) fail "there is no configuration for $balancer" ;;
esac
answers "$site/rooms/x" "$balancer"

if [ -n "$CHROMIUM$FIREFOX" ]; then
  node deploy/roll-test/browsers.mjs "$site" tabs "$work"/published-{redis,http}.json ${OLD:+"$work/published-old.json"} \
    > "$work/browsers.log" 2>&1 & pids[browsers]=$!
  until grep -q 'are open' "$work/browsers.log"; do
    kill -0 "${pids[browsers]}" 2> /dev/null || fail "the browsers do not start: $(tail -n 1 "$work/browsers.log")"
    sleep 0.2
  done
  say "$(cat "$work/browsers.log")"
fi

duration=$((rolls * 3 * (delay + spread + back + 2) + 5))
"$bin/sse-loadtest" run --url "$site" --redis "$redis" --connections "$streams" --rooms 20 \
  --rate 100 --duration "${duration}s" --json "$work/load.json" -q > /dev/null & pids[load]=$!
# All are open and events flow once the load tool has published.
until redis info commandstats | grep -q cmdstat_fcall:; do
  kill -0 "${pids[load]}" 2> /dev/null || fail "the load does not begin"
  sleep 0.2
done

# publish NAME PROGRAM FLAG...: numbered events for the browsers, as long as the load lasts.
publish() {
  local name=$1 program=$2
  shift 2
  seq $((duration * 10)) | "$program" tabs --event number --format text --rate 10 --json "$@" > "$work/published-$name.json" \
    2> "$work/publish-$name.log" & pids[publish-$name]=$!
}
publish redis "$bin/sse-publish" --redis "$redis"
SSE_PUBLISH_KEY=k publish http "$bin/sse-publish" --url "$site"
if [ -n "${OLD:-}" ]; then publish old "$(dirname "$OLD")/sse-publish" --redis "$redis"; fi

library() { redis function list withcode libraryname sse | sha256sum; }
for roll in $(seq "$rolls"); do
  program=$bin/sse-gateway version=
  if [ -n "${OLD:-}" ]; then
    version=" (new)"
    if ((roll % 2 == 0)); then program=$OLD version=" (old)"; fi
  fi
  for node in 1 2 3; do
    admins=()
    for other in 1 2 3; do [ $other = $node ] || admins+=("127.0.0.1:$((first + other + 1000))"); done
    echo "$(date +%s.%N | awk -v delay=$delay '{ printf "%.3f", $1 + delay }') node $node" > "$work/drain-$roll-$node"
    deploy/roll-test/sample.py "127.0.0.1:$((first + node + 1000))" "${admins[@]}" >> "$work/drain-$roll-$node" & pids[sample]=$!
    kill -TERM "${pids[$node]}"
    until=$((SECONDS + delay + spread + back))
    wait "${pids[$node]}" || fail "node $node did not end well"
    start $node "$program"
    # Its clients are back when the last one's retry: is over; and the balancer has seen the new one.
    while [ $SECONDS -lt $until ]; do sleep 0.2; done
    kill "${pids[sample]}"
    wait "${pids[sample]}" || fail "the other nodes could not be asked for their metrics"
    unset 'pids[sample]'
    say "roll $roll: node $node is back$version"
  done
  if [ -n "${OLD:-}" ] && [ "$roll" = 1 ]; then loaded=$(library); fi
done
[ -z "${OLD:-}" ] || [ "$loaded" = "$(library)" ] || fail "an older version has replaced the library in Redis"

kill -0 "${pids[load]}" 2> /dev/null || fail "the load ended before the last roll"
wait "${pids[load]}" || {
  python3 -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1]))["checking"], indent=1))' "$work/load.json" >&2 || true
  fail "clients of sse-loadtest missed events"
}
for name in redis http ${OLD:+old}; do
  wait "${pids[publish-$name]}" || fail "publishing by $name: $(tail -n 1 "$work/publish-$name.log")"
  unset "pids[publish-$name]"
done
if [ -n "$CHROMIUM$FIREFOX" ]; then
  kill -USR2 "${pids[browsers]}"
  wait "${pids[browsers]}" || fail "$(tail -n +2 "$work/browsers.log")"
  unset 'pids[browsers]'
  tail -n +2 "$work/browsers.log"
fi
deploy/roll-test/report.py "$work" "$spread"
