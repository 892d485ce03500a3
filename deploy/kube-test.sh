#!/usr/bin/env bash
# Proves the chart on the cluster that kubectl points at: everything that it renders is accepted by the API server,
# and in a namespace that enforces the Pod Security Standard "restricted", three gateways with the chart's own Redis
# lose nothing while they are upgraded, scaled and killed, and while Redis is away. Each disturbance happens under
# `sse-loadtest run`, whose clients come back as browsers do, and which fails if one event is lost, repeated, out of
# order or changed, or a client is answered anything but 200.
#
#   deploy/kube-test.sh
#   ../shared/kube/in.sh env HOST_PATH=/tmp/redis deploy/kube-test.sh      # a cluster without volumes
#
# By the environment:
#   IMAGE        the gateway's image, as nodes have or can pull it (sse-gateway:0.1.0)
#   REDIS_IMAGE  the Redis image (docker.io/library/redis:7.4-alpine)
#   NAMESPACE    made at the start, deleted at the end (sse-gateway-test)
#   CONNECTIONS  streams of each load (300)
#   HOST_PATH    a folder of the one node, where no storage class makes volumes: a volume is made there
#   CRDS         a folder with the published definitions of the Gateway API and of the Prometheus operator: applied to
#                the cluster, where they stay. Without them, objects of kinds that the cluster lacks are left out.
#   KEEP         1 leaves the namespace for a look
#   REQUIRED     1 fails where there is no cluster, in place of saying so
set -euo pipefail
cd "$(dirname "$0")/.."

image=${IMAGE:-sse-gateway:0.1.0}
redis_image=${REDIS_IMAGE:-docker.io/library/redis:7.4-alpine}
ns=${NAMESPACE:-sse-gateway-test}
connections=${CONNECTIONS:-300}
release=events
name=events-sse-gateway
work=$(mktemp -d)

export HELM=${HELM:-helm}
command -v "$HELM" >/dev/null || HELM=$(go env GOPATH 2>/dev/null || true)/bin/helm
for tool in kubectl "$HELM" python3; do
  command -v "$tool" >/dev/null || { echo "kube-test: $tool is missing" >&2; exit 1; }
done
if ! kubectl --request-timeout=10s get --raw /readyz >/dev/null 2>"$work/reach"; then
  echo "kube-test: left out, kubectl reaches no cluster ($(tail -n 1 "$work/reach"))" >&2
  rm -rf "$work"
  exit "${REQUIRED:-0}"
fi

k() { kubectl --namespace "$ns" "$@"; }
ok() { echo "ok: $* (${SECONDS} s)"; }
fail() {
  echo "FAILED: $*" >&2
  exit 1
}
cleanup() {
  status=$?
  if [ "$status" != 0 ]; then
    k get pods -o wide >&2 || true
    k get events --sort-by=.lastTimestamp 2>/dev/null | tail -n 20 >&2 || true
    k logs --selector app.kubernetes.io/component=gateway --tail=20 --prefix >&2 || true
  fi
  if [ "${KEEP:-}" != 1 ]; then
    kubectl delete namespace "$ns" --wait=false >/dev/null 2>&1 || true
    [ -z "${HOST_PATH:-}" ] || kubectl delete persistentvolume "$ns" --wait=false >/dev/null 2>&1 || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT

# until_true SECONDS WHAT COMMAND...: waits for a command to succeed.
until_true() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || fail "$what"
    sleep 0.5
  done
}

gateways() { k get pods --selector app.kubernetes.io/component=gateway --field-selector status.phase=Running -o name; }
gateways_are() { [ "$(gateways | wc -l)" = "$1" ]; }

# The sum of a metric over all gateways. A pod that is on its way out may not answer.
metric() {
  for pod in $(gateways); do
    kubectl get --raw "/api/v1/namespaces/$ns/pods/${pod#pod/}:9080/proxy/metrics" 2>/dev/null || true
  done | awk -v metric="$1" '$1 == metric { sum += $2 } END { printf "%d\n", sum }'
}
streams_at_least() { [ "$(metric sse_gateway_streams_open)" -ge "$1" ]; }

