#!/usr/bin/env bash
# Runs the recipes of experiments/recipes/: submits every run to Slurm, or runs it here. docs/experiments.md says how.
#   bash experiments/launcher.sh RECIPE... [options] [KEY=VALUE...]
# Needs bash 4.2, and a Python with OmegaConf, in which recipes.py expands the recipes to calls of the functions below.
#
# An empty array is an unset variable to `set -u` before bash 4.4, hence ${array[@]+"${array[@]}"}.
set -euo pipefail

LAUNCHER_FOLDER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAUNCHER_REPO=${LAUNCHER_FOLDER%/*}
LAUNCHER_MODE=
LAUNCHER_DRY_RUN=
LAUNCHER_HELP=
LAUNCHER_SITE=${SDPO_SITE:-}
LAUNCHER_RECIPES=()
LAUNCHER_EXTRA=()
LAUNCHER_SUBMITTED=()
LAUNCHER_SKIPPED=()
LAUNCHER_FAILED=()
LAUNCHER_SIZE=()

# shellcheck disable=SC2016
LAUNCHER_OPTIONS='Options:
  --dry-run    print what would be submitted, and change nothing
  --list       print one line per training (name, configuration, task, overrides), and change nothing;
               `| python experiments/effective_config.py` makes a table of it
  --local      run here, one after the other
  --slurm      submit to Slurm (the default where there is sbatch)
  --site FILE  site file (default: $SDPO_SITE, or experiments/site.env)
  -h, --help   this text
KEY=VALUE, and everything after --, is added to every run: overrides of its configuration, or flags of its program.
DATASETS, MODELS, SEEDS and so on in the environment replace the lists of the recipe.'

die() {
    echo "$*" >&2
    exit 1
}

# ---------------------------------------------------------------------------------------------------------------------
# Functions that recipes.py calls

# WANDB_RUN_GROUP, folder of the run folders
begin_recipe() {
    export WANDB_RUN_GROUP=$1
    RUNS_DIR=$2
}

# NAME CONFIG TASK [OVERRIDE...]: one training of verl.
submit_training() {
    local name=$1 config=$2 task=$3
    local overrides=("${@:4}" ${LAUNCHER_EXTRA[@]+"${LAUNCHER_EXTRA[@]}"})
    if [[ $LAUNCHER_MODE == list ]]; then
        (IFS=$'\t' && echo "$name"$'\t'"$config"$'\t'"$task"$'\t'"${overrides[*]-}")
        return
    fi
    require_data "$name" "$task" || return 0
    launch "$name" "$SDPO_CKPT_DIR/$name" "$SITE_NODES" \
        env EXPERIMENT="$name" TASK="$task" PYTHON="$LAUNCHER_PYTHON" \
        bash "$LAUNCHER_FOLDER/train.sh" "$config" \
        ${SITE_GPUS:+"trainer.n_gpus_per_node=$SITE_GPUS"} \
        ${LAUNCHER_SIZE[@]+"${LAUNCHER_SIZE[@]}"} \
        ${SITE_OVERRIDES[@]+"${SITE_OVERRIDES[@]}"} \
        ${overrides[@]+"${overrides[@]}"}
}

# NAME TASK COMMAND...: one run of another program, which finds its folder in RUN_DIR. TASK may be empty.
submit_run() {
    local name=$1 task=$2
    [[ $LAUNCHER_MODE != list ]] || return 0
    [[ -z $task ]] || require_data "$name" "$task" || return 0
    launch "$name" "" 1 "${@:3}" ${LAUNCHER_EXTRA[@]+"${LAUNCHER_EXTRA[@]}"}
}

# ---------------------------------------------------------------------------------------------------------------------
# Options, site, recipes

read_arguments() {
    while (($#)); do
        case $1 in
            --dry-run) LAUNCHER_DRY_RUN=yes ;;
            --list | --local | --slurm) LAUNCHER_MODE=${1#--} ;;
            --site)
                (($# > 1)) || die "--site needs the path of a site file."
                LAUNCHER_SITE=$2
                shift
                ;;
            -h | --help) LAUNCHER_HELP=yes ;;
            --)
                shift
                LAUNCHER_EXTRA+=("$@")
                break
                ;;
            -*) die "Unknown argument '$1'. --help lists the options; overrides are KEY=VALUE, or follow --." ;;
            *=*) LAUNCHER_EXTRA+=("$1") ;;
            *) LAUNCHER_RECIPES+=("$1") ;;
        esac
        shift
    done
    if [[ -z $LAUNCHER_HELP ]] && ((${#LAUNCHER_RECIPES[@]} == 0)); then
        die "Which recipe? bash experiments/launcher.sh RECIPE...; they are in experiments/recipes."
    fi
}

# Recipes begin with a comment that describes them.
print_help() {
    local recipe
    echo "$LAUNCHER_OPTIONS"
    for recipe in ${LAUNCHER_RECIPES[@]+"${LAUNCHER_RECIPES[@]}"}; do
        [[ $recipe == *.yaml ]] || recipe=$LAUNCHER_FOLDER/recipes/$recipe.yaml
        echo
        echo "$recipe"
        cat "$recipe"
    done
}

choose_mode() {
    LAUNCHER_MODE=${LAUNCHER_MODE:-slurm}
    if [[ $LAUNCHER_MODE == slurm && -z $LAUNCHER_DRY_RUN ]] && ! command -v sbatch >/dev/null; then
        die "There is no Slurm here (sbatch was not found): add --local to run on this machine, or --dry-run to look."
    fi
}

load_site() {
    local site=$LAUNCHER_SITE
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
    read_size
    # recipes.py needs them exported, also if the site file only sets them.
    export SDPO_DIR SDPO_LOG_DIR SDPO_CKPT_DIR
}

# Overrides for the nodes. On one node the CPUs that Ray may use; a cluster over several declares them at its start.
read_size() {
    SITE_NODES=${SITE_NODES:-1}
    [[ $SITE_NODES =~ ^[1-9][0-9]*$ ]] || die "SITE_NODES=$SITE_NODES in the site file is not a number of nodes."
    if ((SITE_NODES > 1)); then
        LAUNCHER_SIZE=("trainer.nnodes=$SITE_NODES")
        [[ $LAUNCHER_MODE != local || -n ${RAY_ADDRESS:-} || -n $LAUNCHER_DRY_RUN ]] ||
            die "SITE_NODES=$SITE_NODES with --local: begin a cluster with experiments/cluster.sh, and set RAY_ADDRESS."
    elif [[ -n ${SITE_CPUS:-} ]]; then
        LAUNCHER_SIZE=("ray_kwargs.ray_init.num_cpus=$SITE_CPUS")
    fi
}

# A Python on this machine that can read recipes; the runs may have another, inside a container.
find_python() {
    local candidate candidates=(${PYTHON:+"$PYTHON"} ${SITE_PYTHON:+"$SITE_PYTHON"} python python3)
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import omegaconf' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "No Python with OmegaConf, which reads the recipes; tried ${candidates[*]}. Set PYTHON to one in which verl is" \
        "installed, or do \`pip install omegaconf\`."
}

# Prints the calls to which recipes.py expands the recipes.
expand_recipes() {
    local python origin=$PWD
    python=$(find_python) || exit
    cd "$LAUNCHER_REPO" || exit
    LAUNCHER_PYTHON=$LAUNCHER_PYTHON SITE_GPUS=${SITE_GPUS:-} \
        "$python" -B -m experiments.recipes --from "$origin" "${LAUNCHER_RECIPES[@]}"
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

# NAME, folder in which a training can be asked to stop (or nothing), NODES, COMMAND...
launch() {
    local name=$1 stop_dir=$2
    local run_dir=$RUNS_DIR/$name
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
    if job=$(cat "$run_dir/slurm_job" 2>/dev/null) && is_queued "${job%%;*}"; then
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

# JOB: succeeds if Slurm knows the job. squeue is asked once and must answer: a second job would train in the same folders.
is_queued() {
    if [[ -z ${LAUNCHER_QUEUE+set} ]]; then
        LAUNCHER_QUEUE=$(squeue --noheader --format=%i) || die "squeue does not say which jobs are queued. Try again when it does."
    fi
    grep --quiet --line-regexp --fixed-strings "$1" <<<"$LAUNCHER_QUEUE"
}

launch_local() {
    local name=$1 run_dir=$2 job
    echo "# $name: running, output in $run_dir" >&2
    bash "$run_dir/job.sh" &
    job=$!
    # Without this, a signal to this script alone would leave the run behind.
    trap 'kill -TERM "$job"; wait "$job"; exit 143' HUP INT TERM
    if wait "$job"; then
        LAUNCHER_SUBMITTED+=("$name")
    else
        LAUNCHER_FAILED+=("$name")
    fi
    trap - HUP INT TERM
}

# The script of one run, the same for Slurm and for this machine but for the lines that begin with #SBATCH.
print_job() {
    local name=$1 stop_dir=$2 nodes=$3 command=("${@:4}")
    # shellcheck disable=SC2034  # print_exports reads them by name.
    local RUN_DIR=$RUNS_DIR/$name RUN_STOP_DIR=$stop_dir RUN_STOP_SECONDS=${SITE_STOP_SECONDS:-1800}
    if [[ $LAUNCHER_MODE == slurm ]] && ((nodes > 1)); then
        command=(env PYTHON="$LAUNCHER_PYTHON" ${SITE_CPUS:+"SITE_CPUS=$SITE_CPUS"} ${SITE_GPUS:+"SITE_GPUS=$SITE_GPUS"}
            bash "$LAUNCHER_FOLDER/cluster.sh" run "$nodes" "${command[@]}")
    fi
    if [[ -n ${SITE_SETUP:-} ]]; then
        command=(bash -c $'set -e\n'"$SITE_SETUP"$'\nexec "$@"' setup "${command[@]}")
    fi
    echo '#!/usr/bin/env bash'
    if [[ $LAUNCHER_MODE == slurm ]]; then
        print_sbatch_flags "$name" "$RUN_STOP_SECONDS" "$nodes"
        make_step "$nodes"
        # sbatch passes on the environment, in which a cluster that was started by hand may be.
        echo "unset RAY_ADDRESS"
    else
        print_exports RAY_ADDRESS
    fi
    print_exports SDPO_DIR SDPO_LOG_DIR SDPO_CKPT_DIR RUN_DIR RUN_STOP_DIR RUN_STOP_SECONDS \
        VERL_PLATFORM SDPO_SKIP_DOCTOR WANDB_ENTITY WANDB_PROJECT WANDB_MODE WANDB_RUN_GROUP
    print_command exec bash "$LAUNCHER_FOLDER/job.sh" "${command[@]}"
}

# NODES: where the site or the number of nodes needs it, `command` is started by srun: in a container, a task per node.
make_step() {
    local nodes=$1 flags=(--ntasks=1)
    ((nodes > 1 || ${#SITE_SRUN_FLAGS[@]})) || return 0
    if ((nodes > 1)); then
        # When one task fails, so do the others.
        flags=("--nodes=$nodes" "--ntasks=$nodes" --ntasks-per-node=1 --kill-on-bad-exit=1)
    fi
    command=(srun "${flags[@]}" ${SITE_CPUS:+"--cpus-per-task=$SITE_CPUS"}
        ${SITE_SRUN_FLAGS[@]+"${SITE_SRUN_FLAGS[@]}"} "${command[@]}")
}

print_sbatch_flags() {
    local name=$1 stop_seconds=$2 nodes=$3 flag
    local flags=(
        "--job-name=$name"
        "--nodes=$nodes"
        "--ntasks=$nodes"
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

# ---------------------------------------------------------------------------------------------------------------------

summary() {
    [[ $LAUNCHER_MODE != list ]] || return 0
    local verb=submitted
    if [[ $LAUNCHER_MODE == local ]]; then
        [[ -n $LAUNCHER_DRY_RUN ]] && verb=run || verb=ran
    fi
    [[ -z $LAUNCHER_DRY_RUN ]] || verb="would be $verb"
    echo "# ${#LAUNCHER_SUBMITTED[@]} $verb, ${#LAUNCHER_SKIPPED[@]} skipped, ${#LAUNCHER_FAILED[@]} failed" \
        ${LAUNCHER_FAILED[@]+"${LAUNCHER_FAILED[@]}"} >&2
    ((${#LAUNCHER_FAILED[@]} == 0))
}

read_arguments "$@"
if [[ -n $LAUNCHER_HELP ]]; then
    print_help
    exit
fi
choose_mode
load_site
LAUNCHER_PYTHON=${SITE_PYTHON:-${PYTHON:-python}}
plan=$(expand_recipes)
eval "$plan"
summary
