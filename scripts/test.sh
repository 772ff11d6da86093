#!/usr/bin/env bash
# Set up what the tests need and run them all. Arguments go to pytest: `scripts/test.sh -k weights`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_environment.sh
case "${1:-}" in -h | --help) sed -n '2s/^# //p' "$0"; exit 0 ;; esac
ensure_environment dev
if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null
  else
    echo "chromium and chromedriver are not installed: the browser test is skipped (Debian: apt-get install chromium chromium-driver)" >&2
  fi
fi
.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
