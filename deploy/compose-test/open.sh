# shellcheck shell=bash disable=SC2034,SC2154
# The stage `open` of deploy/compose-test.sh, which sources it.

load_is "$streams" --url http://haproxy:8080 -c "$streams"

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
curl -fsS -o /dev/null -H "Authorization: Bearer $PUBLISH_KEY" -d hi "$site/rooms/closed/events" || fail "the key does not open a room"
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
