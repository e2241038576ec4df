# Shared by the scripts in this folder; to be sourced, not run.
#
# Variables that a user may set:
#   CNN_JAX_VENV     the virtual environment (default: .venv in the checkout)
#   CNN_JAX_PYTHON   an interpreter to use as it is, without creating or installing anything (a cluster's
#                    module, conda, a container)
#   CNN_JAX_EXTRAS   extras to install, for example "test,compare,cpu" (default: those the script needs)
#   PYTHON           the interpreter that creates the environment (default: the first 3.11+ on PATH)
#   JAX_COMPILATION_CACHE_DIR  where compiled programs are kept (default: see use_compilation_cache; empty:
#                    nowhere)
# pip reads its own variables as usual (PIP_CONSTRAINT, PIP_INDEX_URL, ...).

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${CNN_JAX_VENV:-$root/${default_venv:-.venv}}
python=${CNN_JAX_PYTHON:-$venv/bin/python}

# To compile the modules that a start of Python imports takes a third of the start. The environment keeps the
# result, so the checkout stays clean.
if [[ -z ${CNN_JAX_PYTHON:-} ]]; then
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX=${PYTHONPYCACHEPREFIX:-$venv/bytecode}
fi

# fail MESSAGE: prints one line on stderr and exits with 2 (invalid arguments or a missing requirement).
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 2
}

# require_folder NAME VALUE: fails if the flag is a URL, such as that of an object store.
require_folder() {
    [[ $2 != *://* ]] || fail "--$1=$2: must be a local folder"
}

say() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
}

# usage: prints the help, which is the comment block below the first line of the script.
usage() {
    sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$0"
}

# quoted COMMAND...: prints the command as one line, quoted for the shell.
quoted() {
    local words
    printf -v words '%q ' "$@"
    printf '%s\n' "${words% }"
}

# run_or_print COMMAND...: replaces the shell with the command, or prints it with --dry_run.
run_or_print() {
    if $dry_run; then
        quoted "$@"
        exit
    fi
    exec "$@"
}

# run_logged LOG COMMAND...: runs the command, appends its output to LOG as well, forwards SIGTERM and
# SIGINT as SIGTERM, waits until it ends, and sets `code` to its exit code. On a terminal, stderr is not
# logged, because progress bars need to write to the terminal directly.
run_logged() {
    local log=$1 child again signalled=false
    shift
    mkdir -p "$(dirname "$log")"
    printf '# %s  %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$(quoted "$@")" >>"$log"
    if [[ -t 2 ]]; then
        PYTHONUNBUFFERED=1 "$@" > >(tee -a "$log") &
    else
        PYTHONUNBUFFERED=1 "$@" > >(tee -a "$log") 2> >(tee -a "$log" >&2) &
    fi
    child=$!
    trap 'signalled=true; kill -TERM "$child" 2>/dev/null || true' TERM INT
    code=0
    wait "$child" || code=$?
    while $signalled; do # a signal interrupts `wait`, not the command
        signalled=false again=0
        wait "$child" || again=$?
        ((again == 127)) || code=$again
    done
    trap - TERM INT
}

# may_log_in WORKDIR: succeeds unless the folder contains something other than a run.
may_log_in() {
    [[ ! -e $1 || -d $1/logs || -f $1/config.json ]] || [[ -d $1 && -z $(ls -A "$1") ]]
}

# own_flags "$@": handles --help and --dry_run, and puts the other arguments in the array `flags`. Arguments
# after a bare -- are passed on unchanged.
own_flags() {
    dry_run=false
    flags=()
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --dry_run) dry_run=true ;;
            --) shift && flags+=("$@") && break ;;
            *) flags+=("$1") ;;
        esac
        shift
    done
}

# use_compilation_cache: lets the next start of the same program skip its compilation. There is one folder per
# type of CPU, because compiled programs use the instructions of the machine, and a home folder may be shared.
use_compilation_cache() {
    local home=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}} cpu
    cpu=$({ uname -m && grep -m 1 -E '^(flags|Features)' /proc/cpuinfo; } 2>/dev/null | cksum | cut -d ' ' -f 1) || true
    [[ -z $home ]] || export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR-$home/cnn_jax/jax-$cpu}
    # JAX's own default, one second, leaves out most programs of small networks.
    export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.2}
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a working Python 3.11 or newer"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "needs Python 3.11 or newer, found $(python3 --version 2>/dev/null || echo none); install one or set PYTHON=/path/to/python"
}

# environment_key: prints a checksum of everything that determines the installation, except the extras.
environment_key() {
    { cat "$root/pyproject.toml" "${PIP_CONSTRAINT:-/dev/null}"; echo "$root"; } | cksum
}

# environment_is_ready EXTRAS: succeeds if the stamp has this key and all these extras. The stamp is
# written last, so a second run starts at once, and an interrupted installation is repaired.
environment_is_ready() {
    local extra
    [[ -f $stamp && $(head -n 1 "$stamp") == "$key" ]] || return 1
    for extra in ${1//,/ }; do
        grep -qx "$extra" "$stamp" || return 1
    done
    is_new_enough "$python"
}

# ensure_environment EXTRAS: creates or repairs $venv, with an editable install of cnn_jax.
ensure_environment() {
    if [[ -n ${CNN_JAX_PYTHON:-} ]]; then
        is_new_enough "$python" || fail "CNN_JAX_PYTHON=$python is not a working Python 3.11 or newer"
        return
    fi
    local extras=${CNN_JAX_EXTRAS:-$1} stamp=$venv/.cnn_jax_stamp key interpreter lock
    key=$(environment_key)
    environment_is_ready "$extras" && return
    if $dry_run; then
        say "would install cnn_jax[$extras] into $venv first"
        return
    fi
    [[ ! -e $venv || -f $venv/pyvenv.cfg ]] ||
        fail "$venv exists and is not a virtual environment; remove it or set CNN_JAX_VENV"
    interpreter=$(find_python)
    mkdir -p "$(dirname "$venv")"
    if command -v flock >/dev/null; then # if two first runs start at once, the second waits for the first
        exec {lock}>"$venv.lock" && flock "$lock"
        environment_is_ready "$extras" && exec {lock}>&- && return
    fi
    if ! is_new_enough "$python" || ! "$python" -m pip --version >/dev/null 2>&1; then
        say "making $venv with $("$interpreter" --version)"
        "$interpreter" -m venv --clear "$venv" >&2 ||
            fail "'$interpreter -m venv' failed (on Debian and Ubuntu: apt install python3-venv)"
    fi
    [[ -f $stamp && $(head -n 1 "$stamp") == "$key" ]] || echo "$key" >"$stamp"
    say "installing cnn_jax[$extras] (only once; takes a few minutes on a slow connection)"
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile \
        --editable "$root[$extras]" >&2 ||
        fail 'pip install failed (see above); run again to resume where it stopped'
    printf '%s\n' ${extras//,/ } >>"$stamp"
    [[ -z ${lock:-} ]] || exec {lock}>&-
}

# flag_value NAME DEFAULT "$@": prints the value of the last --NAME=VALUE (or --NAME VALUE) argument.
flag_value() {
    local name=$1 value=$2
    shift 2
    while (($#)); do
        case $1 in
            --"$name"=*) value=${1#*=} ;;
            --"$name") value=${2:-} ;;
        esac
        shift
    done
    echo "$value"
}
