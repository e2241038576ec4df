"""Lowering rules by platform, which choose the kernel of an equation and lower it.

JAX lowers an equation without a mark, such as one from a program that does not use this package,
unless `install` was called. A mark is the caller's choice of kernels, `dispatch.Wish`, as text. If
the choice is 'lax', JAX's own rule lowers the equation to the same program as without this package.
"""

import contextlib
import functools
import inspect
import logging
import threading
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.errors import UserError
from cnn_jax.ops import dispatch, kernels, tuning
from cnn_jax.ops.dispatch import Wish
from cnn_jax.ops.kernels.native.transpose import natively
from cnn_jax.ops.lowering import equations, internals
from cnn_jax.ops.platforms import PLATFORMS, default_platform, tracing_for
from cnn_jax.ops.spec import MAPS, ConvSpec

NAMED = 'named by the caller'
NOT_OURS = "XLA's own: requested, or called through JAX without `install`"

DEFAULT = 'default'  # the mark of an equation for which the caller named no kernel
FEW = 1 << 14  # elements; work on a smaller array takes microseconds either way

LAX: Wish = dict.fromkeys(MAPS, ('lax',))

# XLA rejects int8 on these, unless it is written as products of int32:
# https://github.com/jax-ml/jax/issues/7637
GPUS = ('cuda', 'rocm')

HAS_OUT_SHARDING = 'out_sharding' in inspect.signature(lax.conv_general_dilated).parameters

_log = logging.getLogger(__name__)

# Whether the rules apply to equations without a mark too. Part of the key of every jit cache.
installed = jax.make_user_context(False)

_lowering = threading.local()  # .a_kernel: JAX lowers the convolutions in a kernel


def bind(op: str, lhs: Any, rhs: Any, implementation: Any, **params: Any) -> jax.Array:
    """Binds `lax.conv_general_dilated(lhs, rhs, **params)`, with the kernels of `implementation`.

    Args:
        op: the public operation, for messages and for `use_implementation`.
        params: all parameters of the equation.

    Raises:
        ValueError, TypeError: a name is unknown, or none of the named kernels supports the call.
    """
    wish = dispatch.wish(op, implementation)
    if wish not in ({}, LAX):
        wish = _checked(op, wish, lhs, rhs, params)
    params = {name: value for name, value in params.items() if value is not None}
    if 'out_sharding' in params and not HAS_OUT_SHARDING:
        raise UserError(f'out_sharding must be None: jax {jax.__version__} has none in lax.conv')
    is_xlas = wish == LAX and not installed.value and not crops_wrongly(params['padding'])
    with internals.mark(None if is_xlas else _encode(wish)):
        return lax.conv_general_dilated(lhs, rhs, **params)


def _checked(op: str, wish: Wish, lhs: Any, rhs: Any, params: dict[str, Any]) -> Wish:
    plan = equations.read(lhs, rhs, params)
    own = wish.get('forward')
    if own:
        reason = lambda name: _reason(name, plan, kernels.platform_to_check(name))  # noqa: E731
        dispatch.first_supporting(op, own, reason)
    if plan is None or plan.op != 'input_grad':
        return wish
    # The forward map of a transposed convolution is the input gradient of the convolution, and vice
    # versa.
    other = {'forward': 'input_grad', 'input_grad': 'forward'}
    return {other.get(key, key): names for key, names in wish.items()}


def _reason(name: str, plan: equations.Plan | None, platform: str) -> str | None:
    """Returns why kernel `name` cannot compute a call, or None if it can."""
    if name == 'lax':
        return None
    if internals.missing:
        return internals.missing
    if plan is None:
        return 'it needs static shapes, axes of at least 1 element and real numbers of one dtype'
    return kernels.reason_against(name, plan.op, plan.spec, platform)


def _encode(wish: Wish) -> str:
    return ' '.join(f'{key}:{",".join(names)}' for key, names in wish.items()) or DEFAULT


def _decode(text: str) -> Wish:
    if text == DEFAULT:
        return {}
    items = (item.partition(':') for item in text.split())
    return {key: tuple(names.split(',')) for key, _, names in items}


