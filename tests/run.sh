#!/usr/bin/env bash
# Sets up .venv if need be and runs the tests: bash tests/run.sh [pytest arguments]
# Without arguments all of them, in two processes: one has the whole runs, the other the rest (tests/conftest.py).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$repo/experiments/setup_cpu.sh"
cd "$repo"
(($#)) || set -- --numprocesses 2 --no-loadscope-reorder
exec env HF_HUB_OFFLINE=1 "$repo/.venv/bin/python" -m pytest "$@"
