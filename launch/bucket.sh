# A workdir in Cloud Storage (gs://BUCKET/DIR), for local.sh; to be sourced, not run.
#
# A run appends to files, renames and locks, which an object store cannot. It therefore trains in a folder on
# this machine, and the bucket has a copy: read at the start, updated during the training and at its end.
# If the machine is lost at any moment, the copy resumes exactly, because of the order in which it is written:
#
# 1. Everything but checkpoints, after the complete checkpoints are listed (and linked, because training deletes
#    them). Rows of metrics after a checkpoint are dropped on resumption; missing rows could not be made up.
# 2. Checkpoints, the newest first. The last file of each is commit_success.txt, as when Orbax itself writes to
#    an object store; one without it is incomplete and ignored.
# 3. Deletions of old checkpoints.
# 4. result.json, which marks the run as finished, if it was there before.
#
# A bucket has no locks: only one machine at a time may train there.
#
# Variable: CNN_JAX_BUCKET_SECONDS, the time between two copies; default: 60.

commit=commit_success.txt

# bucket_open URL: makes a local copy of the run, sets `folder` to it, and begins to copy what changes.
bucket_open() {
    [[ $1 =~ ^gs://[^/]+/. ]] || fail "--workdir=$1: must be gs://BUCKET/DIR"
    ((BASH_VERSINFO[0] >= 5)) || fail "--workdir=$1: needs bash 5 or newer, this is $BASH_VERSION"
    command -v gcloud >/dev/null || fail "--workdir=$1: needs gcloud, the Google Cloud CLI"
    url=${1%/}
    local here step
    here=$root/runs/.buckets/$(basename "$url")-$(cksum <<<"$url" | cut -d ' ' -f 1)
    folder=$here/run staged=$here/staged linked=$here/linked
    mkdir -p "$here"
    if command -v flock >/dev/null; then
        exec 8>"$here/lock"
        flock --nonblock 8 || fail "--workdir=$1: is in use by another process on this machine"
    fi
    # The bucket has the newest complete state; an earlier process may have left something newer, but incomplete.
    rm -rf "$folder" "$staged" "$linked" "$here/end"
    mkdir -p "$folder/logs" "$staged"
    # Begins with a file, because nothing can be read from an empty folder, and writing must be possible.
    date '+started %Y-%m-%d %H:%M:%S' | storage cp - "$url/logs/started.txt" &&
        storage rsync --recursive "$url" "$folder" ||
        fail "--workdir=$1: cannot be written and read (see above)"
    declare -gA copied=() # step -> inode of what the bucket has
    for step in $(steps); do
        if [[ -f $folder/checkpoints/$step/$commit ]]; then
            rm "$folder/checkpoints/$step/$commit"
            copied[$step]=$(inode "$step")
        else
            rm -r "${folder:?}/checkpoints/$step"
            storage rm --recursive "$url/checkpoints/$step" || true
        fi
    done
    mkfifo "$here/end"
    follow 7<"$here/end" &
    follower=$!
    exec 9>"$here/end"
}

# bucket_close: makes the last copy. Fails if that is not possible.
bucket_close() {
    trap '' TERM INT
    echo end >&9
    exec 9>&-
    wait "$follower"
}

# storage ARGUMENTS...: runs `gcloud storage`, and prints its output only if it fails.
storage() {
    local output
    output=$(gcloud storage "$@" 2>&1) || { printf '%s\n' "$output" >&2; return 1; }
}

# steps: prints the steps of complete checkpoints, which Orbax names when they are complete; the newest first.
steps() {
    [[ ! -d $folder/checkpoints ]] || ls "$folder/checkpoints" | grep -E '^[0-9]+$' | sort -rn || true
}

# inode STEP: prints a number that differs if the step was written again.
inode() {
    local number
    read -r number _ <<<"$(ls -di "$folder/checkpoints/$1" 2>/dev/null)"
    echo "$number"
}

# Copies until a line on descriptor 7 asks for the last copy. Signals are for the training, which then saves.
follow() {
    local again status
    trap '' INT TERM HUP
    while :; do
        status=0
        read -r -u 7 -t "${CNN_JAX_BUCKET_SECONDS:-60}" || status=$?
        ((status > 128)) || break # else the time is up
        copy_out || say "could not copy to $url (see above), trying again"
    done
    for again in 1 2 3 4 0; do
        if copy_out; then
            say "copied to $url"
            return
        fi
        sleep "$again"
    done
    say "could not copy the last state to $url (see above)"
    return 1
}

copy_out() {
    local step name new='' old='' kept=false finished=false
    local -A now=()
    [[ ! -f $folder/result.json ]] || finished=true
    rm -rf "$linked"
    mkdir "$linked"
    for step in $(steps); do
        now[$step]=$(inode "$step")
        [[ ${copied[$step]:-} == "${now[$step]}" ]] || ! link "$step" || new+=" $step"
    done
    for name in $(ls -A "$folder"); do
        case $name in
            checkpoints | damaged | result.json | .lock) ;;
            *) cp -Rp "$folder/$name" "$staged/" || return ;; # a file that grows cannot be uploaded
        esac
    done
    storage rsync --recursive "$staged" "$url" || return
    for step in $new; do
        if [[ -n ${copied[$step]:-} ]]; then # it was damaged and is written again
            discard "$step" || return
        fi
        storage rsync --recursive "$linked/$step" "$url/checkpoints/$step" &&
            echo complete | storage cp - "$url/checkpoints/$step/$commit" || return
        copied[$step]=${now[$step]}
    done
    for step in "${!copied[@]}"; do
        [[ -n ${now[$step]:-} ]] && kept=true || old+=" $step"
    done
    if $kept; then
        for step in $old; do
            discard "$step" || return
        done
    fi
    ! $finished || storage cp "$folder/result.json" "$url/result.json"
}

# discard STEP: deletes a checkpoint in the bucket, first what makes it valid.
discard() {
    if [[ ${copied[$1]} != invalid ]]; then
        storage rm "$url/checkpoints/$1/$commit" || return
        copied[$1]=invalid
    fi
    storage rm --recursive "$url/checkpoints/$1" || return
    unset "copied[$1]"
}

# link STEP: links the files of a checkpoint, which may be deleted at any time. Fails if it is being deleted.
link() {
    local from=$folder/checkpoints/$1 to=$linked/$1
    cp -Rl "$from" "$to" 2>/dev/null && [[ $(cd "$from" && find . | sort) == "$(cd "$to" && find . | sort)" ]]
}
