# shellcheck shell=bash disable=SC2034,SC2154
# The stage `load` of deploy/kube-test.sh, which sources it: disturbances under load.

for_release events

# under_load NAME SECONDS DRAINS READY COMMAND...: the command runs once all streams are open, and must be over before
# the load is. Meanwhile so many pods drain, and never fewer gateways are ready.
under_load() {
  local what=$1 seconds=$2 drains=$3 ready=$4
  shift 4
  run_job "load-$what" SSE_PUBLISH_KEY=publish-key sse-loadtest run --url "http://$name" --publish=http \
    "--connections=$connections" --rooms=20 --rate=50 "--duration=${seconds}s" --patience=60s --quiet
  until_true 60 "the streams of $what do not open" streams_at_least "$connections"
  python3 deploy/kube-test/watch.py "$api" "$ns" "$gateway" >"$work/looks" &
  watcher=$!
  local began=$SECONDS took
  "$@"
  took=$((SECONDS - began))
  [ "$(k get job "load-$what" -o 'jsonpath={.status.active}')" = 1 ] || fail "$what took longer than its load: $took s"
  job_ended "load-$what" $((seconds + 120)) "$work/load"
  kill "$watcher"
  wait "$watcher" 2>/dev/null || true
  watcher=''
  python3 deploy/kube-test/verdict.py "$work/load" "$work/looks" "$spread" "$drains" "$ready" "$retry" >"$work/said" ||
    { cat "$work/said"; fail "$what"; }
  ok "$what, in $took s of a load of $seconds s"
  sed 's/^/    /' "$work/said"
}

key() { k get secret "$name" -o 'jsonpath={.data.publish-keys}{.data.redis-password}'; }

values=(
  --set "redis.embedded.enabled=true"
  --set "config.access.subscribe={* open}"
  --set "config.admin.metrics_open=true"
  --set "image.repository=${image%:*},image.tag=${image##*:}"
  --set "redis.embedded.image.repository=${redis_image%:*},redis.embedded.image.tag=${redis_image##*:}"
  --set "networkPolicy.enabled=true,networkPolicy.redisFrom[0].podSelector.matchLabels.app=load"
  # The API server reads metrics for this script, from wherever it is.
  --set "networkPolicy.adminFrom[0].ipBlock.cidr=0.0.0.0/0"
)
# Resets all values but those that are given again.
upgrade() { "$HELM" upgrade "$release" helm/sse-gateway --namespace "$ns" "${values[@]}" --wait --timeout 5m "$@" >/dev/null; }

# 1. Install, and the chart's own test.
if [ -n "${HOST_PATH:-}" ]; then
  mkdir -p "$HOST_PATH"
  volume=$(mktemp -d "$HOST_PATH/redis.XXXXXX")
  chown 999:1000 "$volume"
  kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: PersistentVolume
metadata: {name: $ns}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  hostPath: {path: $volume}
  claimRef: {namespace: $ns, name: data-$name-redis-0}
END
fi
# Everything in the namespace but what is told about the rest.
kinds=$(kubectl api-resources --namespaced --verbs=list --output=name | grep -v '^events' | sort | paste -sd,)
everything() { k get "$kinds" -o name 2>/dev/null | sort; }
everything >"$work/before"
"$HELM" install "$release" helm/sse-gateway --namespace "$ns" "${values[@]}" --wait --timeout 5m >"$work/notes"
until_true 30 "there are not three gateways" settled 3
ok "install: three gateways and Redis, in a restricted namespace"
"$HELM" test "$release" --namespace "$ns" >/dev/null || { k logs "$name-test" >&2; fail "helm test"; }
ok "helm test"

# What the values leave at its default: clients come back up to `retry` seconds after their stream was closed.
retry=5
spread=$(k get configmap "$name" -o 'jsonpath={.data.config\.toml}' | sed -n 's/^spread = "\([0-9]*\)s"$/\1/p')