room() { kubectl get --raw "/api/v1/namespaces/$ns/services/$name:http/proxy/rooms/$1"; }
room_has() { room "$1" | grep -q "\"length\":$2[,}]"; }

# A pod that runs a program of the image once: run_pod NAME PROGRAM ARGUMENT...
run_pod() {
  local pod=$1 program=$2 arguments
  shift 2
  arguments=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@")
  k apply -f - >/dev/null <<END
apiVersion: v1
kind: Pod
metadata: {name: "$pod", labels: {app: load}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: $program
      image: "$image"
      imagePullPolicy: IfNotPresent
      command: [$program]
      args: $arguments
      env:
        - {name: SSE_PUBLISH_KEY, valueFrom: {secretKeyRef: {name: $name, key: publish-key}}}
        - {name: REDIS_URL, valueFrom: {secretKeyRef: {name: $name, key: redis-url}}}
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
END
}

# pod_ended NAME: prints what it wrote, and fails if it failed.
pod_ended() {
  local phase end=$((SECONDS + ${2:-180}))
  while :; do
    phase=$(k get pod "$1" -o 'jsonpath={.status.phase}')
    case $phase in
      Succeeded) k logs "$1"; k delete pod "$1" >/dev/null; return ;;
      Failed) k logs "$1"; fail "$1" ;;
    esac
    [ $SECONDS -lt $end ] || fail "$1 does not end ($phase)"
    sleep 1
  done
}

# under_load NAME SECONDS COMMAND...: the command runs once all streams are open, and must be over before the load is.
under_load() {
  local what=$1 seconds=$2
  shift 2
  run_pod "load-$what" sse-loadtest run --url "http://$name" --publish=http "--connections=$connections" --rooms=20 \
    --rate=50 "--duration=${seconds}s" --patience=60s --quiet
  until_true 60 "the streams of $what do not open" streams_at_least "$connections"
  local began=$SECONDS
  "$@"
  [ $((SECONDS - began)) -lt "$seconds" ] || fail "$what took longer than its load: $((SECONDS - began)) s"
  pod_ended "load-$what" $((seconds + 120)) | sed 's/^/    /'
  ok "$what: nothing lost, nothing twice, nobody turned away"
}

key() { k get secret "$name" -o 'jsonpath={.data.publish-keys}{.data.redis-password}'; }

values=(
  --set "redis.embedded.enabled=true"
  --set "image.repository=${image%:*},image.tag=${image##*:}"
  --set "redis.embedded.image.repository=${redis_image%:*},redis.embedded.image.tag=${redis_image##*:}"
  --set "networkPolicy.enabled=true,networkPolicy.redisFrom[0].podSelector.matchLabels.app=load"
  # The API server reads metrics for this script, from wherever it is.
  --set "networkPolicy.adminFrom[0].ipBlock.cidr=0.0.0.0/0"
)
# Resets all values but those that are given again.
upgrade() { "$HELM" upgrade "$release" helm/sse-gateway --namespace "$ns" "${values[@]}" --wait --timeout 5m "$@" >/dev/null; }

# 1. Everything that the chart renders, before a server.
kubectl create namespace "$ns" >/dev/null
kubectl label namespace "$ns" pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted >/dev/null
until_true 30 "the namespace gets no service account" k get serviceaccount default
if [ -n "${CRDS:-}" ]; then
  kubectl apply --server-side -f "$CRDS" >/dev/null
  until_true 30 "the definitions are not served" kubectl get httproutes,podmonitors,prometheusrules --namespace "$ns"
