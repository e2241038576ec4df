"""`install` makes every JAX program use the kernels of this package."""

import contextlib
from collections.abc import Iterator

from cnn_jax.ops.lowering import (
    bounds,  # noqa: F401  registers its rules
    internals,
    pools,  # noqa: F401  registers its rules
    products,  # noqa: F401  registers its rule
    rules,
    sums,  # noqa: F401  registers its rule
    transposes,  # noqa: F401  registers its rule
)


def install() -> None:
    """Makes every convolution in this process use the kernels of this package.

    This applies to every `lax.conv_general_dilated` from any library: Flax, Equinox, Haiku, Keras.
    On CPUs, it also applies to what XLA computes slowly around them: pools and their gradients, the
    gradient of batch norm, the ReLU after a residual sum, transpositions between channels first and
    channels last, and in 16 bits gradients of biases and products of matrices. If the choice is
    XLA's own convolution, as on GPUs and TPUs, programs do not change.

        cnn_jax.install()
        state, loss = train_step(state, batch)       # nothing else changes

    It applies to all threads. Functions wrapped in `jax.jit` are recompiled when they are next
    called; functions that were compiled ahead of time, or serialized, keep their kernels. Use
    `use_implementation` to replace the measured choice. A call to this package with
    implementation='lax' still runs XLA's own convolution.

    Raises:
        RuntimeError: this version of JAX lacks required internals; the message names them.
    """
    if internals.missing:
        raise RuntimeError(f'cannot install: {internals.missing}')
    internals.set_global(rules.installed, True)


def uninstall() -> None:
    """Undoes `install`."""
    internals.set_global(rules.installed, False)


@contextlib.contextmanager
def installed(value: bool = True) -> Iterator[None]:
    """Context manager that installs, or uninstalls if `value` is False, for this thread."""
    if value and internals.missing:
        raise RuntimeError(f'cannot install: {internals.missing}')
    with rules.installed(value):
        yield
