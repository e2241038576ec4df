# Shared by tpu_vm.sh and tpu_pod.sh; to be sourced, not run. They set `type` (the accelerator type) and
# `pod` (whether the training runs as several processes) first.
#
# Everything uses Google's command `gcloud`, with the user's account. A machine is requested as a queued
# resource, which waits until one is free and has the states below:
# https://docs.cloud.google.com/tpu/docs/queued-resources
#
# Variable: CNN_JAX_POLL_SECONDS, the time between two looks at the state; default: 15.

own_flags "$@"
name=cnn-jax zone=${CLOUDSDK_COMPUTE_ZONE:-} project=${CLOUDSDK_CORE_PROJECT:-}
version=v2-alpha-tpuv5-lite workdir='' results='' keep=false spot=false tries=''
training=() options=()
for flag in ${flags[@]+"${flags[@]}"}; do
    value=${flag#*=}
    case $flag in
        --name=?*) name=$value ;;
        --zone=*) zone=$value ;;
        --project=*) project=$value ;;
        --type=*) type=$value ;;
        --version=*) version=$value ;;
        --create=*) options+=("$value") ;;
        --workdir=?*) workdir=${value%/} ;;
        --results=?*) results=$value ;;
        --tries=*) tries=$value ;;
        --keep) keep=true ;;
        --spot) spot=true ;;
        --*=*) training+=("$flag") ;;
        *) fail "$flag: flags are written --name=value" ;;
    esac
done
[[ -n $workdir ]] || fail '--workdir=DIR is missing (see --help)'
! $pod || [[ $workdir == /* ]] ||
    fail "--workdir=$workdir: must be an absolute path on a disk that all workers of the pod mount"
tries=${tries:-$($spot && echo 5 || echo 1)}
[[ $tries =~ ^[1-9][0-9]*$ ]] || fail "--tries=$tries: must be an integer of at least 1"
((tries == 1)) || [[ $workdir == gs://?*/?* || $workdir == /* ]] ||
    fail "--workdir=$workdir: does not outlast a preempted machine; use gs://BUCKET/DIR, or a path on a disk that each machine mounts"
results=${results:-$root/runs/$(basename "$workdir")}
if ! $dry_run; then
    command -v gcloud >/dev/null ||
        fail 'gcloud not found: install the Google Cloud CLI, then run gcloud auth login'
    [[ -n $project ]] || project=$(gcloud config get-value project 2>/dev/null || true)
    [[ -n $zone ]] || zone=$(gcloud config get-value compute/zone 2>/dev/null || true)
fi
[[ -n $project && $project != '(unset)' ]] || fail 'no project: use --project=ID or gcloud config set project ID'
[[ -n $zone && $zone != '(unset)' ]] || fail 'no zone: use --zone=ZONE or gcloud config set compute/zone ZONE'

where=("--zone=$zone" "--project=$project" --quiet)
poll=${CNN_JAX_POLL_SECONDS:-15}

# cloud GROUP VERB ARGUMENTS...: runs one gcloud command, or prints it with --dry_run. It runs in the background,
# because bash handles a signal only after a command in the foreground.
cloud() {
    local call=(gcloud compute tpus "$@" "${where[@]}") status=0
    if $dry_run; then
        quoted "${call[@]}"
        return
    fi
    say "$2 $name"
    "${call[@]}" &
    child=$!
    [[ $1 == queued-resources ]] || { guard "$child" & guard=$!; }
    wait "$child" 2>/dev/null || status=$? # no message if `guard` ended it
    child=''
    end "$guard"
    guard=''
    return "$status"
}

# guard PID: ends a command on the machine if the machine is lost, because a connection may wait for hours.
guard() {
    while sleep "$poll" >/dev/null 2>&1; do
        if is_lost "$(state)"; then
            sleep "$poll" # it usually ends by itself
            end "$1"
            return
        fi
    done
}

# end PID: ends a process and those that it started. gcloud starts ssh.
end() {
    local each children
    [[ -n $1 ]] || return 0
    children=$(pgrep -P "$1") || true
    { kill -KILL "$1" && wait "$1"; } 2>/dev/null || true # it may ignore SIGTERM, as `finish` does
    for each in $children; do
        end "$each"
    done
}

pause() {
    sleep "$poll" >/dev/null 2>&1 &
    wait $!
}

# state: prints the state of the request, `absent`, or `unknown` if Google Cloud cannot be asked.
state() {
    local found
    if found=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
        '--format=value(state.state)' 2>&1); then
        echo "${found##*$'\n'}" # the last line; there may be warnings before it
    elif [[ $found == *NOT_FOUND* ]]; then
        echo absent
    else
        echo unknown
    fi
}

# is_lost STATE: succeeds if the machine is gone, or will not come. A preempted request is SUSPENDED.
is_lost() {
    [[ $1 =~ ^(SUSPENDING|SUSPENDED|FAILED|DELETING|absent)$ ]]
}

# obtain: reuses the machine if there is one, else requests it and waits for it. Fails if it is lost before.
obtain() {
    local now=absent before=''
    $dry_run || now=$(state)
    begun=true
    if [[ $now == ACTIVE ]]; then
        say "$name already exists, reusing it"
        return
    fi
    if is_lost "$now"; then
        [[ $now == absent ]] || remove || stop_with 1 "$name: $now, and cannot be deleted"
        copied=false creating=true
        cloud queued-resources create "$name" "--node-id=$name" "--accelerator-type=$type" \
            "--runtime-version=$version" ${options[@]+"${options[@]}"} ||
            stop_with 1 "$name: was not created (see above)"
        creating=false
    fi
    while ! $dry_run; do
        now=$(state)
        [[ $now == "$before" ]] || say "$name: $now"
        before=$now
        [[ $now != ACTIVE ]] || return 0
        [[ $now != FAILED ]] || cloud queued-resources describe "$name" '--format=yaml(state)' || true # why
        ! is_lost "$now" || return 1
        pause
    done
}

# Copies the files of the checkout, except those that git ignores.
copy() {
    local archive=$scratch/cnn_jax.tar.gz
    $dry_run || (cd "$root" && git ls-files -z --cached --others --exclude-standard |
        tar --null --files-from=- --create --gzip --file="$archive")
    cloud tpu-vm scp "$archive" "$name:cnn_jax.tar.gz" --worker=all &&
        cloud tpu-vm ssh "$name" --worker=all \
            --command='mkdir -p cnn_jax && tar --extract --gzip --file=cnn_jax.tar.gz --directory=cnn_jax'
}

# train: sets `code` to the exit code of the training. Fails if the training did not end by itself.
train() {
    local command each codes tee
    command="cd cnn_jax && CNN_JAX_EXTRAS=train,tpu bash launch/attach.sh ../cnn_jax_training"
    command+=" bash launch/local.sh $(quoted "--workdir=$workdir" ${training[@]+"${training[@]}"})"
    code=0
    if $dry_run; then
        cloud tpu-vm ssh "$name" --worker=all --command="$command"
        return
    fi
    mkfifo "$scratch/pipe"
    tee "$scratch/output" <"$scratch/pipe" &
    tee=$!
    cloud tpu-vm ssh "$name" --worker=all --command="$command" >"$scratch/pipe" || code=$?
    wait "$tee"
    rm "$scratch/pipe"
    ((code != 0)) || return 0
    # gcloud's own exit code does not distinguish a lost connection from an error of the training.
    codes=$(sed -n 's/.*attach.sh: exit code \([0-9]*\).*/\1/p' "$scratch/output")
    for each in $codes; do
        case $each in
            0 | 75 | 77 | 134 | 137 | 143) ;; # ended from outside; see docs/training.md
            *) code=$each && return 0 ;;
        esac
    done
    return 1
}

