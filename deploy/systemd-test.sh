#!/usr/bin/env bash
# Proves the unit on a machine whose PID 1 is systemd (a virtual machine or container that is thrown away: it installs the unit as
# its first lines say): start returns once the node is ready, reload reloads and drops no stream, stop drains in time and
# loses no client, a configuration that cannot be used is not tried again, the sandbox holds; with TLS and tokens, by the lines that
# stand as comments in unit and configuration, a key that only root may read serves, and a certificate is renewed.
#
#   deploy/systemd-test.sh PROGRAM       as root; needs redis-server on port 6379, curl and openssl
set -euo pipefail
program=${1:?the sse-gateway to install}
cd "$(dirname "$0")/systemd"

say() { printf 'systemd-test: %s\n' "$*"; }
fail() {
  say "FAILED: $*"
  systemctl --no-pager status sse-gateway || true
  journalctl --no-pager --lines 20 --unit sse-gateway || true
  exit 1
}
if [ ! -d /run/systemd/system ] || [ "$(id -u)" != 0 ]; then
  say "not run: this needs root, and systemd as PID 1"
  exit 0
fi
site=http://127.0.0.1:8080 admin=http://127.0.0.1:9080
# eventually WHAT COMMAND...
eventually() {
  local what=$1 until=$((SECONDS + 15))
  shift
  until "$@" > /dev/null 2>&1; do
    if [ $SECONDS -ge $until ]; then fail "$what"; fi
    sleep 0.1
  done
}

install -D -m 755 "$program" /usr/local/bin/sse-gateway
install -D -m 644 config.toml /etc/sse-gateway/config.toml
install -D -m 644 sse-gateway.service /etc/systemd/system/sse-gateway.service
install -m 600 /dev/stdin /etc/sse-gateway/environment <<< 'SSE_PUBLISH__KEYS=first-publish-key'
# No process may have more descriptors than those who manage it; in a container that is not for the unit to say.
hard=$(ulimit -Hn)
if [ "$hard" != unlimited ] && [ "$hard" -lt 1048576 ]; then
  mkdir -p /etc/systemd/system/sse-gateway.service.d
  printf '[Service]\nLimitNOFILE=%s\n' "$hard" > /etc/systemd/system/sse-gateway.service.d/test.conf
  say "this machine allows $hard open files: LimitNOFILE is that"
fi
systemctl daemon-reload
systemd-analyze verify sse-gateway.service || fail "systemd-analyze finds faults"

systemctl start sse-gateway || fail "it does not start"
curl -sf -o /dev/null $admin/readyz || fail "start returned before the node was ready"
pid=$(systemctl show -P MainPID sse-gateway)
[ "$(stat -c %u "/proc/$pid")" != 0 ] || fail "it runs as root"
grep -q '^CapEff:\s*0000000000000000$' "/proc/$pid/status" || fail "it has capabilities"
grep -q '^Seccomp:\s*2$' "/proc/$pid/status" || fail "system calls are not filtered"
say "start: ready when it returned, as $(ps -o user= -p "$pid"), without capabilities, with a filter of system calls"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl -sN $site/rooms/demo/events > "$work/stream" &
stream=$!
eventually "the stream does not open" grep -q stream.open "$work/stream"
publish() { curl -s -o /dev/null -w '%{http_code}' -H "Authorization: Bearer $1" -d "$2" $site/rooms/demo/events; }
[ "$(publish first-publish-key one)" = 201 ] || fail "the key of the environment file cannot publish"
# The environment is that of the process: what a reload changes stands in the file.
cat >> /etc/sse-gateway/config.toml <<< '[log]
level = "debug"'
systemctl reload sse-gateway || fail "it does not reload"
eventually "the new level of the log is not in force" bash -c "curl -sf $admin/log | grep -q debug"
[ "$(systemctl show -P MainPID sse-gateway)" = "$pid" ] || fail "reload started another process"
[ "$(publish first-publish-key two)" = 201 ] || fail "it does not publish after a reload"
eventually "an event is missing" grep -q '^data: two' "$work/stream"
say "reload: the new configuration, the same process, the same stream"

sed -i 's/^delay = .*/delay = "2s"\nspread = "1s"/' /etc/sse-gateway/config.toml
systemctl restart sse-gateway || fail "it does not restart"
wait "$stream" || true
grep -q '^event: stream.close' "$work/stream" || fail "the stream was not told to come back"
position=$(sed -n 's/^id: //p' "$work/stream" | tail -n 1)
publish first-publish-key three > /dev/null
curl -sN --max-time 2 -H "Last-Event-ID: $position" $site/rooms/demo/events > "$work/again" || true
[ "$(grep -c '^data: three' "$work/again")" = 1 ] || fail "an event is missing after the restart"
pid=$(systemctl show -P MainPID sse-gateway)
curl -sN $site/rooms/demo/events > "$work/stream" &
stream=$!
eventually "the stream does not open" grep -q stream.open "$work/stream"
began=$SECONDS
systemctl stop sse-gateway || fail "it does not stop"
wait "$stream" || true
grep -q '^event: stream.close' "$work/stream" || fail "the stream was not told to come back"
[ $((SECONDS - began)) -ge 2 ] || fail "it did not wait for the balancer"
[ "$(systemctl show -P Result sse-gateway)" = success ] || fail "stopping ended with $(systemctl show -P Result sse-gateway)"
say "stop: drained in $((SECONDS - began)) s, result success"

