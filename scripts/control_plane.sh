#!/usr/bin/env bash
# A real Kubernetes control plane with the real KubeRay operator on this machine. `scripts/control_plane.sh --help` lists the commands.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/_environment.sh"
run_module emulation.kubernetes "$@"
