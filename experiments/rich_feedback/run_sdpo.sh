#!/usr/bin/env bash
# SDPO with rich feedback (paper, section 4): the teacher reads what LiveCodeBench's tests said.
#   bash experiments/rich_feedback/run_sdpo.sh [options] [KEY=VALUE...]
# Lists in the environment, separated by spaces, replace what is swept: DATASETS, MODELS, SEEDS.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"
launcher_init "$@"
export WANDB_RUN_GROUP=SDPO-rich-feedback

train() {
    local dataset=$1 model=$2 seed=$3
    submit_training "SDPO-rich-${dataset##*/}-${model##*/}-lr1e-6-alpha1.0-mb1-seed$seed" sdpo "$dataset" \
        vars.seed="$seed" \
        actor_rollout_ref.model.path="$model" \
        actor_rollout_ref.actor.optim.lr=1e-6 \
        actor_rollout_ref.actor.optim.lr_warmup_steps=0 \
        actor_rollout_ref.actor.ppo_mini_batch_size=1 \
        actor_rollout_ref.actor.self_distillation.alpha=1.0 \
        actor_rollout_ref.actor.self_distillation.distillation_topk=20 \
        actor_rollout_ref.actor.self_distillation.teacher_update_rate=0.01 \
        actor_rollout_ref.rollout.val_kwargs.n=4
}
sweep train datasets/lcb_v6 Qwen/Qwen3-8B
launcher_finish
