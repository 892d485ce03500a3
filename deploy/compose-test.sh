#!/usr/bin/env bash
# Proves docker-compose.yml on a real engine: built and started, watched and published to through the
# balancer; then a gateway killed, each gateway replaced in turn, all gateways away, all under load and
# without one event lost; Redis restarted while events are published.
#
# A stack of its own, on ports of its own, gone at the end with its data. Where there is no engine, or no image for it, it
# says so, and that is no failure; deploy/engine.sh makes both where no image can be pulled.
#
#   deploy/compose-test.sh            STREAMS=2000 deploy/compose-test.sh
set -euo pipefail
cd "$(dirname "$0")/.."

if ! docker info >/dev/null 2>&1 || ! docker compose version >/dev/null 2>&1; then
  echo "compose-test: not run: there is no Docker engine with Compose v2 here"
  exit 0
fi
for image in $(sed -nE 's/^ARG (BUILD|RUNTIME)_IMAGE=//p' deploy/Dockerfile) $(docker compose config --images | grep -v '^sse-gateway:' | sort -u); do
  if ! docker image inspect "$image" >/dev/null 2>&1 && ! docker pull --quiet "$image" >/dev/null 2>&1; then
    echo "compose-test: not run: the image $image is not here and cannot be pulled (deploy/engine.sh makes stand-ins on Debian)"
    exit 0
  fi
done

streams=${STREAMS:-600}
project=sse-gateway-test
# No container may have more descriptors than the engine has.
hard=$(ulimit -Hn)
if [ "$hard" = unlimited ] || [ "$hard" -gt 65536 ]; then hard=65536; fi
export NOFILE=${NOFILE:-$hard} TAG=test PUBLISH_KEY=secret-of-this-test
export BIND=${BIND:-127.0.0.1:18080} REDIS_BIND=${REDIS_BIND:-127.0.0.1:16379} PROMETHEUS_BIND=${PROMETHEUS_BIND:-127.0.0.1:19090}
site=http://$BIND
work=$(mktemp -d)
began=$SECONDS

say() { printf 'compose-test: %3d s  %s\n' $((SECONDS - began)) "$*"; }
fail() {
  say "FAILED: $*"
  exit 1
}
compose() { docker compose --project-name "$project" --progress quiet "$@"; }

watcher=
cleanup() {
  status=$?
  if [ -n "$watcher" ]; then kill "$watcher" 2>/dev/null || true; fi
  if [ "$status" != 0 ]; then
    compose ps -a >&2 || true
    compose logs --tail 25 >&2 || true
    docker logs --tail 40 "$project-load" >&2 2>/dev/null || true
  fi
  docker rm -f "$project-load" >/dev/null 2>&1 || true
  compose down -v --remove-orphans >/dev/null 2>&1 || true
  rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT

# eventually SECONDS WHAT COMMAND...: until the command succeeds.
eventually() {
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ "$SECONDS" -ge "$until" ]; then fail "$what"; fi
    sleep 0.3
  done
}

# One of the programs, inside the stack's network.
program() {
  local name=$1
  shift
  docker run --rm -i --no-healthcheck --network "${project}_default" --env SSE_REDIS__URL=redis://redis:6379 \
    --entrypoint "$name" "sse-gateway:$TAG" "$@"
}

