# shellcheck shell=bash disable=SC2034,SC2154
# The stage `tls` of deploy/compose-test.sh, which sources it.

for tool in curl openssl; do
  command -v "$tool" >/dev/null || fail "$tool is missing"
done
files=(--file docker-compose.yml --file deploy/compose/tls.yml)
export SECRETS=$work/secrets
host=events.example.com
mkdir "$SECRETS"
# As the containers' user reads them.
chmod 755 "$work" "$SECRETS"
ready_for_containers() {
  chown 65532 "$@" 2>/dev/null || true
  chmod "$([ "$(id -u)" = 0 ] && echo 400 || echo 444)" "$@"
}
# certificate NAME: NAME.crt, which signs itself, and NAME.key.
certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$host" -addext "subjectAltName=DNS:$host" \
    -keyout "$work/$1.key" -out "$work/$1.crt" 2>/dev/null
}
certificate first
certificate second
cat "$work/first.crt" "$work/second.crt" >"$work/trusted.crt"
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/token.key" 2>/dev/null
openssl pkey -in "$work/token.key" -pubout -out "$SECRETS/token.pem"
key=$(openssl rand -hex 32)
echo "$key" >"$SECRETS/publish-keys"
cp "$work/first.crt" "$SECRETS/tls.crt"
cp "$work/first.key" "$SECRETS/tls.key"
ready_for_containers "$SECRETS"/* "$work/token.key"

compose up -d --build --wait --wait-timeout 300
eventually 15 "HAProxy does not find three gateways" nodes_are 3
say "built and started with TLS: three gateways behind HAProxy"

docker run --rm --no-healthcheck --volume "$work/token.key:/token.key:ro" --entrypoint sse-publish "sse-gateway:$TAG" \
  token make --alg ES256 --key-file /token.key --user ann --subscribe 'chat:*' --publish 'chat:*' >"$work/tokens"
chmod 644 "$work/tokens" "$work/trusted.crt"
token=$(cat "$work/tokens")
port=${TLS_BIND##*:}
# fetch PATH ARGUMENT...
fetch() {
  local path=$1
  shift
  curl -sS --max-time 20 --cacert "$work/trusted.crt" --resolve "$host:$port:${TLS_BIND%:*}" "$@" "https://$host:$port/rooms/$path"
}
# answered WHAT STATUS PATH ARGUMENT...: by both versions of HTTP.
answered() {
  local what=$1 wanted=$2 path=$3 version found
  shift 3
  for version in 1.1 2; do
    # A stream has no end: the head is enough.
    found=$(fetch "$path" "--http$version" -o "$work/body" -w '%{http_version} %{http_code}' --max-time 2 "$@" 2>/dev/null || true)
    [ "$found" = "$version $wanted" ] || fail "$what: $found, not $version $wanted: $(cat "$work/body")"
  done
}
answered "a stream without a token" 401 chat:1/events
answered "a stream of another room" 403 user:bob/events -H "Authorization: Bearer $token"
answered "a room that is open" 200 stocks/events
answered "a stream with Authorization" 200 chat:1/events -H "Authorization: Bearer $token"
answered "a stream with a cookie" 200 chat:1/events -H "Cookie: sse_token=$token"
answered "publishing without a key" 401 chat:1/events --max-time 20 -d hi
answered "publishing with a token" 201 chat:1/events --max-time 20 -d hi -H "Authorization: Bearer $token"
answered "publishing with a key" 201 user:bob/events --max-time 20 -d hi -H "Authorization: Bearer $key"
if curl -sS --max-time 5 -o /dev/null "http://$TLS_BIND/rooms/stocks/events" 2>/dev/null; then fail "there is an answer without TLS"; fi
say "refused without a token and with another room's, let in by Authorization and cookie, over HTTP/1.1 and HTTP/2"

# Twenty streams on a connection.
load_is $((streams / 20)) --url https://haproxy:8443 --ca-file /work/trusted.crt --tokens /work/tokens --http2 20 --room-prefix chat:load- \
  -c "$streams"
load_begins 60
fetch chat:1/events -N --max-time 600 -H "Cookie: sse_token=$token" >"$work/stream" 2>/dev/null &
watcher=$!
eventually 10 "the stream does not open" grep -q 'event: stream.open' "$work/stream"
# Into the files, as the containers have these.
cat "$work/second.key" >"$SECRETS/tls.key"
cat "$work/second.crt" >"$SECRETS/tls.crt"
fingerprint() { openssl x509 -noout -fingerprint; }
# Connections go to each gateway in turn.
shown() { openssl s_client -connect "$TLS_BIND" -servername "$host" </dev/null 2>/dev/null | fingerprint; }
renewed() {
  local _
  for _ in 1 2 3 4 5 6; do [ "$(shown)" = "$(fingerprint <"$work/second.crt")" ] || return 1; done
}
eventually 20 "the renewed certificate is not shown" renewed
fetch chat:1/events -o /dev/null -d after -H "Authorization: Bearer $key"
eventually 10 "the open stream has no event" grep -q '^data: after' "$work/stream"
! grep -q stream.close "$work/stream" || fail "the open stream was closed"
kill "$watcher"
load_ends "the certificate was renewed"

load_begins 90
for container in $(compose ps -q gateway); do
  docker stop "$container" >/dev/null
  docker rm "$container" >/dev/null
  compose up -d --no-deps --no-recreate --wait --wait-timeout 60 gateway
  eventually 15 "HAProxy does not find the new gateway" nodes_are 3
done
load_ends "with TLS, each gateway was replaced in turn"
