# shellcheck shell=bash disable=SC2154
# The stage `objects` of deploy/kube-test.sh, which sources it: everything that the chart renders, before a server.

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
