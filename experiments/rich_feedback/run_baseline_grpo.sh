#!/usr/bin/env bash
# verl's GRPO on LiveCodeBench (paper, section 4), the baseline of run_sdpo.sh.
#   bash experiments/rich_feedback/run_baseline_grpo.sh [options] [KEY=VALUE...]
# Lists in the environment, separated by spaces, replace what is swept: DATASETS, MODELS, SEEDS.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
launcher_init "$@"
export WANDB_RUN_GROUP=GRPO-rich-feedback

train() {
    local dataset=$1 model=$2 seed=$3
    submit_training "GRPO-rich-${dataset##*/}-${model##*/}-lr1e-6-mb8-seed$seed" baseline_grpo "$dataset" \
        vars.seed="$seed" \
        actor_rollout_ref.model.path="$model" \
        actor_rollout_ref.actor.optim.lr=1e-6 \
        actor_rollout_ref.actor.optim.lr_warmup_steps=0 \
        actor_rollout_ref.actor.ppo_mini_batch_size=8 \
        actor_rollout_ref.rollout.val_kwargs.n=4
}
sweep train datasets/lcb_v6 Qwen/Qwen3-8B
launcher_finish
