#!/usr/bin/env bash
# Submits a training run to Slurm: bash launch/slurm.sh --workdir=DIR [options] [flags of experiments/train.py]
#
#   bash launch/slurm.sh --workdir=runs/big --nodes=2 --gpus_per_node=4 --time=12:00:00 --model=vgg16
#   bash launch/slurm.sh --workdir=runs/a --sbatch=--partition=gpu --sbatch=--account=me --model=vgg16
#
#   --workdir=DIR         folder of the run, on a disk that all nodes mount; logs go to DIR/logs
#   --nodes=N             number of nodes; default: 1
#   --gpus_per_node=N     GPUs per node; default: 1; 0 for a CPU job. One process per GPU (one per node
#                         without GPUs)
#   --time=HH:MM:SS       time limit; default: 01:00:00
#   --sbatch=OPTION       any other option of sbatch; may be repeated
#   --help, --dry_run     print this text; print what would be submitted
#
# Slurm sends SIGTERM two minutes before the time limit and when it preempts the job. The training then
# saves and exits with 75, and the job requeues itself to resume from the checkpoint. If a process dies
# for another reason, the job is not requeued and ends with its exit code.
# The environment (.venv, with the CUDA build of JAX for GPUs) is created on the machine that submits, and
# all nodes must be able to read it. To use another one, set CNN_JAX_PYTHON; see launch/common.sh.
source "$(dirname "${SLURM_LAUNCH:-${BASH_SOURCE[0]}}")/common.sh"
source "$root/launch/platform.sh"

# In the job, Slurm runs a copy of this script, whose arguments are the command to run.
if [[ -n ${SLURM_LAUNCH:-} ]]; then
    trap : TERM # preemption may also signal this shell, which must survive to requeue
    code=0
    use_compilation_cache
    srun --kill-on-bad-exit=1 "$@" || code=$?
    if ((code == 75)); then
        say "stopped and saved; requeueing job $SLURM_JOB_ID"
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    exit "$code"
fi

own_flags "$@"
nodes=1 gpus=1 time=01:00:00 workdir=''
training=() options=()
for flag in ${flags[@]+"${flags[@]}"}; do
    value=${flag#*=}
    case $flag in
        --nodes=*) nodes=$value ;;
        --gpus_per_node=*) gpus=$value ;;
        --time=*) time=$value ;;
        --sbatch=*) options+=("$value") ;;
        --workdir=?*) workdir=$value ;;
        --*=*) training+=("$flag") ;;
        *) fail "$flag: flags are written --name=value" ;;
    esac
done
[[ -n $workdir ]] || fail '--workdir=DIR is missing (see --help)'
require_folder workdir "$workdir"
[[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "--nodes=$nodes: must be an integer of at least 1"
[[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus_per_node=$gpus: must be an integer of at least 0"
$dry_run || command -v sbatch >/dev/null || fail 'sbatch not found: run this on a machine that can submit to Slurm'

if ((gpus > 0)); then
    extra=cuda
    options=("--ntasks-per-node=$gpus" "--gpus-per-node=$gpus" ${options[@]+"${options[@]}"})
else
    extra=cpu
    options=(--ntasks-per-node=1 ${options[@]+"${options[@]}"})
fi
ensure_environment "train,$extra"
tasks=$((nodes * (gpus > 0 ? gpus : 1)))
((tasks == 1)) || training+=(--coordinator=auto)
platform_flags "${extra/cuda/gpu}" "$tasks"
$dry_run || mkdir -p "$workdir/logs"
export SLURM_LAUNCH=$root/launch/slurm.sh
run_or_print sbatch --job-name="cnn_jax-$(basename "$workdir")" --nodes="$nodes" --time="$time" \
    --requeue --signal=TERM@120 --open-mode=append --output="$workdir/logs/slurm-%j.log" \
    --export=ALL "${options[@]}" "$root/launch/slurm.sh" \
    "$python" "$root/experiments/train.py" "--workdir=$workdir" ${training[@]+"${training[@]}"}
