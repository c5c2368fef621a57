#!/usr/bin/env bash
# All three methods on a machine without a GPU: the quickstart's model, questions that it rarely solves (cpu_tasks.py),
# 64 attempts each; then table and plot. Run it again at any time: what is there already is kept.
#   bash experiments/ttt/run_cpu.sh
# Environment: SEEDS (0), QUESTIONS (1 2 4; there are six), BUDGET (64), KIND (tool-json, or renamed-key: the questions
# name a key that the service no longer takes, and only its error message tells)
set -euo pipefail
if (($#)); then
    echo "$0 takes no arguments, got: $*. Its settings are environment variables: SEEDS, QUESTIONS, BUDGET, KIND." >&2
    exit 2
fi

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repo"
bash experiments/setup_cpu.sh
export PYTHON=$repo/.venv/bin/python MODEL=$repo/outputs/quickstart/model
kind=${KIND:-tool-json}
case $kind in
tool-json) out=outputs/ttt_cpu sdpo=ttt_cpu_sdpo ;;
renamed-key) out=outputs/ttt_cpu_renamed_key sdpo=ttt_cpu_renamed_key_sdpo ;;
*) echo "KIND=$kind: expected tool-json or renamed-key." >&2 && exit 2 ;;
esac
export SDPO_DIR=$repo SDPO_LOG_DIR=$repo/$out/logs SDPO_CKPT_DIR=$repo/$out/checkpoints
export SINGLES=$out/questions TTT_DIR=$out/runs
export VERL_PLATFORM=cpu HF_HUB_OFFLINE=1
# setup_cpu.sh has just made this installation.
export SDPO_SKIP_DOCTOR=yes
# On a busy machine Ray's node takes longer than the 30 s that it is given by default.
export RAY_raylet_start_wait_time_s=180

if [[ ! -d $MODEL ]]; then
    "$PYTHON" -m experiments.quickstart.build_model "$MODEL"
fi
"$PYTHON" -m experiments.ttt.cpu_tasks "$SINGLES" --task "$kind"
finished=yes
bash experiments/launcher.sh --local ttt_cpu_best_of_k ttt_cpu_multiturn "$sdpo" || finished=
"$PYTHON" -m verl.sdpo.test_time.discovery "$TTT_DIR"
[[ -n $finished ]]
