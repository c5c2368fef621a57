#!/usr/bin/env bash
# Runs COMMAND [ARG...] as one attempt of a run, on this machine or inside a Slurm job. launcher.sh writes the call.
#   RUN_DIR           folder of the run: the output of every attempt, and `complete` once the command has succeeded
#   RUN_STOP_DIR      where a training looks for the file `stop` (see verl/sdpo/trainer/stop.py); unset for other commands
#   RUN_LOG           set here: output of this attempt, which also marks its processes
#   RUN_STOP_SECONDS  how long before Slurm's time limit the signal USR1 comes
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Time before the limit of Slurm that is kept for queueing the job again.
MARGIN_SECONDS=60
# After verl's driver has reported an error it may hang. Hydra prints this line when it has seen the exception.
FAILED='Error executing job with overrides'
HUNG_SECONDS=15
GRACE_SECONDS=60
# Seconds that Ray's processes get to end after the driver.
LEFT_SECONDS=10
# Disks with less space are reported as full.
FULL_KIB=1024

say() {
    echo "$(date '+%F %T') ${RUN_DIR##*/}: $*" >&2
}

# [SECONDS]: terminate the process group of the command, and kill it after SECONDS.
end_command() {
    kill -TERM -- "-$command" 2>/dev/null || return 0
    sleep "${1:-$GRACE_SECONDS}"
    kill -KILL -- "-$command" 2>/dev/null || true
}

at_time_limit() {
    local left=$((RUN_STOP_SECONDS - MARGIN_SECONDS - GRACE_SECONDS))
    limit_reached=yes
    if [[ -n ${RUN_STOP_DIR:-} ]]; then
        say "the time limit is near: asked the training to save a checkpoint and stop"
        touch "$stop_dir/stop"
        { sleep "$((left > 0 ? left : 0))" && end_command; } &
    else
        say "the time limit is near: ending the command"
        end_command &
    fi
    helpers+=("$!")
}

at_interrupt() {
    interrupted=yes
    end_command &
    helpers+=("$!")
}

end_when_hung() {
    grep --quiet --max-count=1 "$FAILED" < <(tail --lines=+1 --follow "$log")
    # Before the command ends and frees what it holds in /dev/shm.
    name_full_disks
    sleep "$HUNG_SECONDS"
    end_command "$HUNG_SECONDS"
}

# Ray's processes have their own groups. They end a while after the driver, but not all of them when it was killed.
end_left_processes() {
    local deadline=$((SECONDS + LEFT_SECONDS)) pids
    while pids=$(left_processes); do
        if ((SECONDS >= deadline)); then
            # shellcheck disable=SC2086  # A list.
            kill -KILL $pids 2>/dev/null || true
            return
        fi
        sleep 0.2
    done
}

# Prints the processes with this attempt's environment; fails if there are none.
left_processes() {
    local files
    # Unset for grep, which would find itself.
    files=$(env --unset=RUN_LOG grep --files-with-matches --no-messages --null-data --line-regexp --fixed-strings "RUN_LOG=$log" \
        /proc/[0-9]*/environ) || [[ -n $files ]] || return
    tr -dc '0-9\n' <<<"$files"
}

wait_for_command() {
    while true; do
        status=0
        wait "$command" || status=$?
        # A trapped signal interrupts `wait`.
        kill -0 "$command" 2>/dev/null || return 0
    done
}

last_checkpoint() {
    cat "$stop_dir/latest_checkpointed_iteration.txt" 2>/dev/null || true
}

name_full_disks() {
    local disk free
    for disk in "$RUN_DIR" "$stop_dir" /dev/shm "${TMPDIR:-/tmp}"; do
        free=$(df --output=avail "$disk" 2>/dev/null | tail -n 1) || continue
        ((free >= FULL_KIB)) || say "the disk of $disk is full: make room there"
    done
}

# Reports why the command may have failed, and how to continue.
explain() {
    if ! grep --quiet "$FAILED" "$log"; then
        name_full_disks
        ((status <= 128)) || say "its process was ended by signal $((status - 128))"
    fi
    say "start it again to continue$([[ -z $(last_checkpoint) ]] || echo " after step $(last_checkpoint)")"
}

queue_again() {
    if [[ -n ${RUN_STOP_DIR:-} && $(last_checkpoint) == "$first_checkpoint" ]]; then
        say "no checkpoint was made before the time limit, so the job is not queued again: give it more time" \
            "(SITE_TIME), or a longer warning (SITE_STOP_SECONDS)"
        exit 1
    fi
    say "queueing the job again, to continue"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}

stop_dir=${RUN_STOP_DIR:-$RUN_DIR}
mkdir -p "$RUN_DIR" "$stop_dir"
# Two trainings at once would write the same checkpoints. Some file systems have no locks; that is no reason to stop.
exec 8>>"$RUN_DIR/lock"
held=0
flock --nonblock --conflict-exit-code 9 8 2>/dev/null || held=$?
if [[ $held == 9 ]]; then
    say "is running already: another job holds $RUN_DIR/lock"
    exit 1
fi
rm -f "$stop_dir/stop" "$stop_dir/stopped" "$stop_dir/stopped_by_guard"
first_checkpoint=$(last_checkpoint)
limit_reached='' interrupted='' helpers=()
RUN_ATTEMPT=$(date '+%Y%m%d-%H%M%S')
export RUN_ATTEMPT
log=$RUN_DIR/output-$RUN_ATTEMPT.log
export RUN_LOG=$log

trap at_time_limit USR1
trap at_interrupt HUP INT TERM
# Job control gives the command a process group of its own.
set -m
: >"$log"
"$@" </dev/null >"$log" 2>&1 8>&- &
command=$!
end_when_hung &
helpers+=("$!")
wait_for_command
for helper in "${helpers[@]}"; do
    kill -KILL -- "-$helper" 2>/dev/null || true
    # `wait` keeps bash from printing that the helper was killed.
    wait "$helper" 2>/dev/null || true
done
kill -KILL -- "-$command" 2>/dev/null || true
end_left_processes

if [[ $status == 0 && -e $stop_dir/stopped_by_guard ]]; then
    say "the guard ended it, see $stop_dir/guard.jsonl; start it again to continue nevertheless"
    exit 1
elif [[ $status == 0 && ! -e $stop_dir/stopped ]]; then
    date >"$RUN_DIR/complete.new"
    mv "$RUN_DIR/complete.new" "$RUN_DIR/complete"
    say "complete$([[ ! -e $RUN_DIR/report.html ]] || echo "; report: $RUN_DIR/report.html")"
elif [[ -n $interrupted ]]; then
    say "interrupted; start it again to continue"
    exit 143
elif [[ -n $limit_reached ]]; then
    queue_again
elif [[ $status == 0 ]]; then
    say "stopped on request after a checkpoint; start it again to continue"
    exit 75
else
    explain
    say "failed with status $status; the end of $log:"
    # The metrics of one step are one line of thousands of characters.
    tail -n 20 "$log" | cut --characters=1-500 >&2
    exit "$status"
fi
