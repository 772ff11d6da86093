#!/usr/bin/env bash
# Dashboards and alerts of a running local stack, by Prometheus. `scripts/observe_local.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_environment.sh
[ -x .venv/bin/python ] || fail "no local stack runs: start one with scripts/serve_local.sh or scripts/emulated_slice.sh"
exec .venv/bin/python -m emulation.hosts.observe "$@"
