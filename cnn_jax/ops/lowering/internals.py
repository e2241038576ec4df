"""All that this package takes from JAX's internals, tried on jax 0.7.2 and 0.10.2.

Where something is not there, `missing` says what: no rule is registered then, the package computes
by XLA's own convolution, any other kernel that a caller names is refused with that reason, and
`python -m cnn_jax.doctor` shows it.
"""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

KEY = 'cnn_jax'  # of the metadata that an equation carries

Rule = Callable[..., Sequence[Any]]

custom_partitioning: Any = None
missing: str | None = None
try:
    from jax._src import dispatch as _dispatch
    from jax._src.core import subjaxprs
    from jax._src.dispatch import jaxpr_has_prim_requiring_devices  # noqa: F401
    from jax._src.interpreters import mlir as _mlir
    from jax._src.interpreters.mlir import (
        _lowerings,
        _platform_specific_lowerings,
        lower_with_sharding_in_types,
        wrap_xla_metadata_in_place,  # noqa: F401
    )
    from jax._src.mesh import empty_abstract_mesh, use_abstract_mesh
    from jax.experimental.custom_partitioning import custom_partitioning
    from jax.experimental.xla_metadata import set_xla_metadata
    from jax.interpreters import mlir
except ImportError as error:
    missing = f'jax {jax.__version__} lacks what the kernels are lowered by: {error}'

__all__ = [
    'custom_partitioning',
    'is_export',
    'lower',
    'mark',
    'mark_of',
    'missing',
    'on_one_device',
    'original',
    'register',
    'set_global',
    'tell_devices',
    'undisturbed',
]


def mark(text: str | None) -> contextlib.AbstractContextManager:
    """Equations that are made within this context carry `text` (None: no mark of this package)."""
    return contextlib.nullcontext() if missing else set_xla_metadata(**{KEY: text})


def mark_of(equation_context: Any) -> str | None:
    """Returns what `mark` wrote, from an equation's context, `eqn.ctx`."""
    return (getattr(equation_context, 'xla_metadata', None) or {}).get(KEY)


def _keep_marks_out_of_programs() -> None:
    """JAX writes the metadata of an equation into its operations. Those of this package are for the
    rules alone: a convolution that JAX lowers gives the same program as without this package."""
    write = _mlir.wrap_xla_metadata_in_place

    @functools.wraps(write)
    def without_marks(ctx: Any, operation: Any) -> None:
        if mark_of(ctx.jaxpr_eqn_ctx) is not None:
            rest = {k: v for k, v in ctx.jaxpr_eqn_ctx.xla_metadata.items() if k != KEY}
            if not rest:
                return
            ctx = ctx.replace(jaxpr_eqn_ctx=types.SimpleNamespace(xla_metadata=rest))
        write(ctx, operation)

    setattr(_mlir, 'wrap_xla_metadata_in_place', without_marks)  # noqa: B010


if not missing:
    _keep_marks_out_of_programs()


def is_export(ctx: Any) -> bool:
    """Whether the program is lowered to be saved by `jax.export`."""
    parameters = getattr(ctx.module_context, 'lowering_parameters', None)
    return getattr(parameters, 'for_export', False)


def original(primitive: Any, platform: str) -> Rule:
    """JAX's own rule for lowering `primitive`."""
    entry = _platform_specific_lowerings[platform].get(primitive) or _lowerings[primitive]
    rule: Any = getattr(entry, 'rule', entry)  # a pair as of JAX 0.9
    return rule


def register(primitive: Any, platform: str, rule: Rule) -> None:
    mlir.register_lowering(primitive, rule, platform=platform)


def tell_devices(is_partitioned: Callable[[Any], bool]) -> None:
    """What JAX lowers may not depend on the devices, unless it asks for them: as a program does
    that has an equation of this kind, whose kernel may be partitioned by hand.

    (JAX's own way, a set of primitives, would concern every program with a convolution: those with
    two meshes, or with an abstract one, are refused then.)
    """
    if missing:
        return
    asks = _dispatch.jaxpr_has_prim_requiring_devices

    def has_ours(jaxpr):
        return any(map(is_partitioned, jaxpr.eqns)) or any(map(has_ours, subjaxprs(jaxpr)))

    @functools.wraps(asks)
    def asks_too(jaxpr):
        return asks(jaxpr) or has_ours(jaxpr)

    setattr(_dispatch, 'jaxpr_has_prim_requiring_devices', asks_too)  # noqa: B010


def lower(ctx: Any, function: Callable[..., jax.Array], *operands: Any) -> Sequence[Any]:
    """Lowers `function`, a kernel, in the place of the equation of `ctx`.

    The kernel sees plain arrays: how they are placed on a mesh, and what the caller's thread has
    configured for its own code, does not concern it.
    """
    plain = [jax.core.ShapedArray(a.shape, a.dtype) for a in ctx.avals_in]
    devices = getattr(ctx.module_context.axis_context, 'num_devices', None)
    with undisturbed(), _one_device(devices == 1):
        rule = mlir.lower_fun(function, multiple_results=False)
        inner = ctx.replace(avals_in=plain, avals_out=None, jaxpr_eqn_ctx=None)
        (out,) = rule(inner, *operands)
    return [lower_with_sharding_in_types(ctx, out, ctx.avals_out[0])]


_one_device = jax.make_user_context(False)


def on_one_device() -> bool:
    """Whether a kernel is being lowered for one device: there is nothing to partition."""
    return _one_device.value


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Traces kernels within it as if no mesh and no mode of JAX were set."""
    with (
        mark(None),
        use_abstract_mesh(empty_abstract_mesh),
        jax.disable_jit(False),
        jax.numpy_rank_promotion('allow'),
        jax.numpy_dtype_promotion('standard'),
    ):
        yield


def set_global(context: Any, value: Any) -> None:
    """Sets a context made by `jax.make_user_context` for all threads."""
    getattr(context, '_obj', context).set_global(value)
