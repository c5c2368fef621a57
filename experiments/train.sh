#!/usr/bin/env bash
# Runs one training with verl: CONFIG [OVERRIDE...]. job.sh starts it, inside the container if there is one.
#   EXPERIMENT, TASK, SDPO_*  read by verl/trainer/config/user.yaml
#   RUN_DIR, RUN_ATTEMPT      folder of the run, and name of this attempt in it
#   PYTHON                    the Python in which verl is installed
#   SDPO_SKIP_DOCTOR          if set, start without the checks of the doctor
set -euo pipefail

config=$1
shift
command -v "$PYTHON" >/dev/null || {
    echo "There is no Python '$PYTHON': set PYTHON, or SITE_PYTHON and SITE_SETUP in the site file." >&2
    exit 127
}

# wandb asks for a login at the terminal, or fails where there is none.
has_wandb() {
    "$PYTHON" "$(dirname "${BASH_SOURCE[0]}")/../verl/sdpo/doctor/wandb_login.py"
}

# An interrupted run continues its curve.
wandb_run_id() {
    [[ -s $RUN_DIR/wandb_id ]] || od -An -N8 -tx1 /dev/urandom | tr -d ' \n' >"$RUN_DIR/wandb_id"
    cat "$RUN_DIR/wandb_id"
}

# A cluster that runs already does not have the environment of this run, and may be on another machine.
job_environment() {
    "$PYTHON" -c 'import json, os, sys
names = [name for name in sys.argv[1:] if name in os.environ]
print(json.dumps({"runtime_env": {"env_vars": {name: os.environ[name] for name in names}}}))' "$@"
}

# For the doctor: in a container other code may be installed than that of this repository.
SDPO_REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export SDPO_REPO
loggers=console,tensorboard,file
if has_wandb; then
    loggers+=,wandb
    WANDB_RUN_ID=$(wandb_run_id)
    export WANDB_RUN_ID WANDB_RESUME=allow WANDB_DIR="$RUN_DIR"
fi
export TENSORBOARD_DIR="$RUN_DIR/tensorboard"
# verl's file logger empties the file that it opens.
export VERL_FILE_LOGGER_PATH="$RUN_DIR/metrics-$RUN_ATTEMPT.jsonl"
export PYTHONUNBUFFERED=1
ulimit -c 0

overrides=("trainer.logger=[$loggers]" "$@")
if [[ -n ${RAY_ADDRESS:-} ]]; then
    # Its nodes declared their resources when they were started, and ray.init refuses them here.
    overrides+=(++ray_kwargs.ray_init.num_cpus=null ++ray_kwargs.ray_init.num_gpus=null)
    RAY_JOB_CONFIG_JSON_ENV_VAR=$(job_environment VERL_PLATFORM VERL_FILE_LOGGER_PATH TENSORBOARD_DIR EXPERIMENT TASK RUN_DIR \
        SDPO_DIR SDPO_LOG_DIR SDPO_CKPT_DIR HF_HUB_OFFLINE \
        WANDB_ENTITY WANDB_PROJECT WANDB_MODE WANDB_RUN_GROUP WANDB_RUN_ID WANDB_RESUME WANDB_DIR)
    # A driver that joins a cluster does not look for the token by itself, though Ray documents that it does.
    export RAY_JOB_CONFIG_JSON_ENV_VAR RAY_AUTH_MODE=${RAY_AUTH_MODE-token}
fi
if [[ -z ${SDPO_SKIP_DOCTOR:-} ]]; then
    "$PYTHON" -m verl.sdpo.doctor --config-name "$config" "${overrides[@]}" || {
        status=$?
        echo "Not started. Fix what the doctor found, or start all the same with SDPO_SKIP_DOCTOR=yes." >&2
        exit "$status"
    }
fi
# shellcheck disable=SC2016  # Hydra reads the variable itself: a path may hold what its grammar does not.
"$PYTHON" -m verl.trainer.main_ppo --config-name "$config" "${overrides[@]}" 'hydra.run.dir=${oc.env:RUN_DIR}/hydra'
# The run is complete, with or without a page about it.
"$PYTHON" -m verl.sdpo.report "$RUN_DIR" --out "$RUN_DIR/report.html" || echo "There is no report page of this run." >&2
