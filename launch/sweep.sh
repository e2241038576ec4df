#!/usr/bin/env bash
# Trains every combination of recipes, flag values and seeds: bash launch/sweep.sh --sweepdir=DIR ...
#
#   bash launch/sweep.sh --sweepdir=runs/lr --seeds=0,1,2 --grid=learning_rate=1e-3,3e-3 --epochs=10
#   bash launch/sweep.sh --sweepdir=runs/two --recipes=experiments/recipes/A.flags,experiments/recipes/B.flags
#
#   --sweepdir=DIR       folder for all output: DIR/<combination>/seed<n> (working folders of the runs),
#                        DIR/logs, and DIR/table.md, which is printed at the end
#   --recipes=A,B        flag files; default: none, only the flags given here
#   --grid=FLAG=V1,V2    values of one flag; may be repeated. Values that contain commas are separated by
#                        semicolons: '--grid=dataset=fsdd:length=4000,test_speaker=theo;fsdd'
#   --seeds=0,1,2        seeds; default: 0
#   --metric=NAME        metric in result.json for the table; default: test.accuracy
#   --together=N         train up to N runs in one program (experiments/train_members.py) if they differ only in
#                        seed, learning_rate and weight_decay; default: 1, a program for each run
#   --jobs=N             programs that run side by side; on Linux, they divide the processor's cores among
#                        themselves; default: 1
#   --array=N            submit the programs to Slurm as an array job, of which at most N run at a time; the same
#                        command without --array prints the table at the end
#   --gpus_per_node=N    with --array: GPUs for each program; default: 1; 0 for CPUs only
#   --time=HH:MM:SS      with --array: time limit of each program; default: 01:00:00
#   --sbatch=OPTION      with --array: any other option of sbatch; may be repeated
#   --help, --dry_run    print this text; print the commands, but install and run nothing
#   other flags          passed to every run
#
# Running the same command again skips finished runs and continues the others. If a run fails, the sweep
# reports it and continues. Exit codes: 0 all runs finished; 1 some failed; 75 stopped by a signal after
# saving (run it again to resume).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$root/launch/platform.sh"
use_compilation_cache

given=("$@")
own_flags "$@"
sweepdir='' recipes='' seeds=0 metric=test.accuracy together=1 jobs=1 array='' gpus=1 time=01:00:00
grid=('') # all combinations of grid values: flags separated by spaces
common=() options=()
for flag in ${flags[@]+"${flags[@]}"}; do
    value=${flag#*=}
    case $flag in
        --sweepdir=?*) sweepdir=$value ;;
        --recipes=*) recipes=${value//,/ } ;;
        --seeds=*) seeds=$value ;;
        --metric=*) metric=$value ;;
        --together=*) together=$value ;;
        --jobs=*) jobs=$value ;;
        --array=*) array=$value ;;
        --gpus_per_node=*) gpus=$value ;;
        --time=*) time=$value ;;
        --sbatch=*) options+=("$value") ;;
        --grid=?*=?*)
            crossed=()
            [[ $value == *';'* ]] && separator=';' || separator=,
            for combination in "${grid[@]}"; do
                for choice in $(tr "$separator" ' ' <<<"${value#*=}"); do
                    crossed+=("$combination --${value%%=*}=$choice")
                done
            done
            grid=("${crossed[@]}")
            ;;
        --grid*) fail "$flag: must be --grid=FLAG=V1,V2" ;;
        --workdir*) fail "$flag: a sweep creates the working folders itself; use --sweepdir=DIR" ;;
        --*=*) common+=("$flag") ;;
        *) fail "$flag: flags are written --name=value" ;;
    esac
done
[[ -n $sweepdir ]] || fail '--sweepdir=DIR is missing (see --help)'
require_folder sweepdir "$sweepdir"
for recipe in $recipes; do
    [[ -f $recipe ]] || fail "--recipes: no such file: $recipe"
