#!/usr/bin/env bash
# SDPO without feedback (paper, section 3): demonstrations of siblings only.
#   bash experiments/generalization/run_sdpo_all.sh [options] [KEY=VALUE...]
# Lists in the environment, separated by spaces, replace what is swept: DATASETS, MODELS, SEEDS.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
source "$(dirname "${BASH_SOURCE[0]}")/paper.sh"
launcher_init "$@"
export WANDB_RUN_GROUP=SDPO-generalization

train() {
    local dataset=$1 model=$2 seed=$3
    submit_training "SDPO-${dataset##*/}-${model##*/}-lr1e-5-alpha0.5-mb32-seed$seed" sdpo "$dataset" \
        vars.seed="$seed" \
        actor_rollout_ref.model.path="$model" \
        actor_rollout_ref.actor.optim.lr=1e-5 \
        actor_rollout_ref.actor.optim.lr_warmup_steps=10 \
        actor_rollout_ref.actor.ppo_mini_batch_size=32 \
        actor_rollout_ref.actor.self_distillation.alpha=0.5 \
        actor_rollout_ref.actor.self_distillation.include_environment_feedback=False \
        actor_rollout_ref.rollout.val_kwargs.n=16
}
sweep train "$PAPER_DATASETS" "$PAPER_MODELS"
launcher_finish