echo 'nonsense = 1' >> /etc/sse-gateway/config.toml
if systemctl start sse-gateway 2> "$work/error"; then fail "a configuration that cannot be used is started"; fi
[ "$(systemctl show -P ExecMainStatus sse-gateway)" = 64 ] || fail "it ended with $(systemctl show -P ExecMainStatus sse-gateway)"
[ "$(systemctl show -P NRestarts sse-gateway)" = 0 ] || fail "a configuration that cannot be used is tried again"
say "a configuration that cannot be used: ended with 64, not tried again"

sed -i '/^nonsense/d' /etc/sse-gateway/config.toml
systemctl reset-failed sse-gateway
systemctl start sse-gateway || fail "it does not start again"
pid=$(systemctl show -P MainPID sse-gateway)
kill -KILL "$pid"
restarted() { [ "$(systemctl show -P NRestarts sse-gateway)" = 1 ] && curl -sf -o /dev/null $admin/readyz; }
eventually "it is not started again after a crash" restarted
systemctl stop sse-gateway
say "a crash: started again"

# What stands there as comments: TLS, and tokens by a secret in the environment file.
etc=/etc/sse-gateway unit=/etc/systemd/system/sse-gateway.service host=events.example.com
certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$host" -addext "subjectAltName=DNS:$host" \
    -keyout "$work/$1.key" -out "$work/$1.crt" 2> /dev/null
}
fingerprint() { openssl x509 -noout -fingerprint; }
shows() {
  [ "$(openssl s_client -connect 127.0.0.1:8080 -servername $host < /dev/null 2> /dev/null | fingerprint)" = "$(fingerprint < "$work/$1.crt")" ]
}
encoded() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
# token CLAIMS: signed with the secret (HS256).
token() {
  local text
  text=$(printf '{"alg":"HS256","typ":"JWT"}' | encoded).$(printf %s "$1" | encoded)
  printf '%s.%s' "$text" "$(printf %s "$text" | openssl dgst -sha256 -hmac "$secret" -binary | encoded)"
}
certificate first
certificate second
cat "$work"/{first,second}.crt > "$work/trusted.crt"
install -m 644 "$work/first.crt" $etc/tls.crt
install -m 600 "$work/first.key" $etc/tls.key
secret=$(openssl rand -hex 32)
echo "SSE_TOKENS__KEYS=HS256 $secret" >> $etc/environment
sed -i 's/^#\(LoadCredential=\)/\1/' $unit
sed -i 's/^#\(\[tls\]\|cert_file = .*\|key_file = .*\)$/\1/; s/^subscribe = .*/subscribe = ["* token"]/' $etc/config.toml
systemctl daemon-reload
systemd-analyze verify sse-gateway.service || fail "systemd-analyze finds faults"
systemctl start sse-gateway || fail "it does not start with TLS"
now=$(date +%s)
token=$(token "{\"sub\":\"ann\",\"iat\":$now,\"exp\":$((now + 600)),\"sse\":{\"subscribe\":[\"user:ann\"]}}")
fetch() { curl -s --cacert "$work/trusted.crt" --resolve "$host:8080:127.0.0.1" "$@"; }
answered() {
  local what=$1 wanted=$2 version found
  shift 2
  for version in 1.1 2; do
    found=$(fetch "--http$version" --max-time 2 -o /dev/null -w '%{http_version} %{http_code}' "$@" || true)
    [ "$found" = "$version $wanted" ] || fail "$what: $found, not $version $wanted"
  done
}
stream() { fetch -N -H "Cookie: sse_token=$token" "https://$host:8080/rooms/user:ann/events" > "$work/stream"; }
answered "a stream without a token" 401 "https://$host:8080/rooms/user:ann/events"
answered "a stream with a cookie" 200 -H "Cookie: sse_token=$token" "https://$host:8080/rooms/user:ann/events"
answered "a stream of another room" 403 -H "Authorization: Bearer $token" "https://$host:8080/rooms/user:bob/events"
[ "$(stat -c %a%u $etc/tls.key)" = 6000 ] || fail "others may read the key"
install -m 644 "$work/second.crt" $etc/tls.crt
install -m 600 "$work/second.key" $etc/tls.key
shows first || fail "it does not show its credential"
systemctl restart sse-gateway || fail "it does not restart with another certificate"
shows second || fail "it does not show the new certificate after a restart"
systemctl stop sse-gateway
say "LoadCredential=: TLS with a key that only root may read, tokens by the environment file; another certificate with a restart"

groupadd -f sse-gateway-tls
install -m 644 "$work/first.crt" $etc/tls.crt
install -m 640 -g sse-gateway-tls "$work/first.key" $etc/tls.key
sed -i 's/^\(LoadCredential=\)/#\1/; s/^#\(SupplementaryGroups=\)/\1/' $unit
sed -i "s|/run/credentials/sse-gateway.service|$etc|" $etc/config.toml
systemctl daemon-reload
systemctl start sse-gateway || fail "it does not start with files of its group"
shows first || fail "it does not show the file's certificate"
stream &
stream=$!
eventually "the stream does not open" grep -q stream.open "$work/stream"
install -m 640 -g sse-gateway-tls "$work/second.key" $etc/tls.key
install -m 644 "$work/second.crt" $etc/tls.crt
eventually "the renewed certificate is not shown" shows second
fetch -o /dev/null -H "Authorization: Bearer first-publish-key" -d after "https://$host:8080/rooms/user:ann/events"
eventually "the open stream has no event" grep -q '^data: after' "$work/stream"
! grep -q stream.close "$work/stream" || fail "the open stream was closed"
systemctl stop sse-gateway
wait $stream || true
say "SupplementaryGroups=: a certificate was renewed without a restart, under an open stream"
say "all of it works"
