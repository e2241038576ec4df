#!/usr/bin/env bash
# Compiles a training step for TPUs on a machine without one: bash launch/check_tpu.sh [flags]
#
#   bash launch/check_tpu.sh --model=vgg16 --input_shape=224,224,3 --dtype=bfloat16 --batch_per_chip=128
#   bash launch/check_tpu.sh --flagfile=experiments/recipes/NAME.flags --slices=v5e-1,v5e-16
#
# For each slice (default: v5e-1, v5e-4, v5e-16, v5e-256, v6e-1): memory against the chip's, operations
# per chip, collectives and their bytes per step; the weak scaling that follows; the lowering of the
# same step for TPU and CUDA by jax.export. Runs on the CPU alone, about 10 to 60 s a slice.
#
# Makes .venv-tpu and installs the package with the TPU compiler (libtpu, 700 MB unpacked) on the first
# run. It has its own environment because JAX asks for a TPU wherever it finds libtpu.
#
#   --help      this text; all flags: bash launch/check_tpu.sh --helpshort
#   --dry_run   print the command, install and run nothing
#
# Exit code: 0 fits everywhere; 1 does not fit somewhere (the largest batch that does is printed);
# 2 a wrong flag. Variables: see launch/common.sh.
default_venv=.venv-tpu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

own_flags "$@"
ensure_environment bench,tpu
export JAX_PLATFORMS=cpu
run_or_print "$python" "$root/experiments/check_tpu.py" ${flags[@]+"${flags[@]}"}
