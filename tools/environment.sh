#!/usr/bin/env bash
# Makes the environment that the Makefile uses: the locked packages, and this project in place.
# The first Python from 3.11 on that really starts is taken (version managers leave stubs that do not).
set -eu

venv=$1
if [ ! -x "$venv/bin/python" ]; then
    python=
    for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "Python 3.11 or later with venv is needed (Debian and Ubuntu: apt install python3 python3-venv)." >&2
        exit 69
    fi
    echo "Making $venv with $python ..." >&2
    "$python" -m venv "$venv"
fi
if command -v uv >/dev/null 2>&1; then
    uv pip install --quiet --python "$venv/bin/python" --require-hashes --only-binary :all: -r requirements.lock
    uv pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e .
else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
fi
