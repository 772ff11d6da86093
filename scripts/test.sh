#!/usr/bin/env bash
# Set up what the tests need and run them all. Arguments go to pytest: `scripts/test.sh -k weights`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_environment.sh
case "${1:-}" in -h | --help) sed -n '2s/^# //p' "$0"; exit 0 ;; esac
ensure_environment dev
# What some tests need of the system, and its Debian packages.
missing() { for program in chromium chromedriver prometheus promtool; do command -v "$program" >/dev/null || return 0; done; return 1; }
packages="chromium chromium-driver prometheus"
if missing; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086 # a list of words
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null
  else
    echo "not everything is installed: tests of the browser or of Prometheus are skipped (Debian: apt-get install $packages)" >&2
  fi
fi
.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
