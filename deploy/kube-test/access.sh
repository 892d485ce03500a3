# shellcheck shell=bash disable=SC2154
# The stage `access` of deploy/kube-test.sh, which sources it: a release as it faces browsers, with TLS on both ports,
# tokens, publish keys and the operators' token from Secrets that were there before. Who shows nothing is refused, who shows what
# counts gets in, by HTTP/1.1 and HTTP/2; what changes in a Secret counts without a new pod, and open streams live on;
# a roll-out over HTTP/2 and TLS loses nothing; Prometheus, as the PodMonitor tells it, gets the metrics.

for_release secure
host=events.example.com
keys=$work/keys
mkdir "$keys"

# authority NAME: a CA, as NAME.crt and NAME.key.
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$1" \
    -keyout "$keys/$1.key" -out "$keys/$1.crt" 2>/dev/null
}
# certificate NAME CA: NAME.crt and NAME.key, for the host, the Service, and whoever shows it.
certificate() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$keys/$1.key" 2>/dev/null |
    openssl x509 -req -CA "$keys/$2.crt" -CAkey "$keys/$2.key" -CAcreateserial -days 2 -out "$keys/$1.crt" \
      -extfile <(printf 'subjectAltName=DNS:%s,DNS:%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$host" "$name") 2>/dev/null
}
random() { openssl rand -hex 32; }
# secret NAME ARGUMENT...: makes a Secret, or replaces it.
secret() {
  k create secret generic "$@" --dry-run=client -o yaml | k apply -f - >/dev/null
}
tls_secret() {
  k create secret tls "$1" --cert "$keys/$2.crt" --key "$keys/$2.key" --dry-run=client -o yaml | k apply -f - >/dev/null
}

for ca in ca later-ca publishers; do authority "$ca"; done
certificate first ca
certificate second later-ca
certificate publisher publishers
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$keys/token.key" 2>/dev/null
openssl pkey -in "$keys/token.key" -pubout -out "$keys/token.pem"
key=$(random) later_key=$(random) operator=$(random) later_operator=$(random)

tls_secret events-tls first
tls_secret admin-tls first
secret trusted --from-file "ca.crt=$keys/ca.crt"
secret publishers --from-file "ca.crt=$keys/publishers.crt"
secret token-keys --from-file "$keys/token.pem"
cat "$keys/ca.crt" "$keys/later-ca.crt" >"$keys/both.crt"
secret login --from-file "$keys/token.key" --from-file "$keys/both.crt"
publish_keys() { secret backends --from-literal "lines=$1" --from-literal "test=$2"; }
publish_keys "$key
$(random) chat:*" "$key"
secret operators --from-literal "token=$operator"

monitored=false
if kubectl explain podmonitor >/dev/null 2>&1; then monitored=true; fi
cat >"$work/secure.yaml" <<END
replicas: 2
rollout: {minReadySeconds: 0}
image: {repository: "${image%:*}", tag: "${image##*:}"}
redis:
  embedded:
    enabled: true
    persistence: {enabled: false}
    image: {repository: "${redis_image%:*}", tag: "${redis_image##*:}"}
config:
  access:
    subscribe: ["news:* open", "* token"]
    publish: ["chat:* token"]
  drain: {spread: 5s}
tokens: {existingSecret: token-keys, files: ["kid=one ES256 token.pem"]}
publish: {existingSecret: backends, existingSecretFiles: [lines], existingSecretTestKey: test}
tls: {existingSecret: events-tls, clientCaSecret: publishers}
admin:
  existingSecret: operators
  existingSecretKey: token
  tls: {existingSecret: admin-tls}
service: {port: 443}
podMonitor:
  enabled: $monitored
  tlsConfig: {ca: {secret: {name: trusted, key: ca.crt}}, serverName: $host}
END
"$HELM" install "$release" helm/sse-gateway --namespace "$ns" --values "$work/secure.yaml" --wait --timeout 5m >"$work/notes"
until_true 30 "there are not two gateways" settled 2
ok "install with TLS, tokens and Secrets: probes ask by https, without a token"
grep -q '^  \*: who shows a token that names the room$' "$work/notes" || fail "the notes do not say who may read"
"$HELM" test "$release" --namespace "$ns" >/dev/null || { k logs "$name-test" >&2; fail "helm test over TLS"; }
ok "helm test over TLS: published with the key of the Secret, to gateways that show its certificate"

# A pod with the programs, and with the key that tokens are signed with.
k apply -f - >/dev/null <<END
apiVersion: v1
kind: Pod
metadata: {name: login, labels: {app: load}}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: login
      image: "$image"
      imagePullPolicy: IfNotPresent
      command: [sleep, infinity]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
      volumeMounts: [{name: keys, mountPath: /keys, readOnly: true}, {name: tmp, mountPath: /tmp}]
  volumes: [{name: keys, secret: {secretName: login}}, {name: tmp, emptyDir: {}}]
END
k wait --for=condition=Ready pod/login --timeout=60s >/dev/null
token() { k exec login -- sse-publish token make --alg ES256 --key-file /keys/token.key --kid one "$@"; }
token=$(token --user ann --subscribe 'user:ann' --subscribe 'chat:*' --publish 'chat:*')

