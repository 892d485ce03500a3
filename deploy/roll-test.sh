#!/usr/bin/env bash
# Rolls three nodes behind haproxy.cfg under load, three times: every node is stopped by SIGTERM and started again, one after
# the other. Every client has to get every event once, in order, and to come back by itself; the closing of a node's streams
# has to be spread over its drain time: no tenth of it may see more than twice the mean.
#
#   deploy/roll-test.sh [STREAMS [ROLLS]]      defaults: 2000 3; the programs are those of target/release
set -euo pipefail
cd "$(dirname "$0")/.."

streams=${1:-2000} rolls=${2:-3}
bin=${BIN:-${CARGO_TARGET_DIR:-target}/release}
delay=2 spread=10
for program in redis-server haproxy curl python3 "$bin/sse-gateway" "$bin/sse-loadtest"; do
  command -v "$program" > /dev/null || { echo "roll-test: $program is missing" >&2; exit 1; }
done
work=$(mktemp -d)
declare -A pids
trap 'kill "${pids[@]}" 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT

first=${PORT:-18300}
redis-server --port $((first - 1)) --save '' --appendonly no --dir "$work" > "$work/redis.log" & pids[redis]=$!

start() {
  local port=$((first + $1))
  "$bin/sse-gateway" --redis "redis://127.0.0.1:$((first - 1))" --node "node-$1" --listen "127.0.0.1:$port" \
    --publish-key k --log info --config "$work/gateway.toml" >> "$work/node-$1.log" 2>&1 & pids[$1]=$!
  curl --silent --fail --retry 100 --retry-delay 0 --retry-all-errors --output /dev/null "http://127.0.0.1:$((port + 1000))/readyz"
}

printf '[drain]\ndelay = "%ss"\nspread = "%ss"\ngrace = "%ss"\n' $delay $spread $((delay + spread + 20)) > "$work/gateway.toml"
for node in 1 2 3; do start $node; done
BIND=127.0.0.1:$first ERRORS=$PWD/deploy/errors \
  GATEWAY_1=127.0.0.1:$((first + 1)) GATEWAY_2=127.0.0.1:$((first + 2)) GATEWAY_3=127.0.0.1:$((first + 3)) \
  GATEWAY_1_ADMIN_PORT=$((first + 1001)) GATEWAY_2_ADMIN_PORT=$((first + 1002)) GATEWAY_3_ADMIN_PORT=$((first + 1003)) \
  haproxy -f deploy/haproxy.cfg > "$work/haproxy.log" 2>&1 & pids[haproxy]=$!
curl --silent --fail --retry 50 --retry-delay 0 --retry-all-errors --output /dev/null "http://127.0.0.1:$first/rooms/x"

duration=$((rolls * 3 * (delay + spread + 8) + 10))
"$bin/sse-loadtest" run --url "http://127.0.0.1:$first" --redis "redis://127.0.0.1:$((first - 1))" --connections "$streams" --rooms 20 \
  --rate 100 --duration "${duration}s" --json "$work/load.json" -q > /dev/null & pids[load]=$!
# All are open and events flow once the load tool has published.
until redis-cli -p $((first - 1)) info commandstats | grep -q cmdstat_fcall:; do sleep 0.2; done

for roll in $(seq "$rolls"); do
  for node in 1 2 3; do
    admin=http://127.0.0.1:$((first + node + 1000))/metrics
    kill -TERM "${pids[$node]}"
    while answer=$(curl --silent --max-time 1 "$admin"); do
      awk -v at="$(date +%s.%N)" '/^sse_gateway_streams_closed_total.reason="drain"/ { print at, $2 }' <<< "$answer"
      sleep 0.1
    done > "$work/drain-$roll-$node"
    wait "${pids[$node]}"
    start $node
    # The balancer looks every half second.
    sleep 1
    echo "roll $roll: node $node is back" >&2
  done
done
wait "${pids[load]}" || { echo "roll-test: clients missed events" >&2; python3 -c "
import json, sys
print(json.dumps(json.load(open(sys.argv[1]))['checking'], indent=1))" "$work/load.json" >&2; exit 1; }
python3 - "$spread" "$work" << 'REPORT'
import json, pathlib, sys

spread, work = float(sys.argv[1]), pathlib.Path(sys.argv[2])
report = json.loads((work / "load.json").read_text())
delivering, checking = report["delivering"], report["checking"]
print(f"{delivering['received']:,} deliveries: none lost, repeated or out of order; {checking['closed']:,} streams were closed and came back")
worst, sums = 0, [0] * 10
for path in sorted(work.glob("drain-*")):
    points = [tuple(map(float, line.split())) for line in path.read_text().splitlines()]
    closed = [(at, count) for at, count in points if count]
    if not closed:
        sys.exit(f"{path.name}: nobody saw a stream closed")
    begin = max((at for at, count in points if not count), default=closed[0][0])
    end = closed[-1][1]
    tenths = [0] * 10
    before = 0
    for at, count in closed:
        tenths[min(9, int((at - begin) / spread * 10))] += count - before
        before = count
    sums = [a + b for a, b in zip(sums, tenths)]
    worst = max(worst, max(tenths) / (end / 10))
most = max(sums)
for number, count in enumerate(sums):
    print(f"{number * 10:3} to {number * 10 + 10:3} % of the drain time  {count:6,.0f}  {'█' * round(40 * count / most)}")
print(f"the busiest tenth of any drain saw {worst:.2f} times the mean")
sys.exit(worst > 2)
REPORT
