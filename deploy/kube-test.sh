#!/usr/bin/env bash
# Proves the chart on the cluster that kubectl points at: everything that it renders is accepted by the API server,
# and in a namespace that enforces the Pod Security Standard "restricted", three gateways with the chart's own Redis
# lose nothing while they are upgraded, scaled, killed and drained, and while Redis is away. Each disturbance happens
# under `sse-loadtest run`, whose clients come back as browsers do, and which fails if one event is lost, repeated, out
# of order or changed, or a client is answered anything but 200. Meanwhile the gateways are looked at: no tenth of a
# pod's drain may close more than twice the mean, and no gateway may restart.
#
#   deploy/kube-test.sh
#   HOST_PATH=/tmp/redis deploy/kube-test.sh      # a cluster of one node, without volumes
#
# Needs kubectl, helm and Python 3, and some ten minutes.
#
# By the environment:
#   IMAGE        the gateway's image with its tag, as nodes have or can pull it (sse-gateway:0.1.0)
#   REDIS_IMAGE  the Redis image with its tag (docker.io/library/redis:7.4-alpine)
#   NAMESPACE    made at the start, deleted at the end (sse-gateway-test)
#   CONNECTIONS  streams of each load (900)
#   HOST_PATH    a folder of the one node, where no storage class makes volumes: a volume is made in it
#   CRDS         a folder with the published definitions of custom resources (helm/sse-gateway/README.md says where they
#                are): those that the cluster lacks are there during the test. Without them, objects of kinds that the
#                cluster does not know are left out.
#   KEEP         1 leaves the namespace for a look
#   REQUIRED     1 fails where there is no cluster, in place of saying so
# With pipefail, nothing that stops reading early (head, grep -q) may end a pipe: its writer would fail, now and then.
set -euo pipefail
cd "$(dirname "$0")/.."

image=${IMAGE:-sse-gateway:0.1.0}
redis_image=${REDIS_IMAGE:-docker.io/library/redis:7.4-alpine}
ns=${NAMESPACE:-sse-gateway-test}
connections=${CONNECTIONS:-900}
release=events
name=events-sse-gateway
gateway=app.kubernetes.io/instance=$release,app.kubernetes.io/component=gateway
work=$(mktemp -d)

left_out() {
  echo "kube-test: left out, $*" >&2
  rm -rf "$work"
  exit "${REQUIRED:-0}"
}
command -v kubectl >/dev/null || left_out "there is no kubectl"
kubectl --request-timeout=10s get --raw /readyz >/dev/null 2>"$work/reach" ||
  left_out "kubectl reaches no cluster ($(tail -n 1 "$work/reach"))"
export HELM=${HELM:-helm}
command -v "$HELM" >/dev/null || HELM=$(go env GOPATH 2>/dev/null || true)/bin/helm
for tool in "$HELM" python3; do
  command -v "$tool" >/dev/null || { echo "kube-test: $tool is missing" >&2; exit 1; }
done
if kubectl get namespace "$ns" >/dev/null 2>&1; then
  echo "kube-test: there is a namespace $ns already: delete it, or choose another by NAMESPACE" >&2
  exit 1
fi