# forward NAME OBJECT PORT: a way to a port, in the variable NAME.
forward() {
  local log=$work/forward-$1
  k port-forward "$2" ":$3" >"$log" 2>&1 &
  helpers="$helpers $!"
  until_true 20 "no way to $2" grep -q 'Forwarding from 127.0.0.1:' "$log"
  printf -v "$1" '%s' "$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$log")"
}
pods=$(gateways)
one=${pods%%[[:space:]]*} other=${pods##*[[:space:]]}
forward port "$one" 8080
forward other_port "$other" 8080
forward admin "$one" 9080
forward other_admin "$other" 9080

# fetch PATH ARGUMENT...: curl, which has to find a certificate for the host, signed by the CA in $trusts.
trusts=$keys/ca.crt
fetch() {
  local path=$1
  shift
  curl -sS --max-time 60 --cacert "$trusts" --resolve "$host:$port:127.0.0.1" "$@" "https://$host:$port/rooms/$path"
}
# answered WHAT STATUS PATH ARGUMENT...: by both versions of HTTP.
answered() {
  local what=$1 wanted=$2 path=$3 found
  shift 3
  for version in 1.1 2; do
    # A stream has no end: the head is enough.
    found=$(fetch "$path" "--http$version" -o "$work/body" -w '%{http_version} %{http_code}' --max-time 2 "$@" 2>/dev/null || true)
    [ "$found" = "$version $wanted" ] || fail "$what: $found, not $version $wanted: $(cat "$work/body")"
  done
}
bearer=(-H "Authorization: Bearer $token")
publish=(--max-time 20 -d '{"event":"chat","data":"hi"}')
answered "a stream without a token" 401 chat:1/events
answered "history without a token" 401 chat:1
fetch chat:1 -D - -o /dev/null | grep -i '^www-authenticate: Bearer' >/dev/null || fail "history without a token lacks WWW-Authenticate"
answered "a stream of another room" 403 user:bob/events "${bearer[@]}"
answered "a token in the query" 401 "chat:1/events?access_token=$token"
answered "a room that is open" 200 news:1/events
answered "a stream with Authorization" 200 chat:1/events "${bearer[@]}"
answered "a stream with a cookie" 200 user:ann/events -H "Cookie: sse_token=$token"
answered "publishing without a key" 401 chat:1/events "${publish[@]}"
answered "publishing with a token" 201 chat:1/events "${publish[@]}" "${bearer[@]}"
answered "publishing elsewhere with that token" 403 user:ann/events "${publish[@]}" "${bearer[@]}"
answered "publishing with a key" 201 user:ann/events "${publish[@]}" -H "Authorization: Bearer $key"
answered "publishing with a certificate" 201 user:ann/events "${publish[@]}" --cert "$keys/publisher.crt" --key "$keys/publisher.key"
ok "refused without a token, with another room's, and in the query; let in by Authorization and cookie; HTTP/1.1 and HTTP/2"

# As the PodMonitor tells Prometheus.
if [ "$monitored" = true ]; then
  monitor() { k get podmonitor "$name" -o "jsonpath={.spec.podMetricsEndpoints[0].$1}"; }
  opened() { k get secret "$1" -o "go-template={{index .data \"$2\" | base64decode}}"; }
  opened "$(monitor tlsConfig.ca.secret.name)" "$(monitor tlsConfig.ca.secret.key)" >"$work/scrape.crt"
  shown=$(opened "$(monitor authorization.credentials.name)" "$(monitor authorization.credentials.key)")
  scrape() {
    curl -sS -o "$work/body" -w '%{http_code}' --cacert "$work/scrape.crt" --resolve "$(monitor tlsConfig.serverName):$admin:127.0.0.1" "$@" \
      "$(monitor scheme)://$(monitor tlsConfig.serverName):$admin$(monitor path)"
  }
  [ "$(scrape -H "Authorization: Bearer $shown")" = 200 ] || fail "the metrics are refused to Prometheus: $(cat "$work/body")"
  grep -q '^sse_gateway_streams_open ' "$work/body" || fail "there are no metrics"
  grep -q '^sse_gateway_tls_certificate_expires_timestamp_seconds{' "$work/body" || fail "the metrics do not say when the certificate ends"
  ok "metrics, as the PodMonitor says"
else
  echo "    left out, as the cluster does not know it: the PodMonitor (CRDS)"
fi
# asked PATH ARGUMENT...: the admin port's status, shown to the CA that is trusted at first.
asked() {
  local path=$1
  shift
  curl -sS -o "$work/body" -w '%{http_code}' --cacert "$keys/ca.crt" --resolve "$host:$admin:127.0.0.1" "$@" "https://$host:$admin$path"
}
for path in livez readyz; do [ "$(asked "/$path")" = 200 ] || fail "/$path needs more than TLS"; done
for path in metrics log; do [ "$(asked "/$path")" = 401 ] || fail "/$path needs no token"; done
[ "$(asked /metrics -H "Authorization: Bearer $operator")" = 200 ] || fail "the token of the Secret does not count"
ok "the admin port: health for anyone, the rest with the token of the Secret"

# Secrets change, under open streams. The kubelet takes a minute or so.
# stream NAME ARGUMENT...: events of user:ann, in a file.
stream() {
  local file=$work/stream-$1
  shift
  curl -sSN --cacert "$keys/ca.crt" --resolve "$host:$port:127.0.0.1" -H "Cookie: sse_token=$token" "$@" \
    "https://$host:$port/rooms/user:ann/events" >"$file" 2>&1 &
  helpers="$helpers $!"
  until_true 10 "a stream does not open" grep -q 'event: stream.open' "$file"
}
stream 1.1 --http1.1
stream 2 --http2
shown_at() { openssl s_client -connect "127.0.0.1:$1" -servername "$host" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint; }
shows() {
  local at
  for at in "$port" "$other_port"; do
    [ "$(shown_at "$at")" = "$(openssl x509 -in "$keys/$1.crt" -noout -fingerprint)" ] || return 1
  done
}
shows first || fail "gateways show another certificate than that of the Secret"
tls_secret events-tls second
publish_keys "$later_key" "$later_key"
secret operators --from-literal "token=$later_operator"
began=$SECONDS
until_true 150 "the new certificate is not shown" shows second
ok "a certificate that was replaced in the Secret is shown after $((SECONDS - began)) s"
if fetch news:1 -o /dev/null 2>/dev/null; then fail "the old certificate is shown still"; fi
trusts=$keys/later-ca.crt
status_of() { fetch user:ann/events -o /dev/null -w '%{http_code}' -d "$1" -H "Authorization: Bearer $2"; }
later_key_counts() { [ "$(status_of after "$later_key")" = 201 ]; }
until_true 150 "the new publish key does not count" later_key_counts
[ "$(status_of never "$key")" = 401 ] || fail "a publish key that is gone counts"
later_operator_counts() { [ "$(asked /metrics -H "Authorization: Bearer $later_operator")" = 200 ]; }
until_true 150 "the operators' new token does not count" later_operator_counts
[ "$(asked /metrics -H "Authorization: Bearer $operator")" = 401 ] || fail "an operators' token that is gone counts"
for version in 1.1 2; do
  until_true 10 "the stream over HTTP/$version has no event" grep -q '^data: after' "$work/stream-$version"
  ! grep -q 'stream.close' "$work/stream-$version" || fail "the stream over HTTP/$version was closed"
done
[ "$(gateways)" = "$pods" ] || fail "there are other pods"
"$HELM" test "$release" --namespace "$ns" >/dev/null || { k logs "$name-test" >&2; fail "helm test with the new certificate"; }
ok "certificate, publish key and operators' token replaced: the same pods, the same streams"

# A roll-out, under streams with tokens over TLS and HTTP/2. The load's rooms are those of its clients' token.
token --user loader --subscribe 'chat:*' | k exec -i login -- sh -c 'cat >/tmp/tokens'
k exec login -- env "SSE_PUBLISH_KEY=$later_key" sse-loadtest run --url "https://$name" --ca-file /keys/both.crt \
  --tokens /tmp/tokens --http2 20 --publish=http --room-prefix=chat:load- --connections=200 --rooms=10 --rate=50 \
  --duration=60s --patience=60s --quiet >"$work/load" 2>&1 &
load=$!
helpers="$helpers $load"
# The metrics cannot be asked for through the API server, which has no token.
loaded() {
  local at
  # What is printed here nobody sees.
  kill -0 "$load" 2>/dev/null || return 1
  for at in "$admin" "$other_admin"; do
    curl -sS --cacert "$keys/ca.crt" --resolve "$host:$at:127.0.0.1" -H "Authorization: Bearer $later_operator" "https://$host:$at/metrics" || true
  done | awk '$1 == "sse_gateway_streams_open" { sum += $2 } END { exit sum < 200 }'
}
until_true 60 "the streams of the load do not open, or it has ended" loaded
"$HELM" upgrade "$release" helm/sse-gateway --namespace "$ns" --values "$work/secure.yaml" --wait --timeout 5m \
  --set 'config.access.subscribe={load-* open,* token}' >/dev/null
until_true 120 "old pods stay" settled 2
kill -0 "$load" 2>/dev/null || fail "the roll-out took longer than its load"
wait "$load" || { cat "$work/load" >&2; fail "a roll-out over TLS and HTTP/2"; }
grep -E '^(Publishing|Delivering|Checking) |stream.reset' "$work/load" | sed 's/^ */    /'
ok "a roll-out under 200 streams with tokens, over TLS and HTTP/2"
"$HELM" test "$release" --namespace "$ns" >/dev/null || { k logs "$name-test" >&2; fail "helm test with streams over TLS"; }
ok "helm test over TLS, with streams, where rooms are open"

k delete pod login --wait=false >/dev/null
"$HELM" uninstall "$release" --namespace "$ns" --wait --timeout 3m >/dev/null
ok "uninstall"
