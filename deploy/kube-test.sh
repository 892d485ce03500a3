#!/usr/bin/env bash
# Proves the chart on the cluster that kubectl points at, in three stages (deploy/kube-test), the latter two in a namespace
# that enforces the Pod Security Standard "restricted":
#
#   objects  everything that the chart renders is accepted by the API server
#   load     three gateways with the chart's own Redis lose nothing while they are upgraded, scaled, killed and drained,
#            and while Redis is away. Each disturbance happens under `sse-loadtest run`, whose clients come back as
#            browsers do, and which fails if one event is lost, repeated, out of order or changed, or a client is
#            answered anything but 200. Meanwhile the gateways are looked at: no tenth of a pod's drain may close more
#            than twice the mean, and no gateway may restart
#   access   a release with TLS, tokens and keys from Secrets: who is let in, and what happens when Secrets change
#
#   deploy/kube-test.sh
#   HOST_PATH=/tmp/redis deploy/kube-test.sh      # a cluster of one node, without volumes
#
# Needs kubectl, helm and Python 3, for `access` curl with HTTP/2 and openssl, and some fifteen minutes.
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
#   STAGES       which of the stages (objects load access)
#   KEEP         1 leaves the namespace for a look
#   REQUIRED     1 fails where there is no cluster, in place of saying so
# With pipefail, nothing that stops reading early (head, grep -q) may end a pipe: its writer would fail, now and then.
# What only the stages use looks unused here.
# shellcheck disable=SC2034
set -euo pipefail
cd "$(dirname "$0")/.."

image=${IMAGE:-sse-gateway:0.1.0}
redis_image=${REDIS_IMAGE:-docker.io/library/redis:7.4-alpine}
ns=${NAMESPACE:-sse-gateway-test}
connections=${CONNECTIONS:-900}
stages=${STAGES:-objects load access}
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
tools=("$HELM" python3)
[[ $stages != *access* ]] || tools+=(curl openssl)
for tool in "${tools[@]}"; do
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
release='' name='' gateway=''
# for_release NAME: whose objects the functions below are about.
for_release() {
  release=$1
  name=$release-sse-gateway
  gateway=app.kubernetes.io/instance=$release,app.kubernetes.io/component=gateway
}
proxy='' watcher='' helpers='' volume='' definitions=()
cleanup() {
  status=$?
  if [ "$status" != 0 ]; then
    k get pods -o wide >&2 || true
    k get events --sort-by=.lastTimestamp 2>/dev/null | tail -n 20 >&2 || true
    [ -z "$gateway" ] || k logs --selector "$gateway" --tail=20 --prefix >&2 || true
  fi
  # shellcheck disable=SC2086
  kill $watcher $helpers $proxy 2>/dev/null || true
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

kubectl proxy --port=0 >"$work/proxy" 2>&1 &
proxy=$!
until_true 20 "kubectl proxy does not begin" grep -q '127.0.0.1:' "$work/proxy"
api=http://$(grep -o '127.0.0.1:[0-9]*' "$work/proxy")

kubectl create namespace "$ns" >/dev/null
kubectl label namespace "$ns" pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted >/dev/null
until_true 30 "the namespace gets no service account" k get serviceaccount default
for file in ${CRDS:+"$CRDS"/*.yaml}; do
  # Those that the cluster has stay as they are.
  # shellcheck disable=SC2207
  kubectl get -f "$file" >/dev/null 2>&1 || definitions+=($(kubectl create -o name -f "$file"))
done
[ ${#definitions[@]} = 0 ] || kubectl wait --for=condition=Established --timeout=60s "${definitions[@]}" >/dev/null
for stage in $stages; do
  # shellcheck disable=SC1090
  . "deploy/kube-test/$stage.sh"
done
