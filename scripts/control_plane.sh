#!/usr/bin/env bash
# A real Kubernetes control plane with the real KubeRay operator on this machine. `scripts/control_plane.sh --help` lists the commands.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_environment.sh
python=$(find_python) || exit 2
# Options are checked before anything is installed.
"$python" -m emulation.kubernetes check-options "$@" || exit 2
case " $* " in *" --help "* | *" -h "*) exit 0 ;; esac
ensure_environment cpu
exec .venv/bin/python -m emulation.kubernetes "$@"
