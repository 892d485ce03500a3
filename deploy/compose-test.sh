#!/usr/bin/env bash
# Proves docker-compose.yml on a real engine, in two stages (deploy/compose-test):
#
#   open   as it is: built and started, watched and published to through the balancer; then a gateway killed, each
#          gateway replaced in turn, all gateways away, all under load and without one event lost; Redis restarted while
#          events are published
#   tls    with deploy/compose/tls.yml: TLS, HTTP/2, tokens and keys as secrets; who is let in; a certificate renewed and
#          each gateway replaced, under load
#
# A stack of its own, on ports of its own, gone at the end with its data. Where there is no engine, or no image for it, it
# says so, and that is no failure; deploy/engine.sh makes both where no image can be pulled.
#
#   deploy/compose-test.sh            STREAMS=2000 deploy/compose-test.sh            STAGES=tls deploy/compose-test.sh
# What only the stages use looks unused here.
# shellcheck disable=SC2034
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

stages=${STAGES:-open tls}
streams=${STREAMS:-600}
project=sse-gateway-test
# No container may have more descriptors than the engine has.
hard=$(ulimit -Hn)
if [ "$hard" = unlimited ] || [ "$hard" -gt 65536 ]; then hard=65536; fi
export NOFILE=${NOFILE:-$hard} TAG=test PUBLISH_KEY=secret-of-this-test
export BIND=${BIND:-127.0.0.1:18080} REDIS_BIND=${REDIS_BIND:-127.0.0.1:16379} PROMETHEUS_BIND=${PROMETHEUS_BIND:-127.0.0.1:19090}
export TLS_BIND=${TLS_BIND:-127.0.0.1:18443}
site=http://$BIND
work=$(mktemp -d)
began=$SECONDS

say() { printf 'compose-test: %3d s  %s\n' $((SECONDS - began)) "$*"; }
fail() {
  say "FAILED: $*"
  exit 1
}
files=(--file docker-compose.yml)
compose() { docker compose "${files[@]}" --project-name "$project" --progress quiet "$@"; }

watcher='' helpers=''
cleanup() {
  status=$?
  # shellcheck disable=SC2086
  kill $watcher $helpers 2>/dev/null || true
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

# load_is CONNECTIONS ARGUMENT...: how many connections the balancer has with all streams open, and the load's arguments.
load_is() {
  connections=$1
  shift
  load=("$@")
}
# load_begins SECONDS: streams through the balancer, events through Redis; returns when all are open.
load_begins() {
  docker run -d --name "$project-load" --no-healthcheck --network "${project}_default" --ulimit "nofile=$NOFILE:$NOFILE" \
    --volume "$work:/work:ro" --entrypoint sse-loadtest "sse-gateway:$TAG" run --redis redis://redis:6379 "${load[@]}" \
    -r 20 --rate 100 -d "${1}s" --connect-rate 300 --patience 60s --quiet >/dev/null
  eventually 60 "the streams of the load do not open" streams_are "$connections"
}
# load_ends WHAT: it must have lasted until now, and every client must have every event, once, in order.
load_ends() {
  [ "$(docker inspect -f '{{.State.Running}}' "$project-load")" = true ] || fail "$1: the load ended before that was done: $(docker logs --tail 3 "$project-load" 2>&1)"
  eventually 60 "$1: not all streams came back" streams_are "$connections"
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

for stage in $stages; do
  # shellcheck disable=SC1090
  . "deploy/compose-test/$stage.sh"
  compose down -v --remove-orphans >/dev/null
done
say "all of it works"
