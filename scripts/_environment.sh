# Sourced by the other scripts: makes .venv with the pinned requirements of a flavour, once. Needs Python 3.11+ and nothing else.

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
# Modules that are meant for the user's apps reach those alone (emulation/hosts/user_path.py), and no other Python's home any.
export RTS_PYTHONPATH="${RTS_PYTHONPATH:-${PYTHONPATH:-}}"
unset PYTHONHOME PYTHONPATH

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

# run_module MODULE ARGUMENT...: the arguments and this machine are checked before anything is installed.
run_module() {
  local python code=0
  python=$(find_python) || exit 2
  PYTHONPATH=$root "$python" -P -m "$1" check "${@:2}" || code=$?
  [ "$code" != 100 ] || exit 0 # nothing is left to do, as after --help (apps/common/command_line.py)
  [ "$code" = 0 ] || exit "$code"
  ensure_environment cpu
  PYTHONPATH=$root exec "$root/.venv/bin/python" -P -m "$@"
}

# ensure_environment FLAVOUR: .venv holds runtime_env/requirements-FLAVOUR.txt of this checkout.
ensure_environment() {
  fill_environment "$root/.venv" "$1"
  [ "$1" != dev ] || digest cpu > "$root/.venv/installed-cpu" # dev holds all of cpu
}

# fill_environment DIRECTORY FLAVOUR: does nothing where it is whole. Killed at any point, the next run goes on where it stopped.
fill_environment() {
  local directory=$1 flavour=$2 uv
  if runs "$directory" && [ "$(cat "$directory/installed-$flavour" 2>/dev/null)" = "$(digest "$flavour")" ]; then return; fi
  check_place
  printf 'Installing the environment into %s (once, some minutes)\n' "$directory" >&2
  find_uv
  runs "$directory" || make_environment "$directory"
  # --no-deps: the file is complete, and some of its packages ask for others that must stay out (runtime_env/overrides-cpu.txt)
  "$uv" pip install --python "$directory/bin/python" --no-deps --compile-bytecode --requirement "$(requirements "$flavour")" ||
    fail "the environment could not be installed; run the command again to go on where it stopped (uv's own message is above)"
  digest "$flavour" > "$directory/installed-$flavour"
}

requirements() { echo "$root/runtime_env/requirements-$1.txt"; }

# digest FLAVOUR: changes when its requirements do.
digest() { cksum < "$(requirements "$1")"; }

# runs DIRECTORY: its Python starts, and is the one that its packages are for.
runs() {
  "$1/bin/python" -c 'import os, sys, sysconfig; sys.exit(sys.version_info < (3, 11) or not os.path.isdir(sysconfig.get_path("purelib")))' 2>/dev/null
}

# make_environment DIRECTORY: empty, made beside it and moved. It can be moved again: nothing in it has its path.
make_environment() {
  local python; python=$(find_python) || exit 2
  rm -rf "$1.new"
  "$uv" venv --quiet --relocatable --python "$python" "$1.new" || fail "no environment could be made in $1.new (uv's own message is above)"
  rm -rf "$1"
  mv "$1.new" "$1"
}

# Set `uv` to the program: the user's own, or one in .venv-uv.
find_uv() {
  local python
  uv=$(command -v uv || echo "$root/.venv-uv/bin/uv")
  "$uv" --version >/dev/null 2>&1 && return
  python=$(find_python) || exit 2
  if ! "$python" -m venv --clear "$root/.venv-uv" >/dev/null; then
    rm -rf "$root/.venv-uv"
    fail "$python has no module venv with pip: install it (Debian, Ubuntu: apt-get install python3-venv), or uv, and run the command again"
  fi
  "$root/.venv-uv/bin/python" -m pip install --quiet --disable-pip-version-check uv ||
    fail "uv could not be installed with pip; is the package registry reachable? (pip's own message is above)"
}

check_place() {
  local free_gib; free_gib=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1048576)}')
  [ -w "$root" ] || fail "$root belongs to $(stat -c %U "$root"), and $(id -un) cannot write to it: clone the project into a directory of your own"
  [ "$free_gib" -ge 8 ] || fail "$root: ${free_gib} GiB of disk free, the environment needs 8 GiB"
}
