#!/usr/bin/env bash
# verl's GRPO on LiveCodeBench (paper, section 4), the baseline of run_sdpo.sh.
#   bash experiments/rich_feedback/run_baseline_grpo.sh [options] [KEY=VALUE...]
# Lists in the environment, separated by spaces, replace what is swept: DATASETS, MODELS, SEEDS.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
launcher_init "$@"
export WANDB_RUN_GROUP=GRPO-rich-feedback

lr=1e-6
mini_batch=8
for dataset in ${DATASETS:-datasets/lcb_v6}; do
    for model in ${MODELS:-Qwen/Qwen3-8B}; do
        for seed in ${SEEDS:-0}; do
            submit_training "GRPO-rich-${dataset##*/}-${model##*/}-lr$lr-mb$mini_batch-seed$seed" \
                baseline_grpo "$dataset" \
                vars.seed="$seed" \
                actor_rollout_ref.model.path="$model" \
                actor_rollout_ref.actor.optim.lr="$lr" \
                actor_rollout_ref.actor.optim.lr_warmup_steps=0 \
                actor_rollout_ref.actor.ppo_mini_batch_size="$mini_batch" \
                actor_rollout_ref.rollout.val_kwargs.n=4 \
                trainer.v1.trainer_mode=sync_stoppable
        done
    done
done
launcher_finish
