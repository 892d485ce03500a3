#!/usr/bin/env bash
# A hundred thousand streams on one machine: gateways, each with a share of the streams, and as many worker processes
# of the load tool. Events flow; then one gateway is killed; then all streams are cut at once.
#
#   loadtest/scale.sh [STREAMS [GATEWAYS [REPORT]]]      defaults: 100000 6 scale
#
# REPORT.json and REPORT.html are written. Each process needs descriptors for its share when one gateway is gone:
# 100,000 streams on five gateways are 20,000 each, which is why one more than needed is started.
set -euo pipefail
cd "$(dirname "$0")/.."

streams=${1:-100000} gateways=${2:-6} report=${3:-scale}
bin=${CARGO_TARGET_DIR:-target}/release
[ -x "$bin/sse-loadtest" ] || cargo build --release
work=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; rm -rf "$work"' EXIT

first=${PORT:-18100} redis=$((${PORT:-18100} - 1))
redis-server --port "$redis" --bind 127.0.0.1 --save '' --appendonly no --dir "$work" >"$work/redis.log" 2>&1 &
pids+=($!)
urls=()
nodes=()
for node in $(seq 0 "$gateways"); do
  port=$((first + node))
  "$bin/sse-gateway" --redis "redis://127.0.0.1:$redis" --listen "127.0.0.1:$port" \
    --admin-listen "127.0.0.1:$((port + 1000))" --shards 1 --node "node-$node" --log warn >"$work/$node.log" 2>&1 &
  pids+=($!)
  nodes+=($!)
  urls+=("http://127.0.0.1:$port")
done
for port in "$redis" $(seq "$first" $((first + gateways))); do
  for _ in $(seq 100); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
    sleep 0.1
  done
done

"$bin/sse-loadtest" storm --url "$(IFS=,; echo "${urls[*]}")" --redis "redis://127.0.0.1:$redis" \
  --connections "$streams" --rooms 1000 --rate "${RATE:-200}" --duration 30s --workers "$gateways" \
  --connect-timeout 180s --patience 60s --kill "${nodes[0]}" --spread-over "${SPREAD:-10s}" \
  --pid "$(IFS=,; echo "${nodes[*]}")" --json "$report.json" --html "$report.html"