fi
helm/checks/rendering.py "$work/objects"
known=() unknown=()
for file in "$work"/objects/*.yaml; do
  kind=${file##*-}
  if kubectl explain "${kind%.yaml}" >/dev/null 2>&1; then known+=(-f "$file"); else unknown+=("${kind%.yaml}"); fi
done
if ! k apply --dry-run=server "${known[@]}" >"$work/accepted" 2>"$work/said"; then
  cat "$work/said" >&2
  fail "the API server refuses an object"
fi
ok "$(grep -c . "$work/accepted") objects are accepted by the API server"
[ ${#unknown[@]} = 0 ] ||
  echo "    left out, as the cluster lacks their kinds: $(printf '%s\n' "${unknown[@]}" | sort | uniq -c | xargs)"
# Sidecars of the value sets are a user's business.
if grep 'would violate' "$work/said" | grep -v sidecar >&2; then fail "a pod is not restricted"; fi

# 2. Install, and the chart's own test.
if [ -n "${HOST_PATH:-}" ]; then
  mkdir -p "$HOST_PATH"
  chown 999:1000 "$HOST_PATH"
  kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: $ns}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  hostPath: {path: $HOST_PATH}
  claimRef: {namespace: $ns, name: data-$name-redis-0}
END
fi
"$HELM" install "$release" helm/sse-gateway --namespace "$ns" "${values[@]}" --wait --timeout 5m >"$work/notes"
gateways_are 3 || fail "there are not three gateways"
ok "install: three gateways and Redis, in a restricted namespace"
"$HELM" test "$release" --namespace "$ns" >/dev/null || { k logs "$name-test" >&2; fail "helm test"; }
ok "helm test"

# 3. Publish as NOTES.txt says, and by the CLI in a pod.
k exec "$name-redis-0" -- redis-cli FCALL sse_publish 1 sse:room:demo event chat data hi >/dev/null
until_true 10 "the event of redis-cli is not in the room" room_has demo 1
run_pod publish sse-publish demo --event chat --data "from a pod" --redis '$(REDIS_URL)'
pod_ended publish
until_true 10 "the event of the CLI is not in the room" room_has demo 2
ok "publish: redis-cli in the Redis pod, sse-publish in a pod of its own"

# 4. Disturbances.
before=$(key)
roll() {
  upgrade --set "config.stream.history_page=512"
  until_true 120 "old pods stay" gateways_are 3
}
under_load upgrade 120 roll
[ "$(key)" = "$before" ] || fail "an upgrade changed what was generated"
ok "what was generated is kept"

scale() {
  upgrade --set "config.stream.history_page=512,replicas=5"
  until_true 60 "there are not five gateways" gateways_are 5
  upgrade --set "config.stream.history_page=512,replicas=2"
  until_true 90 "there are not two gateways" gateways_are 2
}
under_load scale 120 scale
upgrade --set "config.stream.history_page=512"

kill_one() {
  k delete "$(gateways | head -n 1)" --grace-period=0 --force >/dev/null 2>&1
  k rollout status deployment "$name" --timeout=60s >/dev/null
}
under_load kill 40 kill_one

delete_redis() {
  k delete pod "$name-redis-0" >/dev/null
  k rollout status statefulset "$name-redis" --timeout=90s >/dev/null
}
under_load redis 90 delete_redis
room_has demo 2 || fail "the room did not survive Redis' pod"
ok "the room survived Redis' pod"

evict() {
  local pod=${1#pod/}
  printf '{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "%s", "namespace": "%s"}}' "$pod" "$ns" |
    kubectl create --raw "/api/v1/namespaces/$ns/pods/$pod/eviction" -f - 2>&1
}
drain() {
  local refused=0 pod
  for pod in $(gateways); do
    if ! evict "$pod" >"$work/evict"; then
      grep -q 'disruption budget' "$work/evict" || { cat "$work/evict" >&2; fail "eviction"; }
      refused=$((refused + 1))
    fi
  done
  [ "$refused" = 2 ] || fail "of three evictions, $refused were refused, not two"
  k rollout status deployment "$name" --timeout=90s >/dev/null
}
under_load drain 60 drain

# 5. Uninstall leaves the volume claim, and says so.
"$HELM" get notes "$release" --namespace "$ns" | grep -q "delete pvc data-$name-redis-0" || fail "the notes do not name the claim"
"$HELM" uninstall "$release" --namespace "$ns" --wait --timeout 3m >/dev/null
no_pods() { [ -z "$(k get pods -o name)" ]; }
until_true 120 "pods stay after the uninstall" no_pods
only_the_claim() {
  local left
  left=$(k get all,configmaps,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies,persistentvolumeclaims \
    --selector "app.kubernetes.io/instance=$release" -o name)
  [ "$left" = "persistentvolumeclaim/data-$name-redis-0" ]
}
until_true 60 "the uninstall leaves more, or less, than the volume claim" only_the_claim
ok "uninstall leaves nothing but the volume claim"