# balancer METRIC: a figure of HAProxy, such as haproxy_backend_active_servers{proxy="streams"}.
balancer() {
  compose exec -T haproxy bash -c 'exec 3<>/dev/tcp/127.0.0.1/8404
    printf "GET /metrics?scope=backend HTTP/1.0\r\n\r\n" >&3; cat <&3' | awk -v metric="$1" '$1 == metric { print int($2) }'
}
nodes_are() { [ "$(balancer 'haproxy_backend_active_servers{proxy="streams"}')" = "$1" ]; }
streams_are() { [ "$(balancer 'haproxy_backend_current_sessions{proxy="streams"}')" -ge "$1" ]; }
prometheus_counts() {
  local answer
  answer=$(compose exec -T prometheus promtool query instant http://127.0.0.1:9090 'count(up{job="sse-gateway"} == 1)')
  [[ $answer == *"=> $1 @"* ]]
}

# load_begins SECONDS: streams through the balancer, events through Redis; returns when all are open.
load_begins() {
  docker run -d --name "$project-load" --no-healthcheck --network "${project}_default" --ulimit "nofile=$NOFILE:$NOFILE" \
    --entrypoint sse-loadtest "sse-gateway:$TAG" run --url http://haproxy:8080 --redis redis://redis:6379 \
    -c "$streams" -r 20 --rate 100 -d "${1}s" --connect-rate 300 --patience 60s --quiet >/dev/null
  eventually 60 "the streams of the load do not open" streams_are "$streams"
}
# load_ends WHAT: it must have lasted until now, and every client must have every event, once, in order.
load_ends() {
  [ "$(docker inspect -f '{{.State.Running}}' "$project-load")" = true ] || fail "$1: the load ended before that was done: $(docker logs --tail 3 "$project-load" 2>&1)"
  eventually 60 "$1: not all streams came back" streams_are "$streams"
  local code
  code=$(docker wait "$project-load")
  docker logs "$project-load" >"$work/load.log" 2>&1
  [ "$code" = 0 ] || fail "$1: sse-loadtest ended with $code"
  docker rm "$project-load" >/dev/null
  say "$1: $streams streams, every event once and in order"
  grep -E 'deliveries:|closed on us|^ *delivery ' "$work/load.log" | sed 's/^ */                        /' || true
  # The median. A balancer that keeps events back does so for 200 ms.
  awk '$1 == "delivery" && ($3 == "s" || $3 == "ms" && $2 > 150) { exit 1 }' "$work/load.log" || fail "$1: events are late"
}

compose up -d --build --wait --wait-timeout 300
nodes=$(compose ps -q gateway | wc -l)
[ "$nodes" = 3 ] || fail "there are $nodes gateways"
eventually 15 "HAProxy does not find three gateways" nodes_are 3
say "built and started: three gateways behind HAProxy"

for container in $(compose ps -q gateway); do
  facts=$(docker inspect -f '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}' "$container")
  [ "$facts" = "65532:65532 true [ALL]" ] || fail "a gateway runs as $facts"
done

program cat /etc/ssl/certs/ca-certificates.crt </dev/null | grep -c 'BEGIN CERTIFICATE' >/dev/null || fail "the image has no CA certificates, which rediss:// needs"

# page PATH TEXT
page() {
  curl -fsS -o "$work/page" "$site/$1" && grep -q "$2" "$work/page" || fail "there is no /$1"
}
page "" '<title>Live room'
page ticker '<title>Stock ticker'
for file in demo/app.js demo/stream.js ticker.js ticker.css; do page "$file" '}'; done
say "the pages are there"

# watch ROOM: its events, one data line each, in $work/ROOM.
watch() {
  curl -fsSN "$site/rooms/$1/events?lastEventId=0-0" >"$work/$1" 2>/dev/null &
  watcher=$!
  eventually 10 "the stream of $1 does not open" grep -q 'event: stream.open' "$work/$1"
}
watch demo
compose exec -T redis redis-cli FCALL sse_publish 1 sse:room:demo event chat data from-the-function >/dev/null
compose exec -T redis redis-cli XADD sse:room:demo MAXLEN '~' 1000 '*' event chat data from-xadd >/dev/null
curl -fsS -d '{"event":"chat","data":"from-http"}' "$site/rooms/demo/events" >/dev/null
program sse-publish demo --event chat --data from-the-cli >/dev/null
for way in function xadd http cli; do
  eventually 10 "an event does not arrive: $way" grep -qE "^data: from-(the-)?$way\$" "$work/demo"
done
refused=$(curl -sS -o /dev/null -w '%{http_code}' -d hi "$site/rooms/closed/events")
[ "$refused" = 401 ] || fail "publishing in a room that is not open is answered $refused"
curl -fsS -o /dev/null -H 'Authorization: Bearer secret-of-this-test' -d hi "$site/rooms/closed/events" || fail "the key does not open a room"
kill "$watcher"
watch stocks
eventually 10 "there are no prices" grep -q '^event: price' "$work/stocks"
kill "$watcher"
say "a room watched through the balancer, published to in four ways; the ticker ticks"

load_begins 30
read -r victim < <(compose ps -q gateway)
docker kill "$victim" >/dev/null
load_ends "a gateway was killed"
compose up -d --no-recreate --wait --wait-timeout 60 gateway
eventually 15 "HAProxy does not find the gateway again" nodes_are 3

load_begins 90
for container in $(compose ps -q gateway); do
  docker stop "$container" >/dev/null
  docker rm "$container" >/dev/null
  compose up -d --no-deps --no-recreate --wait --wait-timeout 60 gateway
  eventually 15 "HAProxy does not find the new gateway" nodes_are 3
done
load_ends "each gateway was replaced in turn"

load_begins 45
compose stop gateway
eventually 15 "HAProxy still has a gateway" nodes_are 0
answer=$(curl -sS -i --max-time 5 -H 'Accept: text/event-stream' "$site/rooms/demo/events")
grep -q '^HTTP/1.1 200' <<<"$answer" && grep -q '^retry: [0-9]' <<<"$answer" || fail "without a gateway a stream is answered: $answer"
compose start gateway
eventually 60 "HAProxy does not find the gateways again" nodes_are 3
load_ends "all gateways were away"

watch restart
{ seq 200 | program sse-publish restart --format text --rate 25 >/dev/null || touch "$work/unpublished"; } &
publisher=$!
eventually 30 "nothing is published" grep -q '^data: 40$' "$work/restart"
compose restart redis
wait "$publisher"
[ ! -e "$work/unpublished" ] || fail "sse-publish gave up"
eventually 30 "the last event does not arrive" grep -q '^data: 200$' "$work/restart"
kill "$watcher" 2>/dev/null || fail "the stream did not outlive the restart of Redis"
grep -oE '^data: [0-9]+$' "$work/restart" | cut -d' ' -f2 | cmp -s - <(seq 200) || fail "events are lost or doubled"
say "Redis was restarted: one stream, 200 of 200 events, once and in order"

compose up -d --no-recreate --scale gateway=5 --wait --wait-timeout 60 gateway
eventually 20 "HAProxy does not find five gateways" nodes_are 5
eventually 30 "Prometheus does not find five gateways" prometheus_counts 5
compose exec -T prometheus promtool check config /etc/prometheus/prometheus.yml >"$work/file" || fail "$(cat "$work/file")"
say "five gateways are found, by HAProxy and by Prometheus"

say "all of it works"
