#!/usr/bin/env bash
# What the chart has to pass; needs helm and Python 3, and no cluster.
set -euo pipefail
cd "$(dirname "$0")"

export HELM=${HELM:-helm}
if ! command -v "$HELM" >/dev/null; then
  HELM=$(go env GOPATH 2>/dev/null || true)/bin/helm
  if [ ! -x "$HELM" ]; then
    echo "SKIPPED: the test of the chart needs helm (go install helm.sh/helm/v3/cmd/helm@latest, or https://helm.sh/docs/intro/install)" >&2
    exit 0
  fi
fi

./readme.py --check
for values in sse-gateway/ci/*-values.yaml; do
  "$HELM" lint --strict --quiet --kube-version 1.31.0 --values "$values" sse-gateway
done
python3 -B -m unittest discover --start-directory checks
