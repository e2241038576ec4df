# Settings for each platform; to be sourced, not run. Does not change variables that the user has set.
#
# cpu  Memory (Linux). XLA allocates memory again in every step, and the first write to each page costs about a
#      microsecond. docs/performance.md has the speedups.
#        LD_PRELOAD=.../libmimalloc.so, if the extra `cpu` is installed in the environment: an allocator that keeps
#            freed memory for MIMALLOC_PURGE_DELAY milliseconds; MIMALLOC_ALLOW_THP=2 requests pages of 2 MB
#        GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (glibc 2.35 or newer): without it, at least pages of 2 MB. glibc's
#            thresholds (MALLOC_MMAP_THRESHOLD_ and others) give less, and use more memory.
# gpu  XLA_FLAGS, only if several GPUs work together. The flags are from JAX's GPU performance tips; we
#      have not measured them:
#        --xla_gpu_enable_latency_hiding_scheduler=true    overlap collectives with computation
#        --xla_gpu_nccl_termination_timeout_seconds=600    end the process, instead of hanging forever,
#                                                          if a peer does not join a collective
# tpu  Nothing: XLA's defaults are meant for training. Flags for the TPU compiler would go in
#      LIBTPU_INIT_ARGS, because an unknown flag in XLA_FLAGS ends every JAX process at startup.

platform_of_machine() {
    if command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q .; then
        echo gpu
    elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
        echo tpu
    else
        echo cpu
    fi
}

# extras_of_machine: prints the extras that training on this machine needs.
extras_of_machine() {
    local platform
    platform=$(platform_of_machine)
    echo "train,${platform/gpu/cuda}"
}

# preload_mimalloc: exports the variables for mimalloc, if it is installed beside $python or, without that, the
# `python` of the shell. The dynamic linker splits LD_PRELOAD at spaces and colons, so a path must not have any.
preload_mimalloc() {
    local interpreter library
    interpreter=$(command -v "${python:-python}") || return 0
    for library in "$(dirname "$interpreter")"/../lib/python3*/site-packages/cmeel.prefix/lib/libmimalloc.so; do
        if [[ -f $library && $library != *[[:space:]:]* && -z ${LD_PRELOAD+set} ]]; then
            export LD_PRELOAD=$library
            export MIMALLOC_ALLOW_THP=${MIMALLOC_ALLOW_THP:-2} MIMALLOC_PURGE_DELAY=${MIMALLOC_PURGE_DELAY:-10000}
        fi
    done
}

# platform_flags PLATFORM [PROCESSES]: exports the variables described above.
platform_flags() {
    if [[ $1 == cpu && $(uname -s) == Linux ]]; then
        export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
        preload_mimalloc
    fi
    if [[ $1 == gpu ]] && ((${2:-1} > 1)); then
        export XLA_FLAGS=${XLA_FLAGS:-'--xla_gpu_enable_latency_hiding_scheduler=true --xla_gpu_nccl_termination_timeout_seconds=600'}
    fi
}
