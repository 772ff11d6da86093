#!/usr/bin/env bash
# Build docs/ into site/, strictly. --serve shows it at http://127.0.0.1:8800 while you write, --reference writes docs/reference/ from the code.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/_environment.sh"
cd "$root"
case "${1:-}" in
  -h | --help) sed -n '2s/^# //p' "$0"; exit 0 ;;
  --reference) ensure_environment dev; exec .venv/bin/python -m docs.make_reference ;;
  "" | --serve) ;;
  *) fail "$1: expected --serve, --reference or nothing" ;;
esac
# An environment of its own: mkdocs' packages must not change those that serve.
fill_environment "$root/.venv-docs" docs
export NO_MKDOCS_2_WARNING=1
if [ "${1:-}" = --serve ]; then
  exec .venv-docs/bin/mkdocs serve --strict --dev-addr 127.0.0.1:8800
fi
.venv-docs/bin/mkdocs build --strict --site-dir site
echo "site/index.html"
