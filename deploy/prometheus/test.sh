#!/usr/bin/env bash
# Runs every query of the dashboards and every alert against a real Prometheus that scrapes two gateways under a small
# load: each query has to find data, none may fail. Needs prometheus, promtool, redis-server and python3.
set -euo pipefail
cd "$(dirname "$0")"

for program in prometheus promtool redis-server python3; do
  if ! command -v "$program" > /dev/null; then
    echo "not run: $program is not installed" >&2
    # Where CI is set, a test that is left out is one that fails.
    [ -z "${CI:-}" ] && exit 0 || exit 1
  fi
done

bin=${CARGO_TARGET_DIR:-../../target}/debug
python3 ../grafana/dashboards.py --check
promtool check rules alerts.yml > /dev/null
promtool test rules alerts_test.yml

work=$(mktemp -d)
trap 'kill $(jobs -p) 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT
read -r redis prometheus a b admin_a admin_b < <(../free_ports.py 6)
redis-server --port "$redis" --save "" --appendonly no --dir "$work" > "$work/redis.log" &
cat > "$work/prometheus.yml" << CONFIG
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: ["$PWD/alerts.yml"]
scrape_configs:
  - job_name: sse-gateway
    static_configs: [{ targets: ["127.0.0.1:$admin_a", "127.0.0.1:$admin_b"] }]
CONFIG
# A control group with a limit of memory, as a container sees it, where the system lets us put one in its place.
mkdir "$work/cgroup"
echo 1000000000 > "$work/cgroup/memory.max"
echo 100000000 > "$work/cgroup/memory.current"
limited() {
  if unshare --user --map-root-user --mount true 2> /dev/null; then
    exec unshare --user --map-root-user --mount \
      sh -c 'mount --bind "$0" /sys/fs/cgroup && exec "$@"' "$work/cgroup" "$@"
  fi
  exec "$@"
}
export SSE_METRICS__ROOM_CLASSES='load=load*'
for ports in "$a $admin_a" "$b $admin_b"; do
  read -r port admin <<< "$ports"
  limited "$bin/sse-gateway" --redis "redis://127.0.0.1:$redis" --listen "127.0.0.1:$port" --admin-listen "127.0.0.1:$admin" \
    --publish-key k --log warn > "$work/gateway-$port.log" 2>&1 &
done
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" \
  --web.listen-address="127.0.0.1:$prometheus" > "$work/prometheus.log" 2>&1 &
curl --silent --fail --retry 60 --retry-delay 1 --retry-all-errors "http://127.0.0.1:$admin_a/readyz" > /dev/null
curl --silent --fail --retry 60 --retry-delay 1 --retry-all-errors "http://127.0.0.1:$admin_b/readyz" > /dev/null
curl --silent --fail "http://127.0.0.1:$admin_a/metrics" | promtool check metrics

"$bin/sse-loadtest" run --url "http://127.0.0.1:$a" --url "http://127.0.0.1:$b" --redis "redis://127.0.0.1:$redis" \
  -c 100 -r 10 --rate 100 -d 12s --churn 20/s -q > "$work/load.txt" &
load=$!
curl --silent --fail -H 'Authorization: Bearer k' -d hi "http://127.0.0.1:$a/rooms/x/events" > /dev/null
# One that is refused.
curl --silent -H 'Authorization: Bearer none' -d hi "http://127.0.0.1:$a/rooms/x/events" > /dev/null
python3 queries.py "http://127.0.0.1:$prometheus"
wait "$load"
