"""Turns the arguments of a convolution into what an animation shows, with its numbers."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.ops import checks, conv, conv_transpose
from cnn_jax.ops.geometry import each_axis
from cnn_jax.ops.kernels.views import input_grad_spec, swap_features
from cnn_jax.ops.spec import MAPS, ROLES, ConvSpec, dilated, resolve_padding
from cnn_jax.ops.transposed_convolution import resolve_crop
from cnn_jax.ops.types import ArrayLike, MapName, Padding, PaddingMode, Size

MAX_POSITIONS = 40  # per axis: cells that are large enough to read, on one screen
VIEWS = ('gather', 'scatter')

# A transposed convolution is the input gradient of a convolution, and its x is that one's dy.
_TRANSPOSED = {'forward': 'input_grad', 'input_grad': 'forward', 'filter_grad': 'filter_grad'}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A map of a convolution before it is computed.

    Attributes:
        call: `conv` or `conv_transpose` as a function of x and the kernel.
        op: the map of `call` that the caller asked for.
        x, kernel: the operands of `call`, without batch axes.
        seed: of dy.
        transposed: whether `call` is `conv_transpose`.
        spec: the convolution that is drawn, with batch 1. Its x is the array that is padded and
            that the window moves over; for a transposed convolution or an input gradient, this may
            be the result.
        shown: the map of `spec` that is drawn.
        flipped: whether the kernel is drawn flipped.
        padding_mode: as in `conv`.
        title: the call, as Python writes it.
    """

    call: Callable[..., jax.Array]
    op: str
    x: np.ndarray
    kernel: np.ndarray
    seed: int
    transposed: bool
    spec: ConvSpec
    shown: str
    flipped: bool
    padding_mode: str
    title: str


@dataclasses.dataclass(frozen=True)
class Scene:
    """A map of a convolution with its numbers, without batch axes.

    Attributes:
        spec, op, flipped, padding_mode, title: of the plan; `op` is the map of `spec`.
        operands: the operands of this map, in the order of `ROLES`.
        result: what the package computed.
        names: for each role of `spec`, what the caller calls it.
    """

    spec: ConvSpec
    op: str
    flipped: bool
    padding_mode: str
    title: str
    operands: tuple[np.ndarray, np.ndarray]
    result: np.ndarray
    names: dict[str, str]


