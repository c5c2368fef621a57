#!/usr/bin/env bash
# All three methods on a machine without a GPU: the quickstart's model, questions that it rarely solves (cpu_tasks.py),
# 64 attempts each; then table and plot. Run it again at any time: what is there already is kept.
#   bash experiments/ttt/run_cpu.sh
# Environment: SEEDS (0), QUESTIONS (1 2 4; there are six), BUDGET (64)
set -euo pipefail
if (($#)); then
    echo "$0 takes no arguments, got: $*. Its settings are environment variables: SEEDS, QUESTIONS, BUDGET." >&2
    exit 2
fi
QUESTIONS=${QUESTIONS:-1 2 4}
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repo"
bash experiments/setup_cpu.sh
PYTHON=$repo/.venv/bin/python
MODEL=$repo/outputs/quickstart/model
environment=$repo/experiments/quickstart/environment.py
export SDPO_DIR=$repo SDPO_LOG_DIR=$repo/outputs/ttt_cpu/logs SDPO_CKPT_DIR=$repo/outputs/ttt_cpu/checkpoints
TTT_DIR=$repo/outputs/ttt_cpu/runs
export VERL_PLATFORM=cpu HF_HUB_OFFLINE=1
# setup_cpu.sh has just made this installation.
export SDPO_SKIP_DOCTOR=yes
# On a busy machine Ray's node takes longer than the 30 s that it is given by default.
export RAY_raylet_start_wait_time_s=180

SINGLES=outputs/ttt_cpu/questions
budget=${BUDGET:-64}
context=960
response=48

if [[ ! -d $MODEL ]]; then
    "$PYTHON" -m experiments.quickstart.build_model "$MODEL"
fi
"$PYTHON" -m experiments.ttt.cpu_tasks "$SINGLES"
sweep_init --local
prompting=(--reward "$environment" --budget "$budget" --max-context "$context" --max-response "$response")
submit_prompting best_of_k best_of_k.py "${prompting[@]}" --batch 32
submit_prompting multi_turn multiturn.py "${prompting[@]}"
submit_sdpo sdpo_ttt \
    reward.custom_reward_function.reward_kwargs.grader="$environment" \
    test_time.budget="$budget" \
    data.max_prompt_length=256 \
    data.max_response_length="$response" \
    max_model_len=1024 \
    actor_rollout_ref.actor.self_distillation.max_reprompt_len=768 \
    actor_rollout_ref.actor.optim.lr=4e-5 \
    trainer.save_freq=2
finished=yes
launcher_finish || finished=
"$PYTHON" -m verl.sdpo.test_time.discovery "$TTT_DIR"
[[ -n $finished ]]
