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
#   --help, --dry_run    print this text; print the commands, but install and run nothing
#   other flags          passed to every run
#
# Running the same command again skips finished runs and continues the others. If a run fails, the sweep
# reports it and continues. Exit codes: 0 all runs finished; 1 some failed; 75 stopped by a signal after
# saving (run it again to resume).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$root/launch/platform.sh"

own_flags "$@"
sweepdir='' recipes='' seeds=0 metric=test.accuracy
grid=('') # all combinations of grid values: flags separated by spaces
common=()
for flag in ${flags[@]+"${flags[@]}"}; do
    value=${flag#*=}
    case $flag in
        --sweepdir=?*) sweepdir=$value ;;
        --recipes=*) recipes=${value//,/ } ;;
        --seeds=*) seeds=$value ;;
        --metric=*) metric=$value ;;
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
for recipe in $recipes; do
    [[ -f $recipe ]] || fail "--recipes: no such file: $recipe"
done
[[ $seeds =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "--seeds=$seeds: must be integers separated by commas"

# one RECIPE COMBINATION SEED: trains one run unless it is finished; adds it to `failed` if it fails.
one() {
    local recipe=$1 combination=$2 seed=$3 name workdir
    name=$(basename "${recipe%.flags}")${combination// --/,}
    name=${name#,}
    name=${name:-run}
    workdir=$sweepdir/$name/seed$seed
    if [[ -f $workdir/result.json ]]; then
        say "$name, seed $seed: already finished"
        return
    fi
    local command=("$python" "$root/experiments/train.py")
    [[ -z $recipe ]] || command+=("--flagfile=$recipe")
    # shellcheck disable=SC2206  # the combination is split on purpose
    command+=(${common[@]+"${common[@]}"} $combination "--seed=$seed" "--workdir=$workdir")
    if $dry_run; then
        quoted "${command[@]}"
        return
    fi
    say "$name, seed $seed"
    run_logged "$sweepdir/logs/$name,seed$seed.log" "${command[@]}"
    ((code != 75)) || exit 75
    ((code == 0)) || failed+=("$name, seed $seed (exit code $code)")
}

ensure_environment "$(extras_of_machine)"
failed=()
for recipe in ${recipes:-''}; do
    for combination in "${grid[@]}"; do
        for seed in ${seeds//,/ }; do
            one "$recipe" "$combination" "$seed"
        done
    done
done
$dry_run && exit
"$python" "$root/launch/sweep_table.py" "$sweepdir" "$metric" | tee "$sweepdir/table.md"
for run in ${failed[@]+"${failed[@]}"}; do
    say "failed: $run, see $sweepdir/logs"
done
((${#failed[@]} == 0))
