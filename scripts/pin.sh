#!/usr/bin/env bash
# Write the pinned requirements of every flavour from pyproject.toml. Run it after a change of dependencies, and commit the result.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/_environment.sh"
cd "$root"
case "${1:-}" in -h | --help) sed -n '2s/^# //p' "$0"; exit 0 ;; esac
find_uv
export UV_CUSTOM_COMPILE_COMMAND=scripts/pin.sh
pin() { "$uv" pip compile pyproject.toml --quiet --no-annotate --no-emit-index-url --no-emit-find-links "$@"; }
pin --universal --python-version 3.11 --override runtime_env/overrides-cpu.txt --extra cpu --extra k8s --output-file runtime_env/requirements-cpu.txt
pin --universal --python-version 3.11 --override runtime_env/overrides-cpu.txt --override runtime_env/overrides-dev.txt --extra cpu --extra dev --extra k8s --output-file runtime_env/requirements-dev.txt
pin --python-platform x86_64-manylinux_2_31 --python-version 3.12 --extra tpu --output-file runtime_env/requirements-tpu.txt
"$uv" pip compile --quiet --no-annotate --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
  --group pyproject.toml:docs --output-file runtime_env/requirements-docs.txt
