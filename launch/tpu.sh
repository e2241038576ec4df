# Shared by tpu_vm.sh and tpu_pod.sh; to be sourced, not run. They set `type` (the accelerator type) and
# `pod` (whether the training runs as several processes) first.
#
# Everything uses Google's command `gcloud compute tpus tpu-vm`, with the user's account.

own_flags "$@"
name=cnn-jax zone=${CLOUDSDK_COMPUTE_ZONE:-} project=${CLOUDSDK_CORE_PROJECT:-}
version=v2-alpha-tpuv5-lite workdir='' results='' keep=false spot=false
training=()
for flag in ${flags[@]+"${flags[@]}"}; do
    value=${flag#*=}
    case $flag in
        --name=?*) name=$value ;;
        --zone=*) zone=$value ;;
        --project=*) project=$value ;;
        --type=*) type=$value ;;
        --version=*) version=$value ;;
        --workdir=?*) workdir=$value ;;
        --results=?*) results=$value ;;
        --keep) keep=true ;;
        --spot) spot=true ;;
        --*=*) training+=("$flag") ;;
        *) fail "$flag: flags are written --name=value" ;;
    esac
done
[[ -n $workdir ]] || fail '--workdir=DIR is missing (see --help)'
! $pod || [[ $workdir == /* ]] ||
    fail "--workdir=$workdir: must be an absolute path on a disk that all workers of the pod mount"
results=${results:-$root/runs/$(basename "$workdir")}
if ! $dry_run; then
    command -v gcloud >/dev/null ||
        fail 'gcloud not found: install the Google Cloud CLI, then run gcloud auth login'
    [[ -n $project ]] || project=$(gcloud config get-value project 2>/dev/null || true)
    [[ -n $zone ]] || zone=$(gcloud config get-value compute/zone 2>/dev/null || true)
fi
[[ -n $project && $project != '(unset)' ]] || fail 'no project: use --project=ID or gcloud config set project ID'
[[ -n $zone && $zone != '(unset)' ]] || fail 'no zone: use --zone=ZONE or gcloud config set compute/zone ZONE'

# cloud VERB ARGUMENTS...: runs one gcloud command, or prints it with --dry_run.
cloud() {
    local verb=$1
    shift
    local call=(gcloud compute tpus tpu-vm "$verb" "$@" "--zone=$zone" "--project=$project" --quiet)
    if $dry_run; then
        quoted "${call[@]}"
    else
        say "$verb $name"
        "${call[@]}"
    fi
}

state() {
    gcloud compute tpus tpu-vm describe "$name" "--zone=$zone" "--project=$project" \
        '--format=value(state)' 2>/dev/null || echo absent
}

# A preempted machine can only be deleted and created again; a running one is reused.
create_or_reuse() {
    local now=absent
    $dry_run || now=$(state)
    case $now in
        READY)
            say "$name already exists, reusing it"
            return
            ;;
        absent) ;;
        *) cloud delete "$name" ;;
    esac
    local more=()
    ! $spot || more+=(--spot)
    cloud create "$name" "--accelerator-type=$type" "--version=$version" ${more[@]+"${more[@]}"}
}

# Copies the files of the checkout, except those that git ignores.
copy() {
    local archive=$scratch/cnn_jax.tar.gz
    $dry_run || (cd "$root" && git ls-files -z --cached --others --exclude-standard |
        tar --null --files-from=- --create --gzip --file="$archive")
    cloud scp "$archive" "$name:cnn_jax.tar.gz" --worker=all
    cloud ssh "$name" --worker=all \
        --command='mkdir -p cnn_jax && tar --extract --gzip --file=cnn_jax.tar.gz --directory=cnn_jax'
}

train() {
    local command
    ! $pod || training+=(--coordinator=auto)
    command="cd cnn_jax && CNN_JAX_EXTRAS=train,tpu bash launch/local.sh $(quoted "--workdir=$workdir" ${training[@]+"${training[@]}"})"
    cloud ssh "$name" --worker=all --command="$command"
}

fetch() {
    local from=$workdir # a relative path is in the copy of the checkout
    [[ $from == /* ]] || from=cnn_jax/$from
    cloud scp --recurse "$name:$from/." "$results" --worker=0
}

# If fetching the results fails, the machine is kept and a message says so, because the results are worth
# more than the cost of the machine.
finish() {
    local code=$?
    rm -rf "$scratch"
    $dry_run || $deleted ||
        say "NOT DELETED and still costs money; to delete it: gcloud compute tpus tpu-vm delete $name --zone=$zone --project=$project"
    exit "$code"
}

scratch=$(mktemp -d) deleted=false code=0
trap finish EXIT
if ! $dry_run; then
    mkdir -p "$results/logs"
    exec > >(tee -a "$results/logs/$(basename "$0" .sh).log") 2>&1
fi
create_or_reuse
copy
train || code=$?
fetch
if ! $keep; then
    cloud delete "$name"
    deleted=true
fi
exit "$code"
