#!/usr/bin/env bash
# Sets up .venv if need be and runs the tests: bash tests/run.sh [pytest arguments]
# Without arguments all of them, in two processes: one has the whole runs, the other the rest (tests/conftest.py).
#   PYTHON=/path/to/gpu/venv/bin/python bash tests/run.sh -m gpu    those of a GPU, and nothing is installed (docs/installation.md)
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo"
python=$repo/.venv/bin/python
if [[ "${1-} ${2-}" == "-m gpu" ]]; then
    python=${PYTHON:?names the Python of the GPU environment, with pytest in it}
    set -- tests/gpu "$@"
else
    bash "$repo/experiments/setup_cpu.sh"
fi
(($#)) || set -- --numprocesses 2 --no-loadscope-reorder
exec env HF_HUB_OFFLINE=1 "$python" -m pytest "$@"