def chosen(
    text: str | None, plan: equations.Plan | None, platform: str
) -> Iterable[tuple[str, str]]:
    """Returns the kernels to try for an equation with mark `text`, best first, with reasons."""
    if text is None and not is_installed():
        return [('lax', NOT_OURS)]
    wish = dispatch.wish('conv', None) if text is None else _decode(text)
    if plan is None:
        if wish:
            _log.warning("XLA's own convolution runs; no kernel supports this call with %r", text)
        return [('lax', 'no kernel supports this')]
    if names := wish.get(plan.op):
        reason = lambda name: _reason_in_groups(name, plan, platform)  # noqa: E731
        return [(dispatch.first_supporting(plan.op, names, reason), NAMED)]
    return tuning.ranked(plan.op, plan.spec, platform)


def apply_to(ctx: Any) -> bool:
    """Returns whether the equation of `ctx` is marked, or `install` makes the rules apply to it."""
    return internals.mark_of(ctx.jaxpr_eqn_ctx) is not None or is_installed()


def is_large(x: Any) -> bool:
    """Returns whether an array is known to have at least `FEW` elements."""
    return all(isinstance(n, int) for n in x.shape) and x.size >= FEW


def marked() -> contextlib.AbstractContextManager:
    """Context manager that marks equations for these rules, unless the caller chose kernels."""
    return internals.mark(None if dispatch.wish('conv', None) else DEFAULT)


def is_installed() -> bool:
    """Returns whether an equation without a mark, if lowered now, may use these kernels."""
    return installed.value and not getattr(_lowering, 'a_kernel', False)


def _reason_in_groups(name: str, plan: equations.Plan, platform: str) -> str | None:
    """Returns `_reason`, but allows kernels without groups, since vmap may introduce groups.

    Such a kernel runs group by group.
    """
    reason = _reason(name, plan, platform)
    if reason and plan.spec.groups > 1:
        reason = _reason(name, plan._replace(spec=_of_one_group(plan.spec)), platform)
    return reason


def _of_one_group(spec: ConvSpec) -> ConvSpec:
    return spec.replace(
        in_features=spec.in_features // spec.groups,
        out_features=spec.out_features // spec.groups,
        groups=1,
    )


def _convolve(platform: str, ctx: Any, lhs: Any, rhs: Any, **params: Any) -> Any:
    text = internals.mark_of(ctx.jaxpr_eqn_ctx)
    plan = equations.read(ctx.avals_in[0], ctx.avals_in[1], params)
    for name, why in chosen(text, plan, platform):
        if plan is None:
            break
        if name == 'lax' and (why in (NAMED, NOT_OURS) or not is_slow(plan, platform, params)):
            break
        if why != NAMED and internals.is_export(ctx) and not kernels.is_portable(name):
            continue  # an exported program may run where this package is not installed
        try:
            return lower(ctx, name, plan, platform, lhs, rhs)
        except Exception as error:
            what = f'kernel {name!r} failed on {plan.op} of {plan.spec}'
            if why == NAMED:
                error.add_note(what)
                raise
            _log.warning('%s, the next best is used: %s', what, error)
    if text is not None and platform in GPUS and plan is not None and plan.spec.operand_dtype:
        wide = lambda *operands: lax.conv_general_dilated_p.bind(  # noqa: E731
            *(a.astype(plan.spec.dtype) for a in operands), **params
        )
        return as_kernel(ctx, wide, lhs, rhs)
    if (text is not None or is_installed()) and platform == 'cpu':
        if crops_wrongly(params['padding']):
            return as_kernel(ctx, functools.partial(_crop_first, params), lhs, rhs)
    return originals[platform, lax.conv_general_dilated_p](ctx, lhs, rhs, **params)


def is_slow(plan: equations.Plan, platform: str, params: dict[str, Any]) -> bool:
    """Returns whether XLA:CPU is slow in JAX's form of a map, but not in that of the kernel `lax`.

    JAX computes the filter gradient of a transposed convolution with zeros between the elements of
    its input, where those of its window do: 30 times slower for 4x4 windows of stride 2.
    """
    return platform == 'cpu' and plan.op == 'filter_grad' and max(params['lhs_dilation']) > 1


