#!/usr/bin/env bash
# The steps of the Dockerfiles, which also work by hand:
#   bash docker/install.sh install VENV        makes VENV on top of a Python that has torch and vLLM, and installs the rest
#   bash docker/install.sh dependencies VENV   makes VENV on top of nothing: torch, vLLM and, compiled, flash attention
#   bash docker/install.sh finish VENV         installs this repository into such a VENV
#   bash docker/install.sh check VENV [arguments of verl.sdpo.doctor]
# PYTHON=... chooses the interpreter, python3 by default.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

install() { # VENV
    # NVIDIA's images pin what pip may install; what differs from these pins goes into the environment of our own,
    # so that nothing of the image is replaced.
    unset PIP_CONSTRAINT
    # Without pip: Debian's Python cannot install it, and the one of the image serves.
    "${PYTHON:-python3}" -m venv --system-site-packages --without-pip "$1"
    into "$1" --requirement "$repo/requirements-gh200.txt"
    finish "$1"
}

dependencies() { # VENV
    "${PYTHON:-python3}" -m venv "$1"
    into "$1" --requirement "$repo/requirements-full.txt"
    # What the setup.py of flash attention imports.
    into "$1" wheel==0.48.0
    into "$1" --no-build-isolation --requirement "$repo/requirements-cuda.txt"
}

into() { # VENV ARGUMENTS...
    "$1/bin/python" -m pip install --no-cache-dir --no-deps "${@:2}"
}

finish() { # VENV
    into "$1" --no-build-isolation --editable "$repo"
    # Containers often run as another user than the one that built them.
    chmod -R a+rX "$1" "$repo"
}

check() { # VENV ARGUMENTS...
    local python=$1/bin/python
    shift
    # From another folder: the repository's own must not be what makes the imports work.
    cd /
    "$python" -m verl.sdpo.doctor --installation-only "$@"
}

case ${1:-} in
install) install "$2" ;;
dependencies) dependencies "$2" ;;
finish) finish "$2" ;;
check) check "${@:2}" ;;
*)
    echo "Usage: bash docker/install.sh install VENV, dependencies VENV, finish VENV, or check VENV [arguments]; got: ${*:-nothing}" >&2
    exit 2
    ;;
esac
