#!/usr/bin/env bash
# Set up what the tests need and run them all. Arguments go to pytest: `scripts/test.sh -k weights`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_environment.sh
case "${1:-}" in -h | --help) sed -n '2s/^# //p' "$0"; exit 0 ;; esac
ensure_environment dev
# What some tests need of the system, and its Debian packages.
missing() { for program in chromium chromedriver prometheus promtool redis-server; do command -v "$program" >/dev/null || return 0; done; return 1; }
packages="chromium chromium-driver prometheus redis-server"
if missing; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086 # a list of words
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $packages >/dev/null
  else
    echo "not everything is installed: tests of the browser, of Prometheus or of Redis are skipped (Debian: apt-get install $packages)" >&2
  fi
fi
.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy
[ $# = 0 ] || exec .venv/bin/python -m pytest "$@"

# These mostly wait, or need no time of their own, so they run beside the others. Ray's workers are nice by 15, and must not starve.
beside="tests/checks tests/slice tests/weights tests/kuberay"
mkdir -p test-artifacts
set -m # job control: the background's processes are a group of their own, and Ctrl-C means in it what it means elsewhere
# shellcheck disable=SC2086 # a list of words
nice -n 15 .venv/bin/python -m pytest --durations=15 $beside > test-artifacts/beside.log 2>&1 &
background=$!
trap 'kill -- "-$background" 2>/dev/null || true' EXIT
failed=0
# shellcheck disable=SC2086
.venv/bin/python -m pytest --durations=40 $(printf -- '--ignore=%s ' $beside) || failed=1
echo "beside them, $beside:"
wait "$background" || failed=1
cat test-artifacts/beside.log
exit "$failed"
