#!/usr/bin/env bash
# Runs the sweeps: submits every run to Slurm, or runs it here. Sourced by the scripts in the folders beside this file,
# which hold settings and nothing else. docs/experiments.md says how to use it. Needs bash 4.2, and Python only where a
# run really runs.
#
#   launcher_init "$@"                               options, site file, paths; then these are set:
#       LAUNCHER_EXTRA     what the user wants added to every run (empty arrays under set -u: see bash 4.2 below)
#       LAUNCHER_PYTHON    the Python that runs things
#       SDPO_DIR           folder that holds the data folders
#       RUNS_DIR           folder that holds the run folders
#   submit_run NAME COMMAND [ARG...]                 one run of any command, which gets RUN_DIR=$RUNS_DIR/NAME
#   submit_training NAME CONFIG TASK [OVERRIDE...]   one training of verl, with LAUNCHER_EXTRA
#   sweep FUNCTION DATASETS MODELS                   calls FUNCTION DATASET MODEL SEED for all of them
#   launcher_finish                                  summary; fails when a run did
#
# An empty array is an unset variable to `set -u` before bash 4.4, hence ${array[@]+"${array[@]}"}.
# shellcheck disable=SC2016  # ${...} is also the syntax of the yaml files.

LAUNCHER_FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAUNCHER_REPO=${LAUNCHER_FOLDER%/*}
USER_YAML=$LAUNCHER_REPO/verl/trainer/config/user.yaml
LAUNCHER_MODE=
LAUNCHER_DRY_RUN=
LAUNCHER_EXTRA=()
LAUNCHER_SUBMITTED=()
LAUNCHER_SKIPPED=()
LAUNCHER_FAILED=()
declare -A LAUNCHER_NAMES=()

LAUNCHER_OPTIONS='Options:
  --dry-run    print what would be submitted, and change nothing
  --list       print one line per training (name, configuration, task, overrides), and change nothing;
               `| python experiments/effective_config.py` makes a table of it
  --local      run here, one after the other
  --slurm      submit to Slurm (the default where there is sbatch)
  --site FILE  site file (default: $SDPO_SITE, or experiments/site.env)
  -h, --help   this text
KEY=VALUE, and everything after --, is added to every training as an override of its configuration.'

die() {
    echo "$*" >&2
    exit 1
}

# ---------------------------------------------------------------------------------------------------------------------
# What the scripts call

launcher_init() {
    local site=${SDPO_SITE:-}
    while (($#)); do
        case $1 in
            --dry-run) LAUNCHER_DRY_RUN=yes ;;
            --list | --local | --slurm) LAUNCHER_MODE=${1#--} ;;
            --site)
                (($# > 1)) || die "--site needs the path of a site file."
                site=$2
                shift
                ;;
            -h | --help) print_help && exit ;;
            --)
                shift
                LAUNCHER_EXTRA+=("$@")
                break
                ;;
            *=*) LAUNCHER_EXTRA+=("$1") ;;
            *) die "Unknown argument '$1'. ${0##*/} --help lists the options; overrides are KEY=VALUE, or follow --." ;;
        esac
        shift
    done
    choose_mode
    load_site "$site"
    set_paths
    LAUNCHER_PYTHON=${SITE_PYTHON:-${PYTHON:-python}}
}

