#!/usr/bin/env bash
# Stop what scripts/serve_local.sh or emulated_slice.sh has started. `scripts/stop_local.sh --help` lists the options.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/_environment.sh"
run_module emulation.hosts down "$@"
