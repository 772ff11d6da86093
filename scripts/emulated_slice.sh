#!/usr/bin/env bash
# Serve on a TPU slice that is emulated on this machine. `scripts/emulated_slice.sh --help` lists the options.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/_environment.sh"
run_module emulation.hosts slice "$@"