# 2. Publish as NOTES.txt says, and by the CLI in a Job.
k exec "$name-redis-0" -- redis-cli FCALL sse_publish 1 sse:room:demo event chat data hi >/dev/null
until_true 10 "the event of redis-cli is not in the room" room_has demo 1
run_job publish SSE_REDIS__URL=redis-url sse-publish demo --event chat --data "from a Job"
job_ended publish 60 "$work/published"
until_true 10 "the event of the CLI is not in the room" room_has demo 2
ok "publish: redis-cli in the Redis pod, sse-publish in a Job"

# 3. Disturbances.
before=$(key)
roll() {
  upgrade --set "config.stream.history_page=512"
  until_true 120 "old pods stay" settled 3
}
under_load upgrade 70 3 3 roll
[ "$(key)" = "$before" ] || fail "an upgrade changed what was generated"
ok "what was generated is kept"

# Streams stay where they are when pods are added, so scaling down has a load of its own, over all five.
scale_up() {
  upgrade --set "config.stream.history_page=512,replicas=5"
  until_true 60 "there are not five gateways" settled 5
}
under_load scale-up 25 0 3 scale_up
scale_down() {
  upgrade --set "config.stream.history_page=512,replicas=2"
  until_true 90 "there are not two gateways" settled 2
}
under_load scale-down 50 3 2 scale_down
upgrade --set "config.stream.history_page=512"
until_true 60 "there are not three gateways again" settled 3

# Killed a second after it was told to stop, with its streams open: it has no time to close them.
kill_one() {
  local victim
  victim=$(gateways | sed -n 1p)
  k delete "$victim" --now >/dev/null
  until_true 60 "the killed gateway has no successor" settled 3
}
under_load kill 30 0 2 kill_one

# Gateways stay ready without Redis, and go on when it is back.
delete_redis() {
  local old
  old=$(k get pod "$name-redis-0" -o 'jsonpath={.metadata.uid}')
  k delete pod "$name-redis-0" >/dev/null
  k rollout status statefulset "$name-redis" --timeout=90s >/dev/null
  [ "$(k get pod "$name-redis-0" -o 'jsonpath={.metadata.uid}')" != "$old" ] || fail "Redis' pod is the old one"
}
under_load redis 45 0 3 delete_redis
room_has demo 2 || fail "the room did not survive Redis' pod"
ok "the room survived Redis' pod"

# As `kubectl drain` does: evicts every gateway, and asks again while the budget refuses.
evict() {
  local pod=${1#pod/}
  printf '{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "%s", "namespace": "%s"}}' "$pod" "$ns" |
    kubectl create --raw "/api/v1/namespaces/$ns/pods/$pod/eviction" -f - 2>&1
}
drain() {
  local pods pod end
  pods=$(gateways) end=$((SECONDS + 120)) refused=0
  for pod in $pods; do
    until evict "$pod" >"$work/evict"; do
      grep -q 'disruption budget' "$work/evict" || { cat "$work/evict" >&2; fail "an eviction"; }
      refused=$((refused + 1))
      [ $SECONDS -lt $end ] || fail "the budget never lets $pod go"
      sleep 0.5
    done
  done
  until_true 120 "evicted pods stay" settled 3
}
under_load drain 75 3 2 drain
[ "$refused" -gt 0 ] || fail "three gateways were evicted at once: the budget refused nothing"
ok "the budget refused $refused evictions until a successor was ready"

# 4. Uninstall leaves the volume claim, and says so.
"$HELM" get notes "$release" --namespace "$ns" | grep "delete pvc data-$name-redis-0" >/dev/null || fail "the notes do not name the claim"
"$HELM" uninstall "$release" --namespace "$ns" --wait --timeout 3m >/dev/null
only_the_claim() {
  everything >"$work/after"
  [ "$(comm -13 "$work/before" "$work/after")" = "persistentvolumeclaim/data-$name-redis-0" ]
}
until_true 120 "the uninstall leaves more, or less, than the volume claim" only_the_claim
ok "uninstall leaves nothing but the volume claim, and says so"
