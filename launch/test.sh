#!/usr/bin/env bash
# Runs the tests: bash launch/test.sh [arguments of pytest]
#
#   bash launch/test.sh                     # all tests, one process per core (at most 4)
#   bash launch/test.sh tests/ops -k pool   # some tests
#   bash launch/test.sh -n 0 -x             # one process, stop at the first failure
#
# The first run creates .venv and installs the package; later runs start at once.
# Comparisons with PyTorch are skipped unless it is installed. To install it:
# CNN_JAX_EXTRAS=test,compare,cpu bash launch/test.sh
# Tests of the web page that explain.py writes are skipped unless Chromium or Chrome is on PATH.
# Tests on prepared data sets are skipped unless CNN_JAX_TEST_DATA names a TFDS folder.
#
#   --help      print this text (for pytest's own help: bash launch/test.sh -- --help)
#   --dry_run   print the command; install and run nothing
#
# The exit code is that of pytest. Variables: see launch/common.sh.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

own_flags "$@"
ensure_environment test,cpu
cd "$root"
run_or_print "$python" -m pytest -n auto --maxprocesses=4 --dist=worksteal ${flags[@]+"${flags[@]}"}
