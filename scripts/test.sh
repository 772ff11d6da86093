#!/usr/bin/env bash
# Set up what the tests need and run each feature's main path, in ten minutes. --all runs everything, --rest what the first leaves out; other arguments go to pytest.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/_environment.sh"
cd "$root"
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
# Real stacks run one after the other, and the tests of the weights after them; beside them, what mostly waits, so that both take about as long. Ray's
# workers are nice by 15, and must not starve.
run_tier() {
  local tier=$1 marks=$2 failed=0 began=$SECONDS background log
  log=test-artifacts/beside-$tier.log
  mkdir -p test-artifacts
  set -m # job control: the background's processes are a group of their own, and Ctrl-C means in it what it means elsewhere
  nice -n 15 .venv/bin/python -m pytest -m "$marks" --durations=15 --ignore=tests/e2e --ignore=tests/guard --ignore=tests/weights > "$log" 2>&1 &
  background=$!
  # shellcheck disable=SC2064 # this background
  trap "kill -- -$background 2>/dev/null || true" EXIT
  .venv/bin/python -m pytest -m "$marks" --durations=40 tests/guard tests/weights tests/e2e || failed=1
  wait "$background" || failed=1
  trap - EXIT
  echo "beside them, all but tests/guard, tests/weights and tests/e2e:"
  cat "$log"
  echo "$tier: $((SECONDS - began)) s, load $(cut -d' ' -f1-3 /proc/loadavg)"
  return "$failed"
}

static() { .venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy; }

case "${1:-}" in
  "") static; run_tier quick "not full" ;;
  --all)
    static
    status=0
    run_tier quick "not full" || status=1
    run_tier rest full || status=1
    exit "$status" ;;
  --rest) run_tier rest full ;;
  *) static; exec .venv/bin/python -m pytest "$@" ;;
esac
