#!/usr/bin/env bash
# verl's GRPO on the data of run_sdpo_all.sh (paper, section 3): learning rate x mini-batch. A mini-batch of the whole
# batch is one update per batch, the on-policy arm.
#   bash experiments/generalization/run_baseline_grpo_all.sh [options] [KEY=VALUE...]
# Lists in the environment, separated by spaces, replace what is swept: DATASETS, MODELS, SEEDS.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
source "$(dirname "${BASH_SOURCE[0]}")/paper.sh"
launcher_init "$@"
export WANDB_RUN_GROUP=GRPO-generalization

train() {
    local lr
    for lr in 1e-5 1e-6; do
        train_arm "$@" "$lr" 8 offpolicy
        train_arm "$@" "$lr" 32 onpolicy
    done
}

train_arm() {
    local dataset=$1 model=$2 seed=$3 lr=$4 mini_batch=$5 arm=$6
    submit_training "GRPO-${dataset##*/}-${model##*/}-lr$lr-mb$mini_batch-$arm-seed$seed" baseline_grpo "$dataset" \
        vars.seed="$seed" \
        actor_rollout_ref.model.path="$model" \
        actor_rollout_ref.actor.optim.lr="$lr" \
        actor_rollout_ref.actor.optim.lr_warmup_steps=10 \
        actor_rollout_ref.actor.ppo_mini_batch_size="$mini_batch" \
        actor_rollout_ref.rollout.val_kwargs.n=16
}
sweep train "$PAPER_DATASETS" "$PAPER_MODELS"
launcher_finish
