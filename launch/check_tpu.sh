#!/usr/bin/env bash
# Compiles a training step for TPUs on a machine without one: bash launch/check_tpu.sh [flags]
#
#   bash launch/check_tpu.sh --model=vgg16 --input_shape=224,224,3 --dtype=bfloat16 --batch_per_chip=128
#   bash launch/check_tpu.sh --flagfile=experiments/recipes/NAME.flags --slices=v5e-1,v5e-16
#   bash launch/check_tpu.sh --model=unet --input_shape=2048,2048,3 --mesh=space:4 --slices=v5e-4,v5e-16
#
# For each slice (default: v5e-1, v5e-4, v5e-16, v5e-256, v6e-1), reports the memory used and available
# per chip, operations per chip, and collectives and their bytes per step. Also reports the expected weak
# scaling, and lowers the same step for TPU and CUDA with jax.export. Runs on the CPU only, in about 10 to
# 60 s per slice.
#
# The first run creates .venv-tpu and installs the package with the TPU compiler (libtpu, 700 MB
# unpacked). It uses a separate environment because JAX requires a TPU if libtpu is installed.
#
#   --help      print this text; all flags: bash launch/check_tpu.sh --helpshort
#   --dry_run   print the command; install and run nothing
#
# Exit codes: 0 the step fits on every slice; 1 it does not fit on some slice (prints the largest batch
# that fits); 2 an invalid flag. Variables: see launch/common.sh.
default_venv=.venv-tpu
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

own_flags "$@"
ensure_environment bench,tpu
export JAX_PLATFORMS=cpu
run_or_print "$python" "$root/experiments/check_tpu.py" ${flags[@]+"${flags[@]}"}