def plan(
    size: Size,
    window: Size,
    *,
    strides: Size = 1,
    padding: Padding = 'SAME',
    dilation: Size = 1,
    groups: int = 1,
    padding_mode: PaddingMode = 'zeros',
    input_dilation: Size = 1,
    transposed: bool = False,
    output_padding: Size = 0,
    op: MapName = 'forward',
    view: str | None = None,
    in_features: int | None = None,
    out_features: int | None = None,
    x: ArrayLike | None = None,
    kernel: ArrayLike | None = None,
    seed: int = 0,
) -> Plan:
    """Checks the arguments, which are those of `animate`, and computes nothing yet."""
    size, window, strides, dilation, holes = each_axis(
        size=size, window=window, strides=strides, dilation=dilation, input_dilation=input_dilation
    )
    if len(size) > 2:
        raise UserError(f'size must have 1 or 2 spatial axes to be drawn, got {size}')
    checks.choice(op, 'op', MAPS)
    groups, inputs, outputs = _features(groups, in_features, out_features)
    options: dict[str, Any] = {'strides': strides, 'padding': padding, 'dilation': dilation}
    options |= {'groups': groups, 'padding_mode': padding_mode}
    extra = checks.per_axis(output_padding, len(size), 'output_padding', 0)
    if transposed:
        if set(holes) != {1}:
            raise UserError(f'a transposed convolution has no input_dilation, got {holes}')
        options |= {'output_padding': extra}
    elif any(extra):
        raise UserError(f'output_padding {extra} needs a transposed convolution')
    else:
        options |= {'input_dilation': holes}
    rng = np.random.default_rng(checks.integer(seed, 'seed', 0))
    values = _numbers('x', x, (*size, inputs), rng, 0, 4)
    taps = _numbers('kernel', kernel, (*window, inputs // groups, outputs), rng, -1, 2)
    operation = conv_transpose if transposed else conv
    call = functools.partial(operation, precision='highest', **options)
    y = jax.eval_shape(call, values, taps)
    spec = _spec(size, y.shape, taps.shape, options, transposed)
    if max(spec.padded_size) > MAX_POSITIONS:
        raise UserError(
            f'size {size} is too large to be drawn: at most {MAX_POSITIONS} positions per axis, '
            f'with padding and holes, got {spec.padded_size}'
        )
    shown = _TRANSPOSED[op] if transposed else op
    flipped = _gathers(view, shown, transposed, padding_mode)
    return Plan(
        call=call,
        op=op,
        x=values,
        kernel=taps,
        seed=seed,
        transposed=transposed,
        spec=input_grad_spec(spec) if flipped else spec,
        shown='forward' if flipped else shown,
        flipped=flipped,
        padding_mode=padding_mode,
        title=_title(operation.__name__, options, op),
    )


def compute(plan: Plan) -> Scene:
    """Computes a map with the package, with random integers for dy."""
    y, vjp = jax.vjp(plan.call, jnp.asarray(plan.x), jnp.asarray(plan.kernel))
    arrays = {'x': plan.x, 'w': plan.kernel, 'y': np.asarray(y)}
    names = {'x': 'x', 'w': 'kernel', 'y': 'y'}
    if plan.op != 'forward':
        rng = np.random.default_rng((plan.seed, 1))  # apart from those of x and the kernel
        arrays['y'] = rng.integers(-1, 4, y.shape).astype(np.float32)
        role = 'x' if plan.op == 'input_grad' else 'w'
        arrays[role] = np.asarray(vjp(jnp.asarray(arrays['y']))['xw'.index(role)])
        names |= {'y': 'dy', role: f'd{role}'}
    if plan.transposed != plan.flipped:  # as a map from y to x
        kernel = np.asarray(swap_features(jnp.asarray(arrays['w']), plan.spec.groups))
        arrays = {'x': arrays['y'], 'w': kernel, 'y': arrays['x']}
        names = {'x': names['y'], 'w': names['w'], 'y': names['x']}
    if plan.flipped:
        arrays['w'] = np.flip(arrays['w'], tuple(range(plan.spec.ndim)))
    first, second, result = (arrays[role] for role in ROLES[plan.shown])
    return Scene(
        spec=plan.spec,
        op=plan.shown,
        flipped=plan.flipped,
        padding_mode=plan.padding_mode,
        title=plan.title,
        operands=(first, second),
        result=result,
        names=names,
    )


def _spec(size, y_shape, kernel_shape, options, transposed: bool) -> ConvSpec:
    """Returns the convolution, or the one that a transposed convolution transposes."""
    window, strides, dilation = kernel_shape[: len(size)], options['strides'], options['dilation']
    span = tuple(map(dilated, window, dilation))
    holes = options.get('input_dilation', (1,) * len(size))
    inputs, outputs = kernel_shape[-2] * options['groups'], kernel_shape[-1]
    if transposed:
        crops = resolve_crop(options['padding'], 'torch', span, strides)
        padding = tuple((lo, max(hi, 0)) for lo, hi in crops)
        inputs, outputs = outputs, inputs
    else:
        holed = tuple(map(dilated, size, holes))
        padding = resolve_padding(options['padding'], holed, span, strides)
    spec = ConvSpec(
        batch=1,
        input_size=y_shape[:-1] if transposed else size,
        in_features=inputs,
        window=window,
        out_features=outputs,
        strides=strides,
        padding=padding,
        input_dilation=holes,
        dilation=dilation,
        groups=options['groups'],
        dtype='float32',
    )
    if transposed and spec.output_size != size:
        raise UserError(
            f'output_padding {options["output_padding"]} must be less than the strides {strides} '
            f'to be drawn'
        )
    return spec


def _features(groups: Any, inputs: Any, outputs: Any) -> tuple[int, int, int]:
    groups = checks.integer(groups, 'groups', 1)
    inputs = checks.integer(groups if inputs is None else inputs, 'in_features', 1)
    outputs = checks.integer(groups if outputs is None else outputs, 'out_features', 1)
    if inputs % groups or outputs % groups:
        raise UserError(
            f'groups must divide in_features ({inputs}) and out_features ({outputs}), '
            f'got groups={groups}'
        )
    return groups, inputs, outputs


def _numbers(name: str, given: Any, shape: tuple[int, ...], rng, low: int, high: int) -> np.ndarray:
    """Returns the caller's numbers, or random integers from `low` to `high`, in float32."""
    drawn = rng.integers(low, high + 1, shape)
    found = drawn if given is None else np.asarray(checks.array(given, name))
    if set(shape[found.ndim :]) == {1}:
        found = found.reshape(*found.shape, *shape[found.ndim :])
    if found.shape != shape:
        raise UserError(f'{name} must have shape {shape}, got {found.shape}')
    return found.astype(np.float32)


def _gathers(view: str | None, shown: str, transposed: bool, padding_mode: str) -> bool:
    """Returns whether an input gradient is shown as a convolution with a flipped kernel."""
    if view is not None:
        checks.choice(view, 'view', VIEWS)
    if shown != 'input_grad':
        if view == 'scatter':
            raise UserError(
                "view 'scatter' is for transposed convolutions and for op 'input_grad' of others"
            )
        return False
    if view == 'gather' and padding_mode != 'zeros':
        raise UserError(f"view 'gather' needs padding_mode 'zeros', got {padding_mode!r}")
    return view == 'gather' or view is None and transposed and padding_mode == 'zeros'


def _title(name: str, options: dict[str, Any], op: str) -> str:
    defaults = {'strides': 1, 'dilation': 1, 'groups': 1, 'padding_mode': 'zeros'}
    defaults |= {'input_dilation': 1, 'output_padding': 0}
    short = {key: _short(value) for key, value in options.items()}
    given = [f'{k}={v!r}' for k, v in short.items() if k not in defaults or v != defaults[k]]
    call = f'{name}({", ".join(["x", "kernel", *given])})'
    return {
        'forward': f'y = {call}',
        'input_grad': f'Gradient dx of {call}',
        'filter_grad': f'Gradient dw of {call}',
    }[op]


def _short(value: Any) -> Any:
    """Returns one value for a tuple of equal ones, as `conv` accepts it."""
    if not isinstance(value, tuple):
        return value
    inner = tuple(map(_short, value))
    return inner[0] if len(set(inner)) == 1 else inner
