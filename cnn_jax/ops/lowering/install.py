"""`install`: the kernels of this package for every JAX program."""

import contextlib
from collections.abc import Iterator

from cnn_jax.ops.lowering import (
    internals,
    pools,  # noqa: F401  registers its rule
    rules,
)


def install() -> None:
    """Gives the convolutions of any JAX program in this process the kernels of this package.

    That is every `lax.conv_general_dilated` and, on CPUs, every gradient of JAX's own max pooling,
    whatever library wrote them: Flax, Equinox, Haiku, Keras. Where XLA's own convolution is the
    choice, as on GPUs and TPUs, programs stay as they are.

        cnn_jax.install()
        state, loss = train_step(state, batch)       # nothing else changes

    For all threads. Functions of `jax.jit` are compiled anew when they are called next; what was
    compiled ahead of time, or serialized, keeps its kernels. `use_implementation` says what to run
    instead of the measured choice. A call of this package with implementation='lax' stays XLA's.

    Raises:
        RuntimeError: this version of JAX lacks what it takes; the message says what.
    """
    if internals.missing:
        raise RuntimeError(f'cannot install: {internals.missing}')
    internals.set_global(rules.installed, True)


def uninstall() -> None:
    """Undoes `install`."""
    internals.set_global(rules.installed, False)


@contextlib.contextmanager
def installed(value: bool = True) -> Iterator[None]:
    """`install` (or, with False, `uninstall`) within a context, for this thread."""
    if value and internals.missing:
        raise RuntimeError(f'cannot install: {internals.missing}')
    with rules.installed(value):
        yield
