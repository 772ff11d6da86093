# Sourced by the other scripts: makes .venv with the pinned requirements of a flavour, once. Needs Python 3.11+ and nothing else.

fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

# Print the first Python that is new enough.
find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "Python 3.11, 3.12 or 3.13 is needed, and python3 is $(python3 --version 2>&1 | tail -n 1); install one of them"
}

# digest FILE: changes when the file does.
digest() { cksum < "$1"; }

# ensure_environment FLAVOUR: does nothing when .venv already has runtime_env/requirements-FLAVOUR.txt of this checkout.
ensure_environment() {
  local requirements="runtime_env/requirements-$1.txt" stamp=".venv/installed-$1" python
  python=$(find_python) || exit 2
  [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(digest "$requirements")" ] && return
  check_disk
  printf 'Installing the environment into .venv (once, some minutes)\n' >&2
  [ -x .venv/bin/python ] || "$python" -m venv .venv || fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
  if ! command -v uv >/dev/null && ! [ -x .venv/bin/uv ]; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check uv ||
      fail "uv could not be installed with pip; is the package registry reachable? (pip's own message is above)"
  fi
  local uv; uv=$(command -v uv || echo .venv/bin/uv)
  # --no-deps: the file is complete, and some of its packages ask for others that must stay out (runtime_env/overrides-cpu.txt)
  "$uv" pip install --python .venv/bin/python --no-deps --compile-bytecode --requirement "$requirements" ||
    fail "the environment could not be installed; run the command again to go on where it stopped (uv's own message is above)"
  digest "$requirements" > "$stamp"
  [ "$1" != dev ] || digest runtime_env/requirements-cpu.txt > .venv/installed-cpu # dev holds all of cpu
}

check_disk() {
  local free_gib; free_gib=$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')
  [ "$free_gib" -ge 8 ] || fail "$PWD: ${free_gib} GiB of disk free, the environment needs 8 GiB"
}