submit_run() {
    (($# >= 2)) || die "submit_run NAME COMMAND [ARG...], got: $*"
    local name=$1
    shift
    [[ $LAUNCHER_MODE == list ]] || launch "$name" "" "$@"
}

submit_training() {
    (($# >= 3)) || die "submit_training NAME CONFIG TASK [OVERRIDE...], got: $*"
    local name=$1 config=$2 task=$3
    local overrides=("${@:4}" ${LAUNCHER_EXTRA[@]+"${LAUNCHER_EXTRA[@]}"})
    if [[ $LAUNCHER_MODE == list ]]; then
        claim_name "$name"
        (IFS=$'\t' && echo "$name"$'\t'"$config"$'\t'"$task"$'\t'"${overrides[*]-}")
        return
    fi
    require_data "$name" "$task" || return 0
    launch "$name" "$SDPO_CKPT_DIR/$name" \
        env EXPERIMENT="$name" TASK="$task" PYTHON="$LAUNCHER_PYTHON" \
        bash "$LAUNCHER_FOLDER/train.sh" "$config" \
        ${SITE_GPUS:+"trainer.n_gpus_per_node=$SITE_GPUS"} \
        ${SITE_CPUS:+"ray_kwargs.ray_init.num_cpus=$SITE_CPUS"} \
        ${SITE_OVERRIDES[@]+"${SITE_OVERRIDES[@]}"} \
        ${overrides[@]+"${overrides[@]}"}
}

# The environment may name other datasets and models (lists separated by spaces), and the seeds.
sweep() {
    local function=$1 datasets=${DATASETS:-$2} models=${MODELS:-$3} dataset model seed
    for dataset in $datasets; do
        for model in $models; do
            for seed in ${SEEDS:-0}; do
                "$function" "$dataset" "$model" "$seed"
            done
        done
    done
}

launcher_finish() {
    [[ $LAUNCHER_MODE != list ]] || return 0
    local verb=submitted
    [[ $LAUNCHER_MODE == slurm ]] || verb=ran
    [[ -z $LAUNCHER_DRY_RUN ]] || verb="would be $verb"
    echo "# ${#LAUNCHER_SUBMITTED[@]} $verb, ${#LAUNCHER_SKIPPED[@]} skipped, ${#LAUNCHER_FAILED[@]} failed" \
        ${LAUNCHER_FAILED[@]+"${LAUNCHER_FAILED[@]}"} >&2
    ((${#LAUNCHER_FAILED[@]} == 0))
}

# ---------------------------------------------------------------------------------------------------------------------
# Options, site, paths

# The comment at the top of the script that was started, and the options that all of them share.
print_help() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    echo "$LAUNCHER_OPTIONS"
}

choose_mode() {
    LAUNCHER_MODE=${LAUNCHER_MODE:-slurm}
    if [[ $LAUNCHER_MODE == slurm && -z $LAUNCHER_DRY_RUN ]] && ! command -v sbatch >/dev/null; then
        die "There is no Slurm here (sbatch was not found): add --local to run on this machine, or --dry-run to look."
    fi
}

load_site() {
    local site=$1
    if [[ -z $site && -e $LAUNCHER_FOLDER/site.env ]]; then
        site=$LAUNCHER_FOLDER/site.env
    fi
    SITE_SBATCH_FLAGS=()
    SITE_SRUN_FLAGS=()
    SITE_OVERRIDES=()
    if [[ -n $site ]]; then
        [[ -r $site ]] || die "The site file '$site' cannot be read. Copy experiments/site.example.env and edit it."
        # shellcheck source=experiments/site.example.env
        source "$site"
    elif [[ $LAUNCHER_MODE == slurm ]]; then
        local message="No site file: copy experiments/site.example.env to experiments/site.env and edit it, or name one"
        message+=" with --site or SDPO_SITE."
        [[ -n $LAUNCHER_DRY_RUN ]] || die "$message"
        echo "$message" >&2
    fi
}

# What user.yaml says about its path NAME, whose line as shipped leaves it to the environment variable VARIABLE.
user_path() {
    local name=$1 variable=$2 value
    value=$(sed -n "/^  $name: /{s/^  $name: *//; s/  *#.*//; p}" "$USER_YAML")
    value=${value//'${vars.dir}'/"${SDPO_DIR-}"}
    value=${value//'${oc.env:PWD}'/"$LAUNCHER_REPO"}
    if [[ $value == '${oc.env:'$variable,*'}' ]]; then
        value=${value#*,}
        value=${value%\}}
        value=${!variable:-$value}
        [[ $value == /* ]] || value=$PWD/$value
    fi
    [[ $value == /* && $value != *'${'* ]] ||
        die "vars.$name in $USER_YAML is '$value': write a whole path, or leave the line as it was and set $variable."
    echo "$value"
}

set_paths() {
    SDPO_DIR=$(user_path dir SDPO_DIR)
    SDPO_LOG_DIR=$(user_path log_dir SDPO_LOG_DIR)
    SDPO_CKPT_DIR=$(user_path ckpt_dir SDPO_CKPT_DIR)
    RUNS_DIR=$SDPO_LOG_DIR
    [[ -d $SDPO_DIR ]] || die "vars.dir (SDPO_DIR) is '$SDPO_DIR': there is no such folder."
}

# NAME TASK: a run without its data counts as failed; a dry run only says so.
require_data() {
    has_data "$@" || [[ -n $LAUNCHER_DRY_RUN ]] || {
        LAUNCHER_FAILED+=("$1")
        return 1
    }
}

has_data() {
    local name=$1 task=$2 file
    for file in train test; do
        if [[ ! -r $SDPO_DIR/$task/$file.parquet ]]; then
            echo "$name: there is no $SDPO_DIR/$task/$file.parquet. data/README.md says how to make it; SDPO_DIR says" \
                "where the data is." >&2
            return 1
        fi
    done
}

# ---------------------------------------------------------------------------------------------------------------------
# One run

# Names are folder names, job names and wandb names.
claim_name() {
    local name=$1
    [[ $name =~ ^[A-Za-z0-9._-]{1,200}$ ]] ||
        die "The run name '$name' is not 1 to 200 letters, digits, dots, dashes and underscores."
    [[ -z ${LAUNCHER_NAMES[$name]-} ]] || die "Two runs are called $name: a swept value is missing from the name."
    LAUNCHER_NAMES[$name]=1
}

# NAME, folder in which a training can be asked to stop (or nothing), COMMAND...
launch() {
    local name=$1 stop_dir=$2
    local run_dir=$RUNS_DIR/$name
    claim_name "$name"
    if [[ -e $run_dir/complete ]]; then
        echo "# $name: complete, skipped" >&2
        LAUNCHER_SKIPPED+=("$name")
    elif [[ -n $LAUNCHER_DRY_RUN ]]; then
        echo "# ----- $name"
        print_job "$@"
        LAUNCHER_SUBMITTED+=("$name")
    else
        mkdir -p "$run_dir" ${stop_dir:+"$stop_dir"} ||
            die "Set SDPO_LOG_DIR and SDPO_CKPT_DIR (vars.log_dir, vars.ckpt_dir) to folders that can be made."
        print_job "$@" >"$run_dir/job.sh"
        "launch_$LAUNCHER_MODE" "$name" "$run_dir"
    fi
}

launch_slurm() {
    local name=$1 run_dir=$2 job
    if job=$(queued_job "$run_dir"); then
        echo "# $name: already queued or running as job $job, skipped" >&2
        LAUNCHER_SKIPPED+=("$name")
    elif job=$(sbatch --parsable "$run_dir/job.sh"); then
        echo "$job" >"$run_dir/slurm_job"
        echo "# $name: job $job" >&2
        LAUNCHER_SUBMITTED+=("$name")
    else
        LAUNCHER_FAILED+=("$name")
    fi
}

queued_job() {
    local job
    job=$(cat "$1/slurm_job" 2>/dev/null) && [[ -n $(squeue --noheader --jobs "${job%%;*}" 2>/dev/null) ]] && echo "$job"
}

launch_local() {
    local name=$1 run_dir=$2 job
    echo "# $name: running, output in $run_dir" >&2
    bash "$run_dir/job.sh" &
    job=$!
    # A signal to this script alone would leave the run behind.
    trap 'kill -TERM "$job"; wait "$job"; exit 143' INT TERM
    if wait "$job"; then
        LAUNCHER_SUBMITTED+=("$name")
    else
        LAUNCHER_FAILED+=("$name")
    fi
    trap - INT TERM
}

# The script of one run, the same for Slurm and for this machine but for the lines that begin with #SBATCH.
print_job() {
    local name=$1 stop_dir=$2 command=("${@:3}")
    # shellcheck disable=SC2034  # print_exports reads them by name.
    local RUN_DIR=$RUNS_DIR/$name RUN_STOP_DIR=$stop_dir RUN_STOP_SECONDS=${SITE_STOP_SECONDS:-1800}
    if [[ -n ${SITE_SETUP:-} ]]; then
        command=(bash -c $'set -e\n'"$SITE_SETUP"$'\nexec "$@"' setup "${command[@]}")
    fi
    echo '#!/usr/bin/env bash'
    if [[ $LAUNCHER_MODE == slurm ]]; then
        print_sbatch_flags "$name" "$RUN_STOP_SECONDS"
        if ((${#SITE_SRUN_FLAGS[@]})); then
            command=(srun --ntasks=1 ${SITE_CPUS:+"--cpus-per-task=$SITE_CPUS"} "${SITE_SRUN_FLAGS[@]}" "${command[@]}")
        fi
    fi
    print_exports SDPO_DIR SDPO_LOG_DIR SDPO_CKPT_DIR RUN_DIR RUN_STOP_DIR RUN_STOP_SECONDS \
        VERL_PLATFORM SDPO_SKIP_DOCTOR WANDB_ENTITY WANDB_PROJECT WANDB_MODE WANDB_RUN_GROUP
    print_command exec bash "$LAUNCHER_FOLDER/job.sh" "${command[@]}"
}

print_sbatch_flags() {
    local name=$1 stop_seconds=$2 flag
    local flags=(
        "--job-name=$name"
        "--nodes=1"
        "--ntasks=1"
        ${SITE_ACCOUNT:+"--account=$SITE_ACCOUNT"}
        ${SITE_PARTITION:+"--partition=$SITE_PARTITION"}
        ${SITE_TIME:+"--time=$SITE_TIME"}
        ${SITE_MEMORY:+"--mem=$SITE_MEMORY"}
        ${SITE_CPUS:+"--cpus-per-task=$SITE_CPUS"}
        ${SITE_GPUS:+"--gpus-per-node=$SITE_GPUS"}
        "--output=\"${SITE_LOG_DIR:-$RUNS_DIR/$name}/slurm-%j.log\""
        "--open-mode=append"
        "--signal=B:USR1@$stop_seconds"
        "--requeue"
        ${SITE_SBATCH_FLAGS[@]+"${SITE_SBATCH_FLAGS[@]}"}
    )
    for flag in "${flags[@]}"; do
        echo "#SBATCH $flag"
    done
}

print_exports() {
    local variable
    for variable in "$@"; do
        [[ -z ${!variable:-} ]] || printf 'export %s=%q\n' "$variable" "${!variable}"
    done
}

# Quoted, one word per line, ready to be pasted into a shell.
print_command() {
    printf '%q' "$1"
    shift
    printf ' \\\n    %q' "$@"
    echo
}
