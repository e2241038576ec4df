"""Coordinates several processes of one run: start-up, shared errors, and output."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from cnn_jax.errors import UserError

EXIT_PEER_GONE = 77
HEARTBEAT_SECONDS = 100
START_SECONDS = 300
_COLLECTIVE = re.compile('Gloo|NCCL|coordination service', re.IGNORECASE)


def join(
    coordinator: str = '',
    count: int = 0,
    index: int = -1,
    *,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
) -> None:
    """Joins the processes of a run; must be called before any other use of JAX.

    By default a run has one process, and nothing is joined.

    Args:
        coordinator: 'host:port' of process 0, or 'auto'. With 'auto', JAX takes all three values
            from Slurm, Open MPI or a TPU pod.
        count: number of processes; 0 means that it is not given.
        index: index of this process; -1 means that it is not given.
        heartbeat_seconds: time without a heartbeat after which a process counts as dead and all
            others exit.

    Raises:
        ValueError: the arguments are inconsistent.
        RuntimeError: the other processes did not connect.
    """
    if coordinator == 'auto':
        jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_seconds)
        return
    if not coordinator and not count and index < 0:
        return
    if not coordinator or count < 1 or not 0 <= index < count:
        raise UserError(
            f'coordinator={coordinator!r}, num_processes={count}, process_id={index}: give all '
            'three (host:port, how many, which one from 0), or coordinator=auto'
        )
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        heartbeat_timeout_seconds=heartbeat_seconds,
        initialization_timeout=START_SECONDS,
    )


def is_first() -> bool:
    """Returns whether this is the process that writes and prints for all processes."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line above the progress bar, in the first process only."""
    if is_first():
        tqdm.write(line)


def are_several() -> bool:
    return jax.process_count() > 1


def agree(problem: str | None) -> None:
    """Sends a problem of the first process to all others; every process must call this.

    Raises:
        ValueError: the first process has a problem (raised only in the other processes).
    """
    if not are_several():
        return
    limit = 400
    text = (problem or '').encode()[:limit].ljust(limit)
    told = values_of_first(np.frombuffer(text, np.uint8))
    message = told.tobytes().decode(errors='ignore').strip()
    if message and not is_first():
        raise UserError(f'process 0: {message}')


def values_of_first(values: np.ndarray) -> np.ndarray:
    """Returns the array of the first process, bit by bit; every process must call this.

    The arrays of all processes must have the same shape and dtype.
    """
    if not are_several():
        return values
    with end_with_peers():  # as bytes, because JAX would round 64-bit numbers
        told = multihost_utils.broadcast_one_to_all(np.frombuffer(values.tobytes(), np.uint8))
    return np.frombuffer(bytes(told.tolist()), values.dtype).reshape(values.shape)


@contextlib.contextmanager
def end_with_peers() -> Iterator[None]:
    """Exits this process at once with `EXIT_PEER_GONE` on an error that is `of_peers`.

    It does not wait for the other processes, which may be gone.
    """
    try:
        yield
    except Exception as error:
        if of_peers(error):
            line = next(iter(str(error).splitlines()), type(error).__name__)
            leave_at_once(f'another process has exited ({line})', EXIT_PEER_GONE)
        raise


def of_peers(error: BaseException | None) -> bool:
    """Returns whether there are other processes and JAX raised or caused this error.

    Such an error nearly always means that another process is gone. Most are JaxRuntimeErrors, but
    jit raises ValueError for an error during the dispatch of a collective.
    """
    while error is not None and are_several():
        if isinstance(error, jax.errors.JaxRuntimeError) or _COLLECTIVE.search(str(error)):
            return True
        error = error.__cause__
    return False


def leave_at_once(message: str, code: int) -> None:
    """Exits this process without waiting for the other processes, which may be gone."""
    print(f'error: {message}', file=sys.stderr, flush=True)
    os._exit(code)
