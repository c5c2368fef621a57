#!/usr/bin/env bash
# SDPO without feedback (paper, section 3): demonstrations of siblings only.
#   bash experiments/generalization/run_sdpo_all.sh [options] [KEY=VALUE...]
# Lists in the environment, separated by spaces, replace what is swept: DATASETS, MODELS, SEEDS.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
source "$(dirname "${BASH_SOURCE[0]}")/sweep.sh"
launcher_init "$@"
export WANDB_RUN_GROUP=SDPO-generalization

lr=1e-5
alpha=0.5
mini_batch=32
for dataset in ${DATASETS:-$SWEEP_DATASETS}; do
    for model in ${MODELS:-$SWEEP_MODELS}; do
        for seed in ${SEEDS:-0}; do
            submit_training "SDPO-${dataset##*/}-${model##*/}-lr$lr-alpha$alpha-mb$mini_batch-seed$seed" \
                sdpo "$dataset" \
                vars.seed="$seed" \
                actor_rollout_ref.model.path="$model" \
                actor_rollout_ref.actor.optim.lr="$lr" \
                actor_rollout_ref.actor.optim.lr_warmup_steps=10 \
                actor_rollout_ref.actor.ppo_mini_batch_size="$mini_batch" \
                actor_rollout_ref.actor.self_distillation.alpha="$alpha" \
                actor_rollout_ref.actor.self_distillation.include_environment_feedback=False \
                actor_rollout_ref.rollout.val_kwargs.n=16
        done
    done
done
launcher_finish
