#!/bin/sh
# Ray runs this in HAProxy's place (RAY_SERVE_HAPROXY_BINARY_PATH); the package runtime_env/haproxy edits Ray's configuration first.
exec env PYTHONPATH="$(dirname "$0")/.." "${HAPROXY_PYTHON:-python3}" -S -m runtime_env.haproxy "$@"
