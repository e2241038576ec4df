# What is set for each kind of machine, in one place; sourced, never run. A variable that the user has
# set is left as it is.
#
# cpu  GLIBC_TUNABLES=glibc.malloc.hugetlb=1 (Linux with glibc 2.35 or newer): large blocks of memory
#      come in pages of 2 MB instead of 4 kB. Every step of XLA asks for its memory anew, and each page
#      costs its first write about a microsecond. docs/performance.md has what it gives. glibc's
#      thresholds (MALLOC_MMAP_THRESHOLD_ and others) give less, and take more memory.
# gpu  XLA_FLAGS, only where several GPUs work together; documented by JAX's GPU performance tips, not
#      measured by us:
#        --xla_gpu_enable_latency_hiding_scheduler=true    collectives beside arithmetic
#        --xla_gpu_nccl_termination_timeout_seconds=600    a collective that a stuck peer never joins
#                                                          ends the process instead of hanging for ever
# tpu  Nothing: XLA's defaults are meant for training. Flags for the TPU compiler would go into
#      LIBTPU_INIT_ARGS, since an unknown flag in XLA_FLAGS ends every JAX process at its start.

platform_of_machine() {
    if command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q .; then
        echo gpu
    elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
        echo tpu
    else
        echo cpu
    fi
}

# The extras that training on this machine needs.
extras_of_machine() {
    local platform
    platform=$(platform_of_machine)
    echo "train,${platform/gpu/cuda}"
}

# platform_flags PLATFORM [PROCESSES]: exports what is described above.
platform_flags() {
    if [[ $1 == cpu && $(uname -s) == Linux ]]; then
        export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
    fi
    if [[ $1 == gpu ]] && ((${2:-1} > 1)); then
        export XLA_FLAGS=${XLA_FLAGS:-'--xla_gpu_enable_latency_hiding_scheduler=true --xla_gpu_nccl_termination_timeout_seconds=600'}
    fi
}
