#!/usr/bin/env bash
# Ray over several machines, for trainings on more than one (docs/experiments.md).
#   bash experiments/cluster.sh head [RAY FLAGS]            start a cluster on this machine, and print how to join it
#   bash experiments/cluster.sh worker ADDRESS [RAY FLAGS]  let this machine join it
#   bash experiments/cluster.sh status [N]                  show its nodes; with N, wait until there are that many
#   bash experiments/cluster.sh stop                        stop what head or worker started on this machine
#   bash experiments/cluster.sh run N COMMAND...            one of the N tasks of a Slurm step, one per node: they meet, the
#                                                           first runs COMMAND on the cluster, and all end with it
# By hand the site file sets SITE_PYTHON, SITE_SETUP, SITE_CPUS and SITE_GPUS; in a Slurm job the launcher sets them.
#   CLUSTER_DIR      logs and sockets of this machine's node: local, and short (a Unix socket's path has at most 107 bytes)
#   CLUSTER_IP       this machine's address, where it has several and Ray takes the wrong one
#   CLUSTER_PORT     port of the head; by default any that is free
#   CLUSTER_SECONDS  how long the nodes wait for each other
# By hand the nodes share Ray's token in ~/.ray/auth_token: where the home folder is not shared, copy that file.
set -euo pipefail

# RAY_ADDRESS is the cluster of a training; `ray start` would take it for the address of this node.
given_address=${RAY_ADDRESS:-}
unset RAY_ADDRESS
folder=${CLUSTER_DIR:-${RAY_TMPDIR:-${TMPDIR:-/tmp}}/sdpo-$UID-${SLURM_JOB_ID:-hand}-${SLURM_PROCID:-0}}
patience=${CLUSTER_SECONDS:-600}
STOP_SECONDS=20

say() {
    echo "$(date '+%F %T') cluster, ${HOSTNAME:-this machine}: $*" >&2
}

die() {
    say "$*"
    exit 1
}

load_site() {
    local site=${SDPO_SITE:-experiments/site.env}
    if [[ -e $site ]]; then
        # shellcheck source=experiments/site.example.env
        source "$site"
        eval "${SITE_SETUP:-}"
    fi
    PYTHON=${SITE_PYTHON:-${PYTHON:-python}}
    # One token for all clusters of this user: without it whoever reaches a port of Ray can run programs here.
    export RAY_AUTH_MODE=token
}

# ---------------------------------------------------------------------------------------------------------------------
# The node of this machine: `ray start` in a session of its own, whose number is in the folder

# FLAGS of `ray start`
start_node() {
    is_running && die "there is a node already in $folder: \`bash experiments/cluster.sh stop\` ends it."
    mkdir -p "$folder"
    setsid "$PYTHON" -m ray.scripts.scripts start --block --disable-usage-stats --temp-dir="$folder/ray" \
        ${CLUSTER_IP:+"--node-ip-address=$CLUSTER_IP"} \
        ${SITE_CPUS:+"--num-cpus=$SITE_CPUS"} ${SITE_GPUS:+"--num-gpus=$SITE_GPUS"} "$@" \
        </dev/null >"$folder/log" 2>&1 &
    echo "$!" >"$folder/pid"
}

start_head() {
    address=$("$PYTHON" -m experiments.cluster_nodes address)
    start_node --head --port="${address##*:}" "$@"
    echo "$address" >"$folder/address"
}

# ADDRESS [FLAGS]
start_worker() {
    address=$1
    start_node --address="$address" "${@:2}"
    echo "$address" >"$folder/address"
}

is_running() {
    local node
    node=$(cat "$folder/pid" 2>/dev/null) && kill -0 "$node" 2>/dev/null
}

stop_node() {
    local node seconds
    node=$(cat "$folder/pid" 2>/dev/null) || return 0
    kill -TERM "$node" 2>/dev/null || true
    for ((seconds = 0; seconds < STOP_SECONDS; seconds++)); do
        kill -0 -- "-$node" 2>/dev/null || break
        sleep 1
    done
    # Ray's own processes end with the node; what a worker has started may not.
    kill -KILL -- "-$node" 2>/dev/null || true
    rm -f "$folder/pid" "$folder/address"
}

