#!/usr/bin/env bash
# The demo page in headless Chromium through node kills, and pages with a cookie. Uses the binary in SSE_GATEWAY, or builds
# one. Says which program is missing when it skips; with CI set, a missing program is a failure.
set -euo pipefail
cd "$(dirname "$0")"

skip() {
  echo "SKIPPED: the page test needs $1" >&2
  [ -z "${CI:-}" ] || exit 1
  exit 0
}

command -v node > /dev/null || skip "node 20 or later (apt-get install nodejs)"
command -v npm > /dev/null || skip "npm (apt-get install npm)"
command -v redis-server > /dev/null || skip "redis-server (apt-get install redis-server)"
command -v redis-cli > /dev/null || skip "redis-cli (apt-get install redis-tools)"
command -v haproxy > /dev/null || skip "haproxy (apt-get install haproxy)"
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || true)}
[ -n "$CHROMIUM" ] || skip "chromium (apt-get install chromium)"
export CHROMIUM

if [ -z "${SSE_GATEWAY:-}" ]; then
  (cd ../../.. && cargo build --quiet -p gateway)
  SSE_GATEWAY="${CARGO_TARGET_DIR:-$(cd ../../.. && pwd)/target}/debug/sse-gateway"
fi
export SSE_GATEWAY

npm install --no-audit --no-fund --silent || skip "the npm registry, for playwright-core"
exec node --test page.test.mjs cookie.test.mjs
