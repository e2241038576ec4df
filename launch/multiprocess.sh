#!/usr/bin/env bash
# Trains in several processes on this machine: bash launch/multiprocess.sh --workdir=DIR [--processes=N] [flags]
#
#   bash launch/multiprocess.sh --processes=2 --workdir=runs/two --dataset=fashion_mnist
#
#   --processes=N        number of processes, which share each batch; default: 2. The result does not
#                        depend on it
#   --workdir=DIR        folder of the run; each process writes its output to DIR/logs/process<i>.log
#   --port=N             port that process 0 listens on; default: a free one
#   --max_restarts=N     maximum number of restarts; default: 3. If a process dies, the others are killed
#                        and all restart from the newest checkpoint
#   --help, --dry_run    print this text; print the commands, but install and run nothing
#   other flags          passed to experiments/train.py
#
# Exit codes: 0 finished; 2 an invalid flag (no restart); 75 stopped by a signal after saving; otherwise
# the exit code of the first process that died in the last attempt.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$root/launch/platform.sh"

own_flags "$@"
processes=2 workdir='' port='' max_restarts=3
training=()
for flag in ${flags[@]+"${flags[@]}"}; do
    value=${flag#*=}
    case $flag in
        --processes=*) processes=$value ;;
        --workdir=?*) workdir=$value ;;
        --port=*) port=$value ;;
        --max_restarts=*) max_restarts=$value ;;
        --*) training+=("$flag") ;;
        *) fail "$flag: flags are written --name=value" ;;
    esac
done
[[ -n $workdir ]] || fail '--workdir=DIR is missing (see --help)'
require_folder workdir "$workdir"
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes=$processes: must be an integer of at least 1"
[[ $max_restarts =~ ^[0-9]+$ ]] || fail "--max_restarts=$max_restarts: must be an integer of at least 0"
[[ $port =~ ^[0-9]*$ ]] || fail "--port=$port: must be an integer of at least 0"

free_port() {
    "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# command_of PROCESS PORT: sets the array `command`.
command_of() {
    command=("$python" "$root/experiments/train.py" "--workdir=$workdir"
        ${training[@]+"${training[@]}"}
        "--coordinator=127.0.0.1:$2" "--num_processes=$processes" "--process_id=$1")
}

# attempt: starts all processes, and kills the others if one dies. Sets `code` to the exit code of the
# first process that died, and `first` to its number.
attempt() {
    local i this waited pids=() running signalled=false
    this=${port:-$(free_port)}
    for ((i = 0; i < processes; i++)); do
        command_of "$i" "$this"
        printf '# %s  %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$(quoted "${command[@]}")" >>"$workdir/logs/process$i.log"
        PYTHONUNBUFFERED=1 "${command[@]}" >>"$workdir/logs/process$i.log" 2>&1 &
        pids+=($!)
    done
    trap 'signalled=true; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
    code=0 first=0 running=$processes
    while ((running > 0)); do
        sleep 0.2
        running=0
        for i in "${!pids[@]}"; do
            if kill -0 "${pids[i]}" 2>/dev/null; then
                running=$((running + 1))
                continue
            fi
            waited=0
            wait "${pids[i]}" || waited=$?
            unset 'pids[i]'
            ((waited == 0 || code != 0)) && continue
            code=$waited first=$i
            $signalled || ((waited == 75)) || end_others "$i" "$waited"
        done
    done
    trap - TERM INT
}

# end_others PROCESS CODE: kills the other processes, which would wait forever for the dead one.
end_others() {
    say "process $1 died with exit code $2; ending the others (see $workdir/logs/process$1.log)"
    ((${#pids[@]} == 0)) || kill -KILL "${pids[@]}" 2>/dev/null || true
}

ensure_environment "$(extras_of_machine)"
platform_flags "$(platform_of_machine)" "$processes"
use_compilation_cache
if $dry_run; then
    for ((i = 0; i < processes; i++)); do
        command_of "$i" "${port:-PORT}"
        quoted "${command[@]}"
    done
    exit
fi
mkdir -p "$workdir/logs"
for ((restarts = 0; ; restarts++)); do
    attempt
    case $code in
        0 | 2 | 75) break ;;
    esac
    ((restarts < max_restarts)) || { say "gave up after $restarts restarts"; break; }
    say "restart $((restarts + 1)) of $max_restarts, from the newest checkpoint"
done
tail -n 1 "$workdir/logs/process$first.log"
exit "$code"