k() { kubectl --namespace "$ns" "$@"; }
ok() { echo "ok: $* (${SECONDS} s)"; }
fail() {
  echo "FAILED: $*" >&2
  exit 1
}
proxy='' watcher='' volume='' definitions=()
cleanup() {
  status=$?
  if [ "$status" != 0 ]; then
    k get pods -o wide >&2 || true
    k get events --sort-by=.lastTimestamp 2>/dev/null | tail -n 20 >&2 || true
    k logs --selector "$gateway" --tail=20 --prefix >&2 || true
  fi
  # shellcheck disable=SC2086
  kill $watcher $proxy 2>/dev/null || true
  if [ "${KEEP:-}" != 1 ]; then
    kubectl delete namespace "$ns" --timeout=2m >/dev/null 2>&1 || true
    [ ${#definitions[@]} = 0 ] || kubectl delete "${definitions[@]}" >/dev/null 2>&1 || true
    if [ -n "$volume" ]; then
      kubectl delete persistentvolume "$ns" --timeout=1m >/dev/null 2>&1 || true
      rm -rf "$volume"
    fi
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

gateways() { k get pods --selector "$gateway" --field-selector status.phase=Running -o name; }
# settled NUMBER: so many gateways, all of the last revision and ready, and none on its way out.
settled() {
  [ "$(gateways | wc -l)" = "$1" ] || return 1
  local counts
  counts=$(k get deployment "$name" -o 'jsonpath={.status.replicas} {.status.updatedReplicas} {.status.availableReplicas}')
  [ "$counts" = "$1 $1 $1" ]
}

# The sum of a metric over all gateways. A pod that is on its way out may not answer.
metric() {
  for pod in $(gateways); do
    kubectl get --raw "/api/v1/namespaces/$ns/pods/${pod#pod/}:9080/proxy/metrics" 2>/dev/null || true
  done | awk -v metric="$1" '$1 == metric { sum += $2 } END { printf "%d\n", sum }'
}
streams_at_least() { [ "$(metric sse_gateway_streams_open)" -ge "$1" ]; }

room() { kubectl get --raw "/api/v1/namespaces/$ns/services/$name:http/proxy/rooms/$1"; }
room_has() { room "$1" | grep "\"length\":$2[,}]" >/dev/null; }

# A Job that runs a program of the image once: run_job NAME VARIABLE=KEY PROGRAM ARGUMENT..., with a key of the release's
# Secret in a variable.
run_job() {
  local job=$1 variable=${2%=*} key=${2#*=} program=$3 arguments
  shift 3
  arguments=$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@")
  k apply -f - >/dev/null <<END
apiVersion: batch/v1
kind: Job
metadata: {name: "$job"}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: load}}
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
            - {name: $variable, valueFrom: {secretKeyRef: {name: $name, key: $key}}}
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
END
}

# job_ended NAME SECONDS FILE: waits for it, and writes what it said; fails if it failed.
job_ended() {
  local end=$((SECONDS + $2)) counts
  while :; do
    counts=$(k get job "$1" -o 'jsonpath={.status.succeeded}/{.status.failed}')
    [ "$counts" = / ] || break
    [ $SECONDS -lt $end ] || fail "the job $1 does not end"
    sleep 1
  done
  k logs "job/$1" >"$3"
  if [ "$counts" != 1/ ]; then
    cat "$3"
    fail "the job $1"
  fi
  k delete job "$1" --wait=false >/dev/null
}

# Looks at the gateways several times a second: a line of JSON for how all pods are, and one for what each says. Each is
# asked by a thread of its own, so that one that has just ended, and does not answer, holds up no other.
cat >"$work/watch.py" <<'END'
import json, sys, threading, time, urllib.parse, urllib.request

base, namespace, selector = sys.argv[1:]
pods = f"{base}/api/v1/namespaces/{namespace}/pods"
wanted = {
    "sse_gateway_streams_opened_total": "opened",
    'sse_gateway_streams_closed_total{reason="drain"}': "drained",
}
asked = {}


def get(url):
    with urllib.request.urlopen(url, timeout=3) as answer:
        return answer.read().decode()


def say(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def ask(name, gone):
    while not gone.wait(0.2):
        # One that has not begun, or has just ended, does not answer.
        try:
            lines = [line.rpartition(" ") for line in get(f"{pods}/{name}:9080/proxy/metrics").splitlines()]
            say({"pod": name, "at": time.time()} | {wanted[metric]: float(n) for metric, _, n in lines if metric in wanted})
        except OSError:
            pass


while True:
    try:
        items = json.loads(get(f"{pods}?labelSelector={urllib.parse.quote(selector)}"))["items"]
    except OSError:
        continue
    finally:
        time.sleep(0.25)
    states = {}
    for pod in items:
        status = pod["status"]
        states[pod["metadata"]["name"]] = {
            "going": "deletionTimestamp" in pod["metadata"],
            "ready": any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", [])),
            "restarts": sum(c["restartCount"] for c in status.get("containerStatuses", [])),
        }
    say({"at": time.time(), "pods": states})
    for name in states.keys() - asked.keys():
        asked[name] = threading.Event()
        threading.Thread(target=ask, args=(name, asked[name]), daemon=True).start()
    for name in asked.keys() - states.keys():
        asked[name].set()
END

# What a load and the looks at the gateways show.
cat >"$work/verdict.py" <<'END'
import collections, json, re, sys

bad = []


def load(path):
    """What sse-loadtest says in figures. It fails by itself where clients saw a fault, and not where nothing happened."""
    text = open(path).read()
    for line in text.splitlines():
        parts = re.split(r" {2,}", line.strip())
        if parts[0] == "delivery":
            print(f"Delivery time p50: {parts[1]} · p99: {parts[3]} · max: {parts[6]}")
        elif parts[0] in ("Publishing", "Delivering", "Checking") or parts[0].startswith("stream.reset"):
            print(" ".join(parts))
    found = re.search(r"deliveries: ([\d,]+) of ([\d,]+)", text)
    if not found or found[1] != found[2] or found[1] == "0":
        bad.append("the clients did not get what was published")


def share(parts, begin, end, length, amount):
    """Adds an amount that came at an even pace from begin to end to parts of a length."""
    last = len(parts) - 1
    for part in range(len(parts)):
        low = part * length
        high = end if part == last else low + length
        over = max(0.0, min(end, high) - max(begin, low))
        if end > begin:
            parts[part] += amount * over / (end - begin)


def drains(said, spread, wanted):
    found = []
    for name, seen in said.items():
        if not seen[-1]["drained"]:
            continue
        first = next(i for i, at in enumerate(seen) if at["drained"])
        if not first:
            bad.append(f"{name} was not seen before its drain")
            continue
        begin, tenths = seen[first - 1]["at"], [0.0] * 10
        # From look to look: what is known of the beginning and the end is that exact.
        took = next(at["at"] for at in seen if at["drained"] == seen[-1]["drained"]) - begin
        window = max(spread, took)
        for before, after in zip(seen[first - 1:], seen[first:]):
            closed, time = after["drained"] - before["drained"], after["at"] - before["at"]
            if closed and time > spread / 5:
                bad.append(f"{name} was not looked at for {time:.1f} s of its drain: the machine is too busy")
            share(tenths, before["at"] - begin, after["at"] - begin, window / 10, closed)
        total = seen[-1]["drained"]
        worst = max(tenths) / (total / 10)
        found.append((begin, total))
        print(f"drain of {name}: {total:.0f} streams closed, by tenths of {window:.1f} s: "
              f"{' '.join(f'{part:.0f}' for part in tenths)}; the busiest {worst:.2f} times the mean")
        if worst > 2:
            bad.append(f"{name} closed {worst:.2f} times the mean in one tenth of its drain")
        if took > spread + 3:
            bad.append(f"{name} closed its streams in {took:.1f} s, not {spread:g}")
    if len(found) != wanted:
        bad.append(f"{len(found)} pods were seen to drain, not {wanted}")
    return found


def reconnects(looks, said, spread, found):
    """All streams that were opened, by tenths of a drain: they follow the streams that were closed."""
    length, begin = spread / 10, looks[0]["at"]
    end = max(seen[-1]["at"] for seen in said.values())
    parts = [0.0] * (int((end - begin) / length) + 1)
    for name, seen in said.items():
        before = seen[0]
        if name not in looks[0]["pods"]:
            # It had none before it was there.
            before = {"at": min(look["at"] for look in looks if name in look["pods"]), "opened": 0}
        for after in seen:
            share(parts, before["at"] - begin, after["at"] - begin, length, after["opened"] - before["opened"])
            before = after
    total, most = sum(parts), max(parts)
    if not total:
        return
    print(f"{total:.0f} reconnects, at most {most:.0f} in {length:g} s")
    for number, count in enumerate(parts):
        at = begin + number * length
        # A client comes back up to RETRY seconds after its stream was closed.
        mean = sum(total / 10 for start, total in found if start - length < at < start + spread + RETRY + length)
        if found and count > 2 * mean + 5:
            bad.append(f"{count:.0f} clients came back in {length:g} s, {at - found[0][0]:.0f} s after the first drain "
                       f"began, where {mean:.0f} are the mean")


_, report, watched, spread, wanted, ready, RETRY = sys.argv
RETRY = float(RETRY)
load(report)
looks, said = [], collections.defaultdict(list)
for line in open(watched):
    if line.endswith("\n"):
        look = json.loads(line)
        if "pod" in look:
            said[look["pod"]].append(look)
        else:
            looks.append(look)
reconnects(looks, said, float(spread), drains(said, float(spread), int(wanted)))
least = min(sum(p["ready"] and not p["going"] for p in look["pods"].values()) for look in looks)
if least < int(ready):
    bad.append(f"only {least} gateways were ready at one time, not {ready}")
restarts = max(p["restarts"] for look in looks for p in look["pods"].values())
if restarts:
    bad.append(f"a gateway restarted {restarts} times")
print(f"never fewer than {least} gateways ready, {restarts} restarts, {len(looks)} looks")
for sentence in bad:
    print(f"FAILED: {sentence}")
sys.exit(bool(bad))
END

# under_load NAME SECONDS DRAINS READY COMMAND...: the command runs once all streams are open, and must be over before
# the load is. Meanwhile so many pods drain, and never fewer gateways are ready.
under_load() {
  local what=$1 seconds=$2 drains=$3 ready=$4
  shift 4
  run_job "load-$what" SSE_PUBLISH_KEY=publish-key sse-loadtest run --url "http://$name" --publish=http \
    "--connections=$connections" --rooms=20 --rate=50 "--duration=${seconds}s" --patience=60s --quiet
  until_true 60 "the streams of $what do not open" streams_at_least "$connections"
  python3 "$work/watch.py" "$api" "$ns" "$gateway" >"$work/looks" &
  watcher=$!
  local began=$SECONDS took
  "$@"
  took=$((SECONDS - began))
  [ "$(k get job "load-$what" -o 'jsonpath={.status.active}')" = 1 ] || fail "$what took longer than its load: $took s"
  job_ended "load-$what" $((seconds + 120)) "$work/load"
  kill "$watcher"
  wait "$watcher" 2>/dev/null || true
  watcher=''
  python3 "$work/verdict.py" "$work/load" "$work/looks" "$spread" "$drains" "$ready" "$retry" >"$work/said" ||
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

kubectl proxy --port=0 >"$work/proxy" 2>&1 &
proxy=$!
until_true 20 "kubectl proxy does not begin" grep -q '127.0.0.1:' "$work/proxy"
api=http://$(grep -o '127.0.0.1:[0-9]*' "$work/proxy")

# 1. Everything that the chart renders, before a server.
kubectl create namespace "$ns" >/dev/null
kubectl label namespace "$ns" pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted >/dev/null
until_true 30 "the namespace gets no service account" k get serviceaccount default
for file in ${CRDS:+"$CRDS"/*.yaml}; do
  # Those that the cluster has stay as they are.
  # shellcheck disable=SC2207
  kubectl get -f "$file" >/dev/null 2>&1 || definitions+=($(kubectl create -o name -f "$file"))
done
[ ${#definitions[@]} = 0 ] || kubectl wait --for=condition=Established --timeout=60s "${definitions[@]}" >/dev/null
helm/checks/rendering.py "$work/objects" | sed 's/ in [^ ]*$//; s/^/    /'
known=() unknown=()
for kind in $(printf '%s\n' "$work"/objects/*.yaml | sed 's/.*-//; s/\.yaml$//' | sort -u); do
  if kubectl explain "$kind" >/dev/null 2>&1; then
    for file in "$work"/objects/*-"$kind.yaml"; do known+=(-f "$file"); done
  else
    unknown+=("$kind")
  fi
done
if ! k apply --dry-run=server "${known[@]}" >"$work/accepted" 2>"$work/said"; then
  cat "$work/said" >&2
  fail "the API server refuses an object"
fi
ok "$(grep -c . "$work/accepted") objects are accepted by the API server"
[ ${#unknown[@]} = 0 ] || echo "    left out, as the cluster does not know them: ${unknown[*]}"
# Sidecars of the value sets are a user's business.
if grep 'would violate' "$work/said" | grep -v sidecar >&2; then fail "a pod is not restricted"; fi

# 2. Install, and the chart's own test.
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

# 3. Publish as NOTES.txt says, and by the CLI in a Job.
k exec "$name-redis-0" -- redis-cli FCALL sse_publish 1 sse:room:demo event chat data hi >/dev/null
until_true 10 "the event of redis-cli is not in the room" room_has demo 1
run_job publish SSE_REDIS__URL=redis-url sse-publish demo --event chat --data "from a Job"
job_ended publish 60 "$work/published"
until_true 10 "the event of the CLI is not in the room" room_has demo 2
ok "publish: redis-cli in the Redis pod, sse-publish in a Job"

# 4. Disturbances.
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

# 5. Uninstall leaves the volume claim, and says so.
"$HELM" get notes "$release" --namespace "$ns" | grep "delete pvc data-$name-redis-0" >/dev/null || fail "the notes do not name the claim"
"$HELM" uninstall "$release" --namespace "$ns" --wait --timeout 3m >/dev/null
only_the_claim() {
  everything >"$work/after"
  [ "$(comm -13 "$work/before" "$work/after")" = "persistentvolumeclaim/data-$name-redis-0" ]
}
until_true 120 "the uninstall leaves more, or less, than the volume claim" only_the_claim
ok "uninstall leaves nothing but the volume claim, and says so"
