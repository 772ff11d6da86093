#!/usr/bin/env bash
# Stop what scripts/serve_local.sh --detach started. `scripts/stop_local.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_environment.sh
python=$(find_python) || exit 2
"$python" -m emulation.hosts check-options down "$@" || exit 2
case " $* " in *" --help "* | *" -h "*) exit 0 ;; esac
[ -x .venv/bin/python ] || { echo "nothing is running"; exit 0; }
exec .venv/bin/python -m emulation.hosts down "$@"