done
[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "--seeds=$seeds: must be integers separated by commas"
[[ $together =~ ^[1-9][0-9]*$ ]] || fail "--together=$together: must be an integer of at least 1"
[[ $jobs =~ ^[1-9][0-9]*$ ]] || fail "--jobs=$jobs: must be an integer of at least 1"
[[ $array =~ ^([1-9][0-9]*)?$ ]] || fail "--array=$array: must be an integer of at least 1"
[[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus_per_node=$gpus: must be an integer of at least 0"
[[ -z $array ]] || ((jobs == 1)) || fail "--jobs=$jobs: not with --array; Slurm runs the programs"
[[ -n $array ]] || ((${#options[@]} == 0)) || fail "--sbatch=${options[0]}: needs --array=N"

# The runs, and the program that trains each of them. The runs of a program share the flags `program_flags`.
run_names=() run_flags=() run_programs=()
program_flags=() program_sizes=()

# add_run RECIPE COMBINATION SEED: adds a run, to a program that it can share if one has room.
add_run() {
    local name flag i own='' shared='' program=''
    name=$(basename "${1%.flags}")${2// --/,}
    name=${name#,}
    [[ -z $1 ]] || shared=" --flagfile=$1"
    for flag in $2; do
        case $flag in
            --learning_rate=* | --weight_decay=*) own+="$flag " ;;
            *) shared+=" $flag" ;;
        esac
    done
    if ((together == 1)); then # keep the order in which flags are given
        shared="${1:+ --flagfile=$1}" own=$2
    fi
    for ((i = 0; i < ${#program_sizes[@]}; i++)); do
        if [[ ${program_flags[i]} == "$shared" ]] && ((program_sizes[i] < together)); then
            program=$i
        fi
    done
    if [[ -z $program ]]; then
        program=${#program_sizes[@]}
        program_flags+=("$shared")
        program_sizes+=(0)
    fi
    program_sizes[program]=$((program_sizes[program] + 1))
    run_names+=("${name:-run}/seed$3")
    run_flags+=("$own --seed=$3")
    run_programs+=("$program")
}

is_finished() {
    [[ -f $sweepdir/${run_names[$1]}/result.json ]]
}

# described RUN: prints the name of a run for messages.
described() {
    echo "${run_names[$1]/\/seed/, seed }"
}

# train_program PROGRAM: trains those of its runs that are not finished, or prints the command. Sets `code`.
train_program() {
    local run unfinished=() command log
    code=0
    for ((run = 0; run < ${#run_names[@]}; run++)); do
        ((run_programs[run] == $1)) || continue
        if is_finished "$run"; then
            say "$(described "$run"): already finished"
        else
            unfinished+=("$run")
        fi
    done
    ((${#unfinished[@]})) || return 0
    run=${unfinished[0]}
    log=$sweepdir/logs/${run_names[run]/\/seed/,seed}
    # Flags that follow the recipe override it.
    # shellcheck disable=SC2206  # the flags are split on purpose
    local shared=(${program_flags[$1]})
    local recipe=()
    if [[ ${shared[0]:-} == --flagfile=* ]]; then
        recipe=("${shared[0]}")
        shared=(${shared[@]+"${shared[@]:1}"})
    fi
    shared=(${recipe[@]+"${recipe[@]}"} ${common[@]+"${common[@]}"} ${shared[@]+"${shared[@]}"})
    if ((${#unfinished[@]} == 1)); then
        # shellcheck disable=SC2206
        command=("$python" "$root/experiments/train.py" ${shared[@]+"${shared[@]}"}
            ${run_flags[run]} "--workdir=$sweepdir/${run_names[run]}")
    else
        command=("$python" "$root/experiments/train_members.py" ${shared[@]+"${shared[@]}"})
        for run in "${unfinished[@]}"; do
            command+=("--run=${run_flags[run]} --workdir=$(printf '%q' "$sweepdir/${run_names[run]}")")
        done
        log+=,and$((${#unfinished[@]} - 1))more
    fi
    if $dry_run; then
        quoted "${command[@]}"
        return
    fi
    for run in "${unfinished[@]}"; do
        say "$(described "$run")"
    done
    # Slurm signals all processes of a task, so nothing may forward its signals.
    [[ -z $task ]] || exec "${command[@]}"
    run_logged "$log.log" ${cores[@]+"${cores[@]}"} "${command[@]}"
    ((code != 0)) || return 0
    for run in "${unfinished[@]}"; do
        is_finished "$run" || failed+=("$(described "$run") (exit code $code)")
    done
}

# cores_of JOB: sets `cores` to the command that keeps a job on its share of the cores.
cores_of() {
    local all mine='' i
    cores=()
    ((jobs > 1)) && command -v taskset >/dev/null || return 0
    # shellcheck disable=SC2207
    all=($("$python" -c 'import os; print(*sorted(os.sched_getaffinity(0)))'))
    ((${#all[@]} >= jobs)) || return 0
    for ((i = $1 * ${#all[@]} / jobs; i < ($1 + 1) * ${#all[@]} / jobs; i++)); do
        mine+=",${all[i]}"
    done
    cores=(taskset --cpu-list "${mine#,}")
}

# work JOB FOLDER: trains the programs that no other job has taken; writes the failed runs to FOLDER.
work() {
    local program
    cores_of "$1"
    for ((program = 0; program < ${#program_sizes[@]}; program++)); do
        mkdir "$2/$program" 2>/dev/null || continue # only one job succeeds
        train_program "$program"
        ((code != 75)) || exit 75
        ((${#failed[@]} == 0)) || printf '%s\n' "${failed[@]}" >"$2/failed$1"
    done
}

# side_by_side: trains all programs in several jobs, and ends each of them on a signal. Sets `failed`.
side_by_side() {
    local folder job pids=() pid result worst=0 fraction
    folder=$(mktemp -d)
    # The jobs share a GPU's memory, of which JAX would take three quarters for each.
    printf -v fraction '.%02d' $((90 / jobs))
    export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-$fraction}
    for ((job = 0; job < jobs; job++)); do
        work "$job" "$folder" &
        pids+=($!)
    done
    trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
    for pid in "${pids[@]}"; do
        result=128
        while ((result >= 128)); do # a signal interrupts `wait`
            result=0
            wait "$pid" || result=$?
            kill -0 "$pid" 2>/dev/null || break
        done
        ((result < 128)) || result=75 # ended between two programs
        ((result == 0)) || worst=$result
    done
    trap - TERM INT
    while read -r run; do
        failed+=("$run")
    done < <(cat "$folder"/failed* 2>/dev/null)
    rm -r "$folder"
    ((worst == 0)) || exit "$worst"
}

# submit: submits the programs with unfinished runs as an array job.
submit() {
    local run todo=''
    for ((run = 0; run < ${#run_names[@]}; run++)); do
        if ! is_finished "$run" && [[ ",$todo," != *",${run_programs[run]},"* ]]; then
            todo+=${todo:+,}${run_programs[run]}
        fi
    done
    [[ -n $todo ]] || fail 'all runs are finished; the same command without --array prints the table'
    ((gpus == 0)) || options=("--gpus-per-node=$gpus" ${options[@]+"${options[@]}"})
    $dry_run || mkdir -p "$sweepdir/logs"
    export SLURM_LAUNCH=$root/launch/slurm.sh
    run_or_print sbatch --job-name="cnn_jax-$(basename "$sweepdir")" --array="$todo%$array" \
        --nodes=1 --ntasks=1 --time="$time" --requeue --signal=TERM@120 --open-mode=append \
        --output="$sweepdir/logs/slurm-%A_%a.log" --export=ALL ${options[@]+"${options[@]}"} \
        "$root/launch/slurm.sh" bash "$root/launch/sweep.sh" "${given[@]}"
}

for recipe in ${recipes:-''}; do
    for combination in "${grid[@]}"; do
        for seed in ${seeds//,/ }; do
            add_run "$recipe" "$combination" "$seed"
        done
    done
done

failed=() cores=() task=''
if [[ -n $array && -n ${SLURM_LAUNCH:-} ]]; then # in the array job, which runs this script once per program
    task=${SLURM_ARRAY_TASK_ID:-}
fi
if [[ -n $array && -z $task ]]; then
    $dry_run || command -v sbatch >/dev/null || fail 'sbatch not found: run this on a machine that can submit to Slurm'
    ((gpus > 0)) && extra=cuda || extra=cpu
    ensure_environment "train,$extra"
    submit
fi
ensure_environment "$(extras_of_machine)"
if [[ -n $task ]]; then
    train_program "$task"
    exit
fi
if $dry_run || ((jobs == 1)); then
    for ((program = 0; program < ${#program_sizes[@]}; program++)); do
        train_program "$program"
        ((code != 75)) || exit 75
    done
else
    side_by_side
fi
$dry_run && exit
"$python" "$root/launch/sweep_table.py" "$sweepdir" "$metric" | tee "$sweepdir/table.md"
for run in ${failed[@]+"${failed[@]}"}; do
    say "failed: $run, see $sweepdir/logs"
done
((${#failed[@]} == 0))
