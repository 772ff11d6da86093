#!/usr/bin/env bash
# Build docs/ into site/, strictly. --serve shows it at http://127.0.0.1:8800 while you write, --reference writes docs/reference/ from the code.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/_environment.sh
case "${1:-}" in
  -h | --help) sed -n '2s/^# //p' "$0"; exit 0 ;;
  --reference) ensure_environment dev; exec .venv/bin/python -m docs.make_reference ;;
  "" | --serve) ;;
  *) fail "$1: expected --serve, --reference or nothing" ;;
esac
# An environment of its own: mkdocs' packages must not change those that serve.
requirements=runtime_env/requirements-docs.txt
if [ "$(cat .venv-docs/installed 2>/dev/null)" != "$(digest "$requirements")" ]; then
  python=$(find_python) || exit 2
  printf 'Installing what builds the docs into .venv-docs (once)\n' >&2
  "$python" -m venv --clear .venv-docs || fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
  .venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$requirements" ||
    fail "the environment could not be installed; is the package registry reachable? (pip's own message is above)"
  digest "$requirements" > .venv-docs/installed
fi
export NO_MKDOCS_2_WARNING=1
if [ "${1:-}" = --serve ]; then
  exec .venv-docs/bin/mkdocs serve --strict --dev-addr 127.0.0.1:8800
fi
.venv-docs/bin/mkdocs build --strict --site-dir site
echo "site/index.html"
