"""Several processes as one run: joining them, agreeing, and who writes."""

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
    """Joins the processes of a run; to be called before anything else of JAX.

    Args:
        coordinator: 'host:port' of process 0.
        count: number of processes; 0 for one process that joins nothing, unless `coordinator` is
            'auto': then all three are found out from Slurm, Open MPI or a TPU pod.
        index: this process.
        heartbeat_seconds: after so long without a sign of life a process counts as dead, and all
            others end.

    Raises:
        ValueError: values that do not fit together.
        RuntimeError: the others did not come.
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
    """Whether this process writes and prints for all."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line above the progress bar, in the first process alone."""
    if is_first():
        tqdm.write(line)


def are_several() -> bool:
    return jax.process_count() > 1


def agree(problem: str | None) -> None:
    """Lets the others know of the first process's problem; to be called by all.

    Raises:
        ValueError: in the others, if there is one.
    """
    if not are_several():
        return
    limit = 400
    text = (problem or '').encode()[:limit].ljust(limit)
    with end_with_peers():
        told = multihost_utils.broadcast_one_to_all(np.frombuffer(text, np.uint8))
    message = bytes(told.tolist()).decode(errors='ignore').strip()
    if message and not is_first():
        raise UserError(f'process 0: {message}')


@contextlib.contextmanager
def end_with_peers() -> Iterator[None]:
    """Ends this process at once, with `EXIT_PEER_GONE`, where an error is `of_peers`.

    Nothing that waits for the others may follow.
    """
    try:
        yield
    except Exception as error:
        if of_peers(error):
            line = next(iter(str(error).splitlines()), type(error).__name__)
            leave_at_once(f'another process is gone ({line})', EXIT_PEER_GONE)
        raise


def of_peers(error: BaseException | None) -> bool:
    """Whether an error is JAX's, or was caused by one, and there are other processes.

    What fails then is nearly always a call to one that is gone. Most are JaxRuntimeErrors, but jit
    raises what it meets while it dispatches a collective as ValueError.
    """
    while error is not None and are_several():
        if isinstance(error, jax.errors.JaxRuntimeError) or _COLLECTIVE.search(str(error)):
            return True
        error = error.__cause__
    return False


def leave_at_once(message: str, code: int) -> None:
    """Ends this process without waiting for the others, which may be gone."""
    print(f'error: {message}', file=sys.stderr, flush=True)
    os._exit(code)
