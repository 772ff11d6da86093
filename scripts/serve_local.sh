#!/usr/bin/env bash
# Serve Gemma on this laptop. `scripts/serve_local.sh --help` lists the options.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_environment.sh
python=$(find_python) || exit 2
# Options are checked before anything is installed.
"$python" -m emulation.hosts check-options up "$@" || exit 2
case " $* " in *" --help "* | *" -h "*) exit 0 ;; esac
ensure_environment cpu
exec .venv/bin/python -m emulation.hosts up "$@"
