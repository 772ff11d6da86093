#!/usr/bin/env bash
# Serve Gemma on this laptop. `scripts/serve_local.sh --help` lists the options.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/_environment.sh"
run_module emulation.hosts up "$@"
