#!/usr/bin/env bash
# Make (or bring up to date) the virtual environment named by the first argument, with the project and its tools.
# PYTHON=… chooses the interpreter; without it the first on PATH that is new enough is taken.
set -euo pipefail
venv=${1:?usage: install.sh DIRECTORY}
cd "$(dirname "$0")/.."

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

choose_python() {
    if [[ -n ${PYTHON:-} ]]; then
        new_enough "$PYTHON" && { echo "$PYTHON"; return; }
        echo "install: PYTHON=$PYTHON is not a Python 3.11 or newer." >&2
        return 1
    fi
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        new_enough "$name" && { echo "$name"; return; }
    done
    echo "install: raftlog needs Python 3.11 or newer, and none is on PATH (python3 is: $(python3 --version 2>&1 || true))." >&2
    echo "install: install one, or name it: make install PYTHON=/path/to/python3.11" >&2
    return 1
}

if ! new_enough "$venv/bin/python"; then
    python=$(choose_python)
    echo "install: making $venv with $("$python" --version)" >&2
    if ! "$python" -m venv --clear "$venv"; then
        echo "install: $python cannot make environments; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    fi
fi
echo "install: getting the project's packages (the first time takes some minutes)" >&2
pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install --upgrade 'pip>=25.1' # dependency groups
"${pip[@]}" install --editable . --group dev
