#!/usr/bin/env bash
# Measures this machine's GPU, TPU or CPU: bash launch/accelerator_report.sh [flags]
#
#   bash launch/accelerator_report.sh                    # 10 minutes
#   bash launch/accelerator_report.sh --small            # tiny measurements, to try the program
#
# Checks every kernel against float64, times kernels and the training of well-known networks (and the same
# in PyTorch if it is installed: CNN_JAX_EXTRAS=bench,cuda,compare), and writes one file to send back:
# runs/accelerator_report/report.json. A part that fails or runs out of time is recorded; the rest goes on.
#
# The first run creates .venv and installs the package, which needs a package index; the report itself
# needs no network. CNN_JAX_REPORT=small is the same as --small.
#
#   --help      print this text; all flags: bash launch/accelerator_report.sh --helpshort
#   --dry_run   print the command; install and run nothing
#
# Exit codes: 0 the report is written; 1 it is written, and a kernel computed wrong results; 2 an invalid
# flag. Variables: see launch/common.sh; settings of each platform: launch/platform.sh.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$root/launch/platform.sh"

own_flags "$@"
platform=$(platform_of_machine)
ensure_environment "bench,${platform/gpu/cuda}"
platform_flags "$platform"
use_compilation_cache
run_or_print "$python" "$root/experiments/accelerator_report.py" ${flags[@]+"${flags[@]}"}