# N: shows the nodes, and waits until there are that many.
wait_for_nodes() {
    "$PYTHON" -m experiments.cluster_nodes wait "$address" "$1" "$patience"
}

begin() { # head, or worker ADDRESS
    local generate=()
    [[ $1 == worker ]] || generate=(--generate)
    "$PYTHON" -m ray.scripts.scripts get-auth-token ${generate[@]+"${generate[@]}"} >/dev/null 2>&1 ||
        die "no ~/.ray/auth_token, which Ray's nodes share: bring the one of the head's machine here."
    "start_$1" "${@:2}"
    until grep --quiet 'Ray runtime started' "$folder/log"; do
        is_running || {
            tail -n 20 "$folder/log" >&2
            die "Ray did not start; its output is in $folder/log."
        }
        sleep 1
    done
}

explain() {
    cat <<TEXT
On every other machine: bash experiments/cluster.sh worker $address
Then, on this one:      export RAY_ADDRESS=$address RAY_AUTH_MODE=token
                        bash experiments/cluster.sh status N
and start trainings with --local and SITE_NODES=N in the site file.
TEXT
}

# ---------------------------------------------------------------------------------------------------------------------
# Inside a Slurm job

# Removes the file in which the tasks meet, so that the others end as well.
leave() {
    trap '' TERM INT
    [[ -z $leads ]] || rm -f "$meeting" "$meeting.token"
    [[ -z $command ]] || kill -TERM "$command" 2>/dev/null || true
    stop_node
}

lead() { # N COMMAND...
    leads=yes
    # An attempt that was killed leaves it behind.
    rm -f "$RUN_DIR"/cluster-*
    (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$meeting.token")
    start_head --include-dashboard=false
    echo "$address" >"$meeting.new"
    mv "$meeting.new" "$meeting"
    # In the background, because a signal interrupts `wait` alone.
    wait_for_nodes "$1" >&2 &
    command=$!
    wait "$command" || die "not all of the $1 nodes came within $patience s."
    RAY_ADDRESS=$address "${@:2}" &
    command=$!
    wait "$command"
}

follow() {
    local deadline=$((SECONDS + patience))
    until [[ -e $meeting ]]; do
        ((SECONDS < deadline)) || die "the first node did not come within $patience s."
        sleep 1
    done
    start_worker "$(cat "$meeting")"
    while [[ -e $meeting ]]; do
        is_running || {
            tail -n 20 "$folder/log" >&2
            die "Ray has ended here; its output is in $folder/log."
        }
        sleep 1
    done
}

run() { # N COMMAND...
    meeting=$RUN_DIR/cluster-$RUN_ATTEMPT command='' leads=''
    # Without a shared token Ray's processes obey whoever reaches their ports.
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$meeting.token
    trap leave EXIT
    # Only once: a second signal would interrupt the clean-up of the first.
    trap 'trap "" TERM INT; exit 143' TERM INT
    if [[ $SLURM_PROCID == 0 ]]; then
        lead "$@"
    else
        follow
    fi
}

usage() {
    sed -n '2,7s/^# *//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

[[ -z ${CLUSTER_DIR:-} || $CLUSTER_DIR == /* ]] || die "CLUSTER_DIR=$CLUSTER_DIR is not a path from /."
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
head | worker | status)
    [[ $1 != worker || -n ${2:-} ]] || die "worker needs the address that \`cluster.sh head\` printed."
    load_site
    ;;&
head)
    begin "$@"
    explain
    ;;
worker) begin "$@" ;;
status)
    address=${given_address:-$(cat "$folder/address" 2>/dev/null)} || die "no cluster was begun or joined here."
    wait_for_nodes "${2:-0}"
    ;;
stop) stop_node ;;
run) run "${@:2}" ;;
*) usage ;;
esac
