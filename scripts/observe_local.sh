#!/usr/bin/env bash
# Dashboards and alerts of a running local stack, by Prometheus. `scripts/observe_local.sh --help` lists the options.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/_environment.sh"
runs "$root/.venv" && [ -e "$root/.venv/installed-cpu" ] || fail "no local stack runs: start one with scripts/serve_local.sh or scripts/emulated_slice.sh"
PYTHONPATH=$root exec "$root/.venv/bin/python" -P -m emulation.hosts.observe "$@"
