#!/usr/bin/env bash
# What the three sweeps of this folder share: the questions, and where runs go. Sourced by them.
#   bash experiments/ttt/run_..._all.sh [options] [KEY=VALUE...] [-- FLAGS of the method...]
# Environment, lists separated by spaces:
#   SEEDS      (0)
#   QUESTIONS  (the ids that the paper's authors publish for their 19 hard questions; which 9 are "very hard" they don't)
#   MODEL      (Qwen/Qwen3-8B)
#   SINGLES    (lcb_v6_singles) folder of one folder per question, below SDPO_DIR; made by data/prepare_data_splits.sh
#   TTT_DIR    (SDPO_DIR/outputs/ttt) where the run folders go
# Afterwards: python -m verl.sdpo.test_time.discovery outputs/ttt
source "$(dirname "${BASH_SOURCE[0]}")/../launcher.sh"

SEEDS=${SEEDS:-0}
QUESTIONS=${QUESTIONS:-1 3 10 43 46 59 69 74 86 91 92 95 100 103 111 120 125 127 129}
MODEL=${MODEL:-Qwen/Qwen3-8B}
SINGLES=${SINGLES:-lcb_v6_singles}

sweep_init() {
    launcher_init "$@"
    RUNS_DIR=${TTT_DIR:-$SDPO_DIR/outputs/ttt}
}

# Before the first run here: the scripts would each fail in Python's own words. SITE_SETUP may change what `python` is.
check_python() {
    [[ $LAUNCHER_MODE == local && -z $LAUNCHER_DRY_RUN && -z ${SITE_SETUP:-} ]] || return 0
    "$LAUNCHER_PYTHON" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("verl"))' 2>/dev/null ||
        die "There is no verl in the Python '$LAUNCHER_PYTHON': set PYTHON, or SITE_PYTHON in the site file."
}

# METHOD SCRIPT [FLAG...]: one run of a prompting method per question and seed.
submit_prompting() {
    local method=$1 script=$2 seed question name
    shift 2
    check_python
    for seed in $SEEDS; do
        for question in $QUESTIONS; do
            name=${method}_q${question}_seed$seed
            [[ $LAUNCHER_MODE == list ]] || require_data "$name" "$SINGLES/q_$question" || continue
            submit_run "$name" "$LAUNCHER_PYTHON" "baseline_multiturn/$script" \
                --data-dir "$SDPO_DIR/$SINGLES/q_$question" --run-name "$name" --model "$MODEL" --seed "$seed" \
                ${SITE_GPUS:+--tensor-parallel-size "$SITE_GPUS"} "$@" ${LAUNCHER_EXTRA[@]+"${LAUNCHER_EXTRA[@]}"}
        done
    done
}

# CONFIG [OVERRIDE...]: one training per question and seed.
submit_sdpo() {
    local config=$1 seed question
    shift
    for seed in $SEEDS; do
        for question in $QUESTIONS; do
            submit_training "sdpo_q${question}_seed$seed" "$config" "$SINGLES/q_$question" \
                vars.seed="$seed" actor_rollout_ref.model.path="$MODEL" "$@"
        done
    done
}