def crops_wrongly(padding: Any) -> bool:
    """Returns whether XLA:CPU may read out of bounds: it crops before and pads after an axis.

    https://github.com/openxla/xla/issues/48713 (jaxlib 0.5.3 to 0.10.2)
    """
    return not isinstance(padding, str) and any(lo < 0 < hi for lo, hi in padding)


def _crop_first(params: dict[str, Any], lhs: Any, rhs: Any) -> Any:
    layout, dilation = params['dimension_numbers'].lhs_spec, [*params['lhs_dilation']]
    padding, config = [*params['padding']], [(0, 0, 0)] * lhs.ndim
    for i, (lo, hi) in enumerate(padding):
        if lo < 0:  # may crop more than there is before the padding, so pads first, too
            config[layout[2 + i]] = (lo, hi, dilation[i] - 1)
            padding[i], dilation[i] = (0, 0), 1
    params = params | {'padding': tuple(padding), 'lhs_dilation': tuple(dilation)}
    lhs = lax.pad(lhs, jnp.zeros((), lhs.dtype), config)
    return lax.conv_general_dilated_p.bind(lhs, rhs, **params)


def lower(
    ctx: Any,
    name: str,
    plan: equations.Plan,
    platform: str,
    lhs: Any,
    rhs: Any,
    what: str = '',
) -> Any:
    """Lowers kernel `name` in place of an equation that `plan` reads.

    Profiles show it as '<what><map>_<kernel>'.
    """
    function, spec = kernels.function(name, plan.op), plan.spec
    if kernels.reason_against(name, plan.op, spec, platform):
        function = functools.partial(_group_by_group, function)
    into, back = plan.into, plan.back
    if plan.channels_first and not kernels.is_portable(name):
        into, back = natively(into), natively(back)

    def run(lhs, rhs):
        with jax.named_scope(f'{what}{plan.op}_{name}'):
            a, b = into(lhs, rhs)
            return back(function(a, b, spec))

    with tracing_for(platform):
        return as_kernel(ctx, run, lhs, rhs)


def _group_by_group(function, a, b, spec):
    def split(array):
        array = array.reshape(*array.shape[:-1], spec.groups, array.shape[-1] // spec.groups)
        return jnp.moveaxis(array, -2, 0)

    one = _of_one_group(spec)
    result = lax.map(lambda operands: function(*operands, one), (split(a), split(b)))
    result = jnp.moveaxis(result, 0, -2)
    return result.reshape(*result.shape[:-2], -1)


def as_kernel(ctx, function, *operands):
    """Lowers `function` in place of an equation; JAX lowers the convolutions in it."""
    before = getattr(_lowering, 'a_kernel', False)
    _lowering.a_kernel = True
    try:
        return internals.lower(ctx, function, *operands)
    finally:
        _lowering.a_kernel = before


originals: dict[Any, internals.Rule] = {}


def register(primitive: Any, platform: str | None, rule: internals.Rule, **options: Any) -> None:
    """Registers `rule(platform, ctx, *operands, **params)` as the lowering of `primitive`.

    See `internals.register` for the arguments.
    """
    if not internals.missing:
        originals[platform, primitive] = internals.original(primitive, platform)
        internals.register(primitive, platform, functools.partial(rule, platform), **options)


def _is_partitioned(eqn: Any) -> bool:
    """Returns whether the lowering of an equation may depend on the number of devices."""
    is_product = eqn.primitive is lax.dot_general_p and eqn.outvars[0].aval.dtype == jnp.bfloat16
    if eqn.primitive is not lax.conv_general_dilated_p and not is_product:
        return False
    text = internals.mark_of(eqn.ctx)
    is_ours = installed.value if text is None else text != _encode(LAX)
    return is_ours and default_platform() == 'cpu' and jax.device_count() > 1


internals.tell_devices(_is_partitioned)
for _platform in PLATFORMS:
    register(lax.conv_general_dilated_p, _platform, _convolve)