# fetch: copies the run to this machine.
fetch() {
    local from=$workdir # a relative path is in the copy of the checkout
    if [[ $workdir == gs://* ]]; then
        local call=(gcloud storage rsync --recursive "$workdir" "$results" "--project=$project" --quiet)
        $dry_run && quoted "${call[@]}" || "${call[@]}"
        return
    fi
    [[ $from == /* ]] || from=cnn_jax/$from
    cloud tpu-vm scp --recurse "$name:$from/." "$results" --worker=0
}

# remove: deletes the request and its machine, and returns when both are gone.
remove() {
    local again
    for again in 1 2 3 4 5; do
        $dry_run || [[ $(state) != absent ]] || return 0
        cloud queued-resources delete "$name" --force || pause
        ! $dry_run || return 0
    done
    [[ $(state) == absent ]]
}

stop_with() {
    say "$2"
    exit "$1"
}

# finish: fetches the results and deletes the machine, whatever happened. If the results are only on the machine
# and cannot be fetched, the machine is kept and a message says so, because the results are worth more than
# the cost of the machine; but not after Ctrl-C.
finish() {
    local code=$? kept=$keep
    trap '' INT TERM HUP PIPE
    end "$child"
    end "$guard"
    rm -rf "$scratch"
    ! $creating || pause # a request that was sent appears
    if $begun && [[ $workdir != gs://* ]] && { $dry_run || [[ $(state) == ACTIVE ]]; }; then
        fetch || $signalled || ((code == 2)) || { kept=true && ((code)) || code=1; }
    fi
    if $begun && { $kept || ! remove; }; then
        say "NOT DELETED and still costs money; to delete it: gcloud compute tpus queued-resources delete $name --force --zone=$zone --project=$project"
    fi
    if $begun && [[ $workdir == gs://* ]]; then
        fetch || say "could not copy $workdir to $results"
    fi
    exit "$code"
}

scratch=$(mktemp -d) child='' guard='' begun=false creating=false copied=false signalled=false code=75
trap finish EXIT
trap 'signalled=true; exit 129' HUP
trap 'signalled=true; exit 130' INT
trap 'signalled=true; exit 143' TERM
! $spot || options+=(--spot)
! $pod || training+=(--coordinator=auto)
if ! $dry_run; then
    mkdir -p "$results/logs"
    exec > >(trap '' INT TERM HUP && exec tee -a "$results/logs/$(basename "$0" .sh).log") 2>&1
fi
for ((try = 1; try <= tries; try++)); do
    ((tries == 1)) || $dry_run || say "try $try of $tries"
    if obtain && { $copied || copy; } && copied=true && train; then
        exit "$code"
    fi
    say "$name: did not get to the end of the training"
    for again in 1 2 3 4; do # the state follows late
        [[ $(state) == ACTIVE ]] || break
        pause
    done
done
say "gave up after $tries $( ((tries == 1)) && echo try || echo tries); the same command resumes"
exit 75
