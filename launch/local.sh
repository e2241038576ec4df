#!/usr/bin/env bash
# Trains on this machine: bash launch/local.sh [flags of experiments/train.py]
#
#   bash launch/local.sh                                            # handwritten digits, no network
#   bash launch/local.sh --dataset=fashion_mnist --epochs=10
#   bash launch/local.sh --flagfile=experiments/recipes/NAME.flags
#
# The first run creates .venv and installs the package; later runs start at once. Requires Python 3.11+
# and, for the first run, a package index.
#
# With --workdir=DIR, the output is also saved to DIR/logs/local.log. With --workdir=gs://BUCKET/DIR, a copy
# of the run in Cloud Storage is read at the start and kept up to date; see launch/bucket.sh.
#
#   --help      print this text; the flags of the training: bash launch/local.sh --helpshort
#   --dry_run   print the command; install and run nothing
#
# The exit code is that of the training, or 78 if its last state could not be copied to the bucket. For
# variables, see launch/common.sh; for the settings of each platform, see launch/platform.sh.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$root/launch/platform.sh"

own_flags "$@"
ensure_environment "$(extras_of_machine)"
platform_flags "$(platform_of_machine)"
use_compilation_cache
command=("$python" "$root/experiments/train.py" ${flags[@]+"${flags[@]}"})
workdir=$(flag_value workdir '' ${flags[@]+"${flags[@]}"})
if ! $dry_run && [[ $workdir == gs://* ]]; then
    source "$root/launch/bucket.sh"
    bucket_open "$workdir"
    for i in "${!command[@]}"; do
        case ${command[i]} in
            "$workdir" | --workdir="$workdir") command[i]=${command[i]%"$workdir"}$folder ;;
        esac
    done
    run_logged "$folder/logs/local.log" "${command[@]}"
    bucket_close || exit 78
    exit "$code"
fi
if $dry_run || [[ -z $workdir ]] || ! may_log_in "$workdir"; then
    run_or_print "${command[@]}"
fi
run_logged "$workdir/logs/local.log" "${command[@]}"
exit "$code"
