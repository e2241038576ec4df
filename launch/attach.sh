#!/usr/bin/env bash
# Runs a command that outlives its connection: bash launch/attach.sh FOLDER COMMAND...
#
# Starts the command, unless the one that was started with this FOLDER still runs, and prints its output until it
# ends. Then prints one line, "attach.sh: exit code N", and exits with N. tpu_vm.sh and tpu_pod.sh run this on the
# TPU machine. There, a connection may break for many reasons, and `gcloud compute tpus tpu-vm ssh` then connects
# again and repeats its command.
set -euo pipefail

folder=$1
shift
mkdir -p "$folder"
command=$(printf '%q ' "$@")
if ! kill -0 "$(cat "$folder/pid" 2>/dev/null)" 2>/dev/null; then
    rm -f "$folder/code"
    : >"$folder/output"
    echo "$command" >"$folder/command"
    # A session of its own, so that the end of the connection sends it no signal.
    setsid bash -c 'folder=$1; shift; code=0; "$@" || code=$?; echo "$code" >"$folder/code"' bash "$folder" "$@" \
        >"$folder/output" 2>&1 </dev/null &
    echo $! >"$folder/pid"
elif [[ $command != "$(cat "$folder/command")" ]]; then
    echo "attach.sh: still runs: $(cat "$folder/command")"
    echo "attach.sh: exit code 2"
    exit 2
fi
pid=$(cat "$folder/pid")
tail --pid="$pid" --lines=+1 --sleep-interval=0.2 --follow "$folder/output"
code=$(cat "$folder/code" 2>/dev/null || echo 137) # a killed shell writes no code
echo "attach.sh: exit code $code"
exit "$code"
