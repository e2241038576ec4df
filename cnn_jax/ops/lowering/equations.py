"""Reads an equation of `lax.conv_general_dilated` as one of the three maps of a convolution.

JAX differentiates, vmaps and transposes a convolution to further convolutions, with other layouts,
dilations and groups. This module canonicalizes such an equation to an `Equation`, and reads it as
`forward`, `input_grad` or `filter_grad` of a `ConvSpec`, which the kernels support.

Every reading is exact, whatever the caller meant. A convolution is a sum over pairs of elements,

    out[h] = sum over i, j of lhs[i] rhs[j]  where  lhs_dilation i = stride h + rhs_dilation j - low

and the readings differ only in which of lhs, rhs and out is the input, the kernel and the output.
JAX's rules swap the two axes that are not spatial, so the layout shows which map the equation came
from. The kernel is therefore chosen for the convolution that the caller wrote.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.kernels.views import swap_features
from cnn_jax.ops.spec import ConvSpec, Pairs, canonical_precision, dilated

Array = jax.Array
Arrange = Callable[[Array], Array]
Ints = tuple[int, ...]


class Plan(NamedTuple):
    """A way to compute an equation as map `op` of the convolution `spec`.

    The result of the equation is `back(map(*into(lhs, rhs)))`. If `flipped` is set, rhs is first
    flipped along its spatial axes. If `channels_first` is set, the last axis of some array of the
    equation is spatial.
    """

    op: str
    spec: ConvSpec
    into: Callable[[Array, Array], tuple[Array, Array]]
    back: Arrange
    flipped: bool = False
    channels_first: bool = False


@dataclasses.dataclass(frozen=True)
class Equation:
    """A convolution in canonical layout.

    lhs is (batch, *size, groups * depth), rhs (*window, depth, groups * features), and the result
    (batch, *out, groups * features). With `batch_groups` instead of groups, lhs is
    (batch_groups * batch, *size, depth).
    """

    lhs_batch: int
    size: Ints
    lhs_features: int
    window: Ints
    depth: int
    out_features: int
    strides: Ints
    padding: Pairs
    lhs_dilation: Ints
    rhs_dilation: Ints
    groups: int
    batch_groups: int
    dtype: str
    precision: Any

    @property
    def out(self) -> Ints:
        return tuple(
            (dilated(n, e) + lo + hi - dilated(k, d)) // s + 1
            for n, e, (lo, hi), k, d, s in zip(
                self.size, self.lhs_dilation, self.padding, self.window, self.rhs_dilation,
                self.strides, strict=True,
            )
        )  # fmt: skip

    def transposed_low(self, window: Ints, dilation: Ints) -> Ints:
        """Returns the low padding of the convolution with `window` whose transpose this is."""
        spans = map(dilated, window, dilation)
        return tuple(span - 1 - lo for span, (lo, _) in zip(spans, self.padding, strict=True))

    def replace(self, **changes: Any) -> 'Equation':
        return dataclasses.replace(self, **changes)


def read(lhs: Any, rhs: Any, params: dict[str, Any]) -> Plan | None:
    """Returns the plan of an equation, or None if the kernels do not support it.

    Args:
        lhs, rhs: the operands, or any objects with their shapes and dtypes.
        params: parameters of the equation, as in `lax.conv_general_dilated_p`.
    """
    layout = params['dimension_numbers']
    dtype = params.get('preferred_element_type') or lhs.dtype
    if lhs.dtype != rhs.dtype or not _is_static(lhs, rhs, params) or not 3 <= len(lhs.shape) <= 5:
        return None
    if not jnp.issubdtype(dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.integer):
        return None
    if jnp.promote_types(lhs.dtype, dtype) != dtype:
        return None
    into_lhs, into_rhs = _channels_last(layout.lhs_spec), _kernel_last(layout.rhs_spec)
    batch, *size, features = (lhs.shape[axis] for axis in into_lhs)
    *window, depth, out_features = (rhs.shape[axis] for axis in into_rhs)
    equation = Equation(
        batch,
        tuple(size),
        features,
        tuple(window),
        depth,
        out_features,
        tuple(params['window_strides']),
        tuple((int(lo), int(hi)) for lo, hi in params['padding']),
        tuple(params['lhs_dilation']),
        tuple(params['rhs_dilation']),
        params['feature_group_count'],
        params['batch_group_count'],
        str(jnp.dtype(dtype)),
        canonical_precision(params.get('precision')),
    )
    if min((*equation.out, *size, features, *rhs.shape)) < 1:
        return None
    plan = _as(_role(layout, equation), equation)
    if plan is None:
        return None

    def into(lhs, rhs):
        if plan.flipped:  # first, so that it cancels with the flip that JAX made
            rhs = lax.rev(rhs, layout.rhs_spec[2:])
        return plan.into(lax.transpose(lhs, into_lhs), lax.transpose(rhs, into_rhs))

    spec = plan.spec
    if jnp.issubdtype(lhs.dtype, jnp.integer) and lhs.dtype != dtype:
        spec = spec.replace(operand_dtype=str(lhs.dtype))
    order = _channels_last(layout.out_spec)
    out = sorted(range(len(order)), key=order.__getitem__)
    channels_first = any(len(lhs.shape) - 1 in array[2:] for array in layout)
    back = lambda y: lax.transpose(plan.back(y), out)  # noqa: E731
    return Plan(plan.op, spec, into, back, channels_first=channels_first)


def _is_static(lhs: Any, rhs: Any, params: dict[str, Any]) -> bool:
    if isinstance(params['padding'], str):
        return False
    numbers = (*lhs.shape, *rhs.shape, *(n for pair in params['padding'] for n in pair))
    return all(isinstance(n, int | np.integer) for n in numbers)


def _channels_last(spec: tuple[int, ...]) -> tuple[int, ...]:
    """Reorders the axes (batch, feature, *spatial) of lax to (batch, *spatial, feature)."""
    return (spec[0], *spec[2:], spec[1])


def _kernel_last(spec: tuple[int, ...]) -> tuple[int, ...]:
    """Reorders the axes (out, in, *spatial) to (*spatial, in, out)."""
    return (*spec[2:], spec[1], spec[0])


def _role(layout: Any, equation: Equation) -> str:
    """Returns the reading that the layout suggests.

    If x and y have the batch before the features, and kernels are (*window, in, out) or
    (out, in, *window), then JAX's rules give each of the six readings a distinct signature.
    """

    def is_kernel_as_written(out: int, into: int) -> bool:
        return (out < into) == ({out, into} == {0, 1})

    lhs, rhs, out = (spec[:2] for spec in layout)
    if lhs[0] > lhs[1] and rhs[0] > rhs[1]:
        is_transposed = is_kernel_as_written(*out)
        if set(equation.lhs_dilation) != {1} or set(equation.rhs_dilation) != {1}:
            is_transposed = set(equation.rhs_dilation) == {1}
        return 'transposed_filter_grad' if is_transposed else 'filter_grad'
    swapped = out[0] > out[1]
    as_written = is_kernel_as_written(*(lhs if swapped else rhs))
    dilations = (equation.rhs_dilation if swapped else equation.lhs_dilation, equation.strides)
    if dilations != ((1,) * len(equation.size),) * 2:
        as_written = set(dilations[0]) == {1} or (as_written and set(dilations[1]) != {1})
    return ('swapped_' if swapped else '') + ('forward' if as_written else 'input_grad')


def _as(role: str, equation: Equation) -> Plan | None:
    if role.startswith('swapped_'):
        return _swapped(role.removeprefix('swapped_'), equation)
    if role.endswith('filter_grad'):
        return _filter_grad(equation, transposed=role != 'filter_grad')
    if equation.batch_groups > 1:
        return _without_batch_groups(role, equation)
    return _forward(equation) if role == 'forward' else _input_grad(equation)


def _forward(e: Equation) -> Plan:
    crops = any(min(pair) < 0 for pair in e.padding)
    config = [(0, 0, 0)] * (len(e.size) + 2)
    size, padding, dilation = list(e.size), list(e.padding), list(e.lhs_dilation)
    for axis, (lo, hi) in enumerate(e.padding):
        if min(lo, hi) < 0:  # crop x here, after the dilation, so that no kernel has to
            config[1 + axis] = (lo, hi, dilation[axis] - 1)
            size[axis] = dilated(size[axis], dilation[axis]) + lo + hi
            padding[axis], dilation[axis] = (0, 0), 1
    spec = ConvSpec(
        batch=e.lhs_batch,
        input_size=tuple(size),
        in_features=e.lhs_features,
        window=e.window,
        out_features=e.out_features,
        strides=e.strides,
        padding=tuple(padding),
        input_dilation=tuple(dilation),
        dilation=e.rhs_dilation,
        groups=e.groups,
        dtype=e.dtype,
        precision=e.precision,
    )
    into = lambda x, w: (_pad(x, config) if crops else x, w)  # noqa: E731
    return Plan('forward', spec, into, lambda y: y)


def _input_grad(e: Equation) -> Plan | None:
    """Reads lhs as dy, and rhs as the kernel, flipped and with its features swapped."""
    covered = _covered(
        e.out, e.strides, e.transposed_low(e.window, e.rhs_dilation), e.size, e.lhs_dilation,
        e.window, e.rhs_dilation,
    )  # fmt: skip
    if covered is None:
        return None
    spec = ConvSpec(
        batch=e.lhs_batch,
        input_size=covered.size,
        in_features=e.out_features,
        window=e.window,
        out_features=e.lhs_features,
        strides=e.lhs_dilation,
        padding=covered.padding,
        input_dilation=covered.input_dilation,
        dilation=e.rhs_dilation,
        groups=e.groups,
        dtype=e.dtype,
        precision=e.precision,
    )
    if spec.output_size != e.size:
        return None
    into = lambda dy, w: (dy, swap_features(w, e.groups))  # noqa: E731
    return Plan('input_grad', spec, into, lambda dx: _extend(dx, covered.around), flipped=True)


def _filter_grad(e: Equation, transposed: bool) -> Plan | None:
    """Reads lhs as x, with batch and features swapped, and rhs as dy.

    For a transposed convolution, lhs is dy and rhs is x, and the result is a flipped kernel.
    """
    groups = max(e.groups, e.batch_groups)
    x, dy = e.size, e.window
    holes, strides, low = e.lhs_dilation, e.rhs_dilation, tuple(lo for lo, _ in e.padding)
    features = (e.lhs_batch * e.groups, e.out_features)
    if transposed:
        x, dy, holes, strides = dy, x, strides, holes
        low, features = e.transposed_low(e.out, e.strides), features[::-1]
    covered = _covered(x, holes, low, dy, strides, e.out, e.strides)
    if covered is None:
        return None
    spec = ConvSpec(
        batch=e.depth,
        input_size=covered.size,
        in_features=features[0],
        window=e.out,
        out_features=features[1],
        strides=strides,
        padding=covered.padding,
        input_dilation=covered.input_dilation,
        dilation=e.strides,
        groups=groups,
        dtype=e.dtype,
        precision=e.precision,
    )
    if spec.output_size != dy:
        return None

    def into(lhs, rhs):
        # (n, *size, groups * batch) -> (batch, *size, groups * n); (*window, batch, features) ->
        # (batch, *window, features)
        lhs, rhs = _exchange(lhs, e.groups), jnp.moveaxis(rhs, -2, 0)
        x, dy = (rhs, lhs) if transposed else (lhs, rhs)
        return _cut(x, covered.around), dy

    def back(dw):
        return jnp.moveaxis(_turn(dw, groups) if transposed else dw, -2, 0)

    return Plan('filter_grad', spec, into, back)


def _swapped(role: str, e: Equation) -> Plan | None:
    """Reads the same convolution with its operands exchanged, and both flipped."""
    if e.batch_groups > 1:
        return None
    g, axes = e.groups, range(1, len(e.size) + 1)
    padding = []
    for n, i, k, d, s, r, (lo, _) in zip(
        e.size, e.lhs_dilation, e.window, e.rhs_dilation, e.strides, e.out, e.padding, strict=True
    ):
        before = lo + dilated(n, i) - dilated(k, d)
        padding.append((before, (r - 1) * s + dilated(n, i) - dilated(k, d) - before))
    other = e.replace(
        lhs_batch=e.out_features // g,
        size=e.window,
        lhs_features=e.depth * g,
        window=e.size,
        out_features=e.lhs_batch * g,
        padding=tuple(padding),
        lhs_dilation=e.rhs_dilation,
        rhs_dilation=e.lhs_dilation,
    )
    plan = _as(role, other)
    if plan is None:
        return None

    def into(lhs, rhs):
        kernel = jnp.moveaxis(_exchange(lhs, g), 0, -2)
        images = _exchange(jnp.moveaxis(rhs, -2, 0), g)
        if not plan.flipped:  # otherwise the two flips cancel
            kernel = jnp.flip(kernel, range(len(axes)))
        return plan.into(jnp.flip(images, axes), kernel)

    return Plan(plan.op, plan.spec, into, lambda y: _exchange(plan.back(y), g))


def _without_batch_groups(role: str, e: Equation) -> Plan | None:
    """Reads batch groups as feature groups: part b of the batch uses part b of the kernels."""
    b = e.batch_groups
    plan = _as(
        role,
        e.replace(
            lhs_batch=e.lhs_batch // b,
            lhs_features=e.lhs_features * b,
            groups=b,
            batch_groups=1,
        ),
    )
    if plan is None:
        return None

    def into(lhs, rhs):
        lhs = jnp.moveaxis(lhs.reshape(b, -1, *lhs.shape[1:]), 0, -2)
        return plan.into(lhs.reshape(*lhs.shape[:-2], -1), rhs)

    return plan._replace(into=into)


class _Covered(NamedTuple):
    """The part of a convolution's input that its windows cover.

    Per axis, `around` has the number of positions before and after this part, which no window
    reaches, and the number of holes between elements that are written out in order to cut there.
    """

    size: Ints
    padding: Pairs
    input_dilation: Ints
    around: list[tuple[int, int, int]]


def _covered(
    size: Ints, holes: Ints, low: Ints, outputs: Ints, strides: Ints, window: Ints, dilation: Ints
) -> _Covered | None:
    """Returns the part of an input that the windows cover, or None if they cover nothing.

    The input has `size`, is dilated by `holes`, and has padding `low` before it.
    """
    sizes, pads, dilations, around = [], [], [], []
    for n, e, lo, m, s, k, d in zip(
        size, holes, low, outputs, strides, window, dilation, strict=True
    ):
        hi = (m - 1) * s + dilated(k, d) - dilated(n, e) - lo
        before, after = max(-lo, 0), max(-hi - (s - 1), 0)
        written_out = e if before or after else 1
        n, e = (dilated(n, e), 1) if before or after else (n, e)
        if n - before - after < 1:
            return None
        sizes.append(n - before - after)
        pads.append((max(lo, 0), max(hi, 0)))
        dilations.append(e)
        around.append((before, after, written_out - 1))
    return _Covered(tuple(sizes), tuple(pads), tuple(dilations), around)


def _cut(x: Array, around: list[tuple[int, int, int]]) -> Array:
    """Returns the part of an input (batch, *size, features) that the windows cover."""
    return _pad(x, [(0, 0, 0), *((-lo, -hi, holes) for lo, hi, holes in around), (0, 0, 0)])


def _extend(dx: Array, around: list[tuple[int, int, int]]) -> Array:
    """Computes the transpose of `_cut`."""
    dx = _pad(dx, [(0, 0, 0), *((lo, hi, 0) for lo, hi, _ in around), (0, 0, 0)])
    steps = (1, *(holes + 1 for *_, holes in around), 1)
    return dx if set(steps) == {1} else lax.slice(dx, (0,) * dx.ndim, dx.shape, steps)


def _turn(kernel: Array, groups: int) -> Array:
    """Flips the kernel along its spatial axes and swaps its features within each group."""
    return swap_features(jnp.flip(kernel, range(kernel.ndim - 2)), groups)


def _exchange(a: Array, groups: int) -> Array:
    """Rearranges (n, *size, groups * m) to (m, *size, groups * n)."""
    n, *size, features = a.shape
    if groups == 1:
        return jnp.swapaxes(a, 0, -1)
    a = a.reshape(n, *size, groups, features // groups)
    return jnp.swapaxes(a, 0, -1).reshape(features // groups, *size, groups * n)


def _pad(a: Array, config: list[tuple[int, int, int]]) -> Array:
    if all(c == (0, 0, 0) for c in config):
        return a
    return lax.pad(a, jnp.zeros((), a.dtype), config)
