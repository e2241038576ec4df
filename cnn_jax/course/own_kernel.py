"""Exercises of chapter 11, a kernel of your own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.bench.kernels import problem
from cnn_jax.course.arrays import whole_numbers
from cnn_jax.course.exercise import Case, Exercise
from cnn_jax.ops import kernels
from cnn_jax.ops.spec import ConvSpec

Array = jax.Array
Kernel = Callable[[Array, Array, ConvSpec], Array]

# The last has unequal paddings: an output of 5 rows needs 1 before and 2 after.
PROBLEMS = ('mb1_ic1ih4oc1kh2', 'mb2_ic2ih5iw6oc3kh3kw2', 'mb1_ic2ih5iw6oc2kh4kw3ph1pw0oh5')


def _traced(function: Kernel, case: Case) -> Any:
    """Runs a kernel after tracing it, as a model under jit does."""
    a, b, spec = case
    jax.eval_shape(lambda a, b: function(a, b, spec), a, b)
    return function(a, b, spec)


def _cases(*roles: str) -> list[Case]:
    """Returns operands of small whole numbers, and a sum that bfloat16 cannot accumulate."""
    cases: list[Case] = []
    for seed, text in enumerate(PROBLEMS):
        spec = problem.parse(text).spec()
        a, b = (whole_numbers(*spec.shape(r), seed=seed + i) for i, r in enumerate(roles))
        cases.append((jnp.asarray(a), jnp.asarray(b), spec))
    spec = problem.parse('mb1_ic1ih1iw7oc1kh1kw4').spec('bfloat16')
    ones = jnp.ones(spec.shape(roles[0]), jnp.bfloat16)
    # 256 + 1 rounds to 256 in bfloat16, but 256 + 1 + 1 + 1 rounds to 260.
    w = jnp.ones(spec.kernel_shape, jnp.bfloat16).at[0, 0].set(256)
    return [*cases, (ones, w, spec)]


def _pad(x: Array, padding: Any) -> Array:
    return jnp.pad(x, [(0, 0), *padding, (0, 0)])


def _lax(x: Array, w: Array, spec: ConvSpec) -> Array:
    return kernels.function('lax', 'forward')(x, w, spec)


def _sum_of_taps(x: Array, w: Array, spec: ConvSpec, dtype: Any) -> Array:
    x, y = _pad(x, spec.padding), jnp.zeros(spec.y_shape, dtype)
    height, width = spec.output_size
    for i, j in np.ndindex(*spec.window):
        view = x[:, i : i + height, j : j + width]
        y += jnp.einsum('nhwc,co->nhwo', view, w[i, j], preferred_element_type=dtype)
    return y


def _last_tap(x: Array, w: Array, spec: ConvSpec) -> Array:
    return _lax(x, w * jnp.zeros_like(w).at[-1, -1].set(1), spec)


def _unpadded(x: Array, w: Array, spec: ConvSpec) -> Array:
    return _lax(x, w, spec.replace(padding=((0, 0), (0, 0))))


def _at_the_end(x: Array, w: Array, spec: ConvSpec) -> Array:
    return _lax(x, w, spec.replace(padding=tuple((0, lo + hi) for lo, hi in spec.padding)))


def _exchanged(x: Array, w: Array, spec: ConvSpec) -> Array:
    return _lax(x, w, spec.replace(padding=tuple((hi, lo) for lo, hi in spec.padding)))


def _unrounded(x: Array, w: Array, spec: ConvSpec) -> Array:
    return _sum_of_taps(x, w, spec, jnp.float32)


UNROUNDED = (
    'the result stays in float32. It must have the dtype of the call: end with .astype(spec.dtype).'
)

forward = Exercise(
    name='forward',
    right=_lax,
    cases=lambda: _cases('x', 'w'),
    observe=_traced,
    verified='four convolutions with unequal sizes and paddings, one of them in bfloat16.',
    shape='Wanted is spec.y_shape: (spec.batch, *spec.output_size, spec.out_features).',
    wrong=(
        (
            _last_tap,
            'only the last tap is left: add the products of all taps.',
        ),
        (
            lambda x, w, spec: _lax(x, w[::-1, ::-1], spec),
            'the kernel is flipped. Tap (k, l) meets the view that begins at (k, l).',
        ),
        (
            _unpadded,
            'the padding is missing: spec.padding has a pair (before, after) for each axis.',
        ),
        (
            _at_the_end,
            'all padding stands at the end: spec.padding has a pair (before, after) per axis.',
        ),
        (
            _exchanged,
            'the two sides of the padding are exchanged: each pair is (before, after).',
        ),
        (
            lambda x, w, spec: _lax(x[..., :1], w[..., :1, :], spec.replace(in_features=1)),
            'the first channel only. Each tap is a matrix w[k, l] of (in, out): sum over in.',
        ),
        (
            lambda x, w, spec: _sum_of_taps(x, w, spec, spec.dtype),
            'the sum is kept in bfloat16, where 256 + 1 is 256. Add up in float32: '
            'preferred_element_type=jnp.float32 in einsum, and round once, at the end.',
        ),
        (_unrounded, UNROUNDED),
    ),
)

ONES = (1, 1)
PLAIN = problem.parse('mb2_ic4ih8oc4kh3').spec()
SPECS = {
    'plain': PLAIN,
    'strides': PLAIN.replace(strides=(1, 2)),
    'dilation': PLAIN.replace(dilation=(1, 2)),
    'input_dilation': PLAIN.replace(input_dilation=(2, 2)),
    'groups': PLAIN.replace(groups=2),
    'axes': problem.parse('mb2_ic4iw8oc4kw3').spec(),
    'padded': problem.parse('mb2_ic4ih8iw7oc6kh5kw2ph1').spec('bfloat16'),
}


def _supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    return _refusing()(spec, op, platform)


def _refusing(*forgotten: str) -> Callable[[ConvSpec, str, str], str | None]:
    """Returns supports without some of its conditions."""

    def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
        if spec.ndim != 2 and 'ndim' not in forgotten:
            return f'needs two axes, got {spec.ndim}'
        for name in ('strides', 'dilation', 'input_dilation'):
            if set(getattr(spec, name)) != {1} and name not in forgotten:
                return f'needs {name} of 1, got {getattr(spec, name)}'
        if spec.groups != 1 and 'groups' not in forgotten:
            return f'needs groups 1, got {spec.groups}'
        return None

    return supports


def _answer(supports: Callable, case: Case) -> int:
    """Returns 0 if a call is accepted, 1 if it is refused with a line, 2 for anything else."""
    answer = supports(*case)
    if answer is None:
        return 0
    return 1 if isinstance(answer, str) and answer.strip() and '\n' not in answer else 2


supports = Exercise(
    name='supports',
    right=_supports,
    cases=lambda: [(spec, 'forward', 'cpu') for spec in SPECS.values()],
    observe=_answer,
    verified='accepts padding, any window and bfloat16; refuses strides, dilations, groups and '
    'other numbers of axes, each with a reason.',
    shape='0 stands for None, 1 for a reason on one line, 2 for anything else.',
    wrong=(
        (
            lambda spec, op, platform: None,
            'None means "supported", here for calls that your kernel would compute wrongly. Fill '
            'in a reason, one line, for each: strides, dilation, input_dilation, groups, axes.',
        ),
        (
            lambda spec, op, platform: _supports(spec, op, platform) is None,
            'this returns True or False. Wanted is None, or a line that says what is missing.',
        ),
        (
            lambda spec, op, platform: 'no',
            'everything is refused. A tuple is never equal to 1: compare spec.strides with (1, 1).',
        ),
        (
            _refusing('strides'),
            'strides are accepted; look at both axes of spec.strides.',
        ),
        (
            _refusing('dilation'),
            'dilation is accepted: the taps of a dilated window are not neighbours.',
        ),
        (
            _refusing('input_dilation'),
            'input_dilation is accepted: zeros between the pixels, as the gradient of a strided '
            'convolution has them.',
        ),
        (
            _refusing('groups'),
            'groups are accepted, but w then has only in_features / groups input channels.',
        ),
        (
            _refusing('ndim'),
            'a signal is accepted, but your slices are for two axes: look at spec.ndim.',
        ),
        (
            lambda spec, op, platform: (
                'no padding' if spec.padding != ((0, 0),) * 2 else _supports(spec, op, platform)
            ),
            'padding is refused, although your kernel pads.',
        ),
    ),
)


def _input_grad(dy: Array, w: Array, spec: ConvSpec) -> Array:
    return kernels.function('lax', 'input_grad')(dy, w, spec)


def _scattered(dy: Array, w: Array, spec: ConvSpec, dtype: Any = jnp.float32,
               keep: Any = None, add: bool = True) -> Array:  # fmt: skip
    padded = jnp.zeros((spec.batch, *spec.padded_size, spec.in_features), dtype)
    height, width = spec.output_size
    for i, j in np.ndindex(*spec.window):
        one = jnp.einsum('nhwo,co->nhwc', dy, w[i, j], preferred_element_type=dtype)
        here = padded.at[:, i : i + height, j : j + width]
        padded = here.add(one) if add else here.set(one)
    (top, bottom), (left, right) = spec.padding if keep is None else keep(spec.padding)
    _, height, width, _ = padded.shape
    return padded[:, top : height - bottom, left : width - right]


def _exchanged_features(dy: Array, w: Array, spec: ConvSpec) -> Array:
    """Reads (in, out) as (out, in)."""
    w = w.reshape(*spec.window, spec.out_features, spec.in_features)
    return _input_grad(dy, w.swapaxes(-1, -2), spec)


input_grad = Exercise(
    name='input_grad',
    right=_input_grad,
    cases=lambda: _cases('y', 'w'),
    observe=_traced,
    verified='four gradients, with unequal sizes and paddings, one of them in bfloat16.',
    shape='Wanted is spec.x_shape, without the padding.',
    wrong=(
        (
            lambda dy, w, spec: _scattered(dy, w, spec, keep=lambda _: ((0, 0), (0, 0))).astype(
                spec.dtype
            ),
            'the padding is still there: its gradient is thrown away, so cut it off.',
        ),
        (
            lambda dy, w, spec: _scattered(
                dy, w, spec, keep=lambda padding: [(hi, lo) for lo, hi in padding]
            ).astype(spec.dtype),
            'the wrong ends are cut off: each pair of spec.padding is (before, after).',
        ),
        (
            lambda dy, w, spec: _input_grad(dy, w[::-1, ::-1], spec),
            'the kernel is flipped: dy w[k, l] goes to the view at (k, l). A convolution '
            'of padded dy flips the kernel; scattering does not.',
        ),
        (
            lambda dy, w, spec: _scattered(dy, w, spec, add=False).astype(spec.dtype),
            'the taps replace each other: .at[...].add, not .set.',
        ),
        (
            _exchanged_features,
            'w[k, l] is (in, out), and here out is summed over: dy w^T, not dy w.',
        ),
        (
            lambda dy, w, spec: _scattered(dy, w, spec, spec.dtype),
            'the sum is kept in bfloat16. Add up in float32, and round once, at the end.',
        ),
        (
            lambda dy, w, spec: _scattered(dy, w, spec),
            UNROUNDED,
        ),
    ),
)


def _patches(x: Array, spec: ConvSpec) -> Array:
    return lax.conv_general_dilated_patches(
        x, spec.window, ONES, spec.padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )


def _by_order(order: tuple[int, ...] | None) -> Kernel:
    """Returns by_patches with the axes of w in another order before they are flattened."""

    def by_patches(x: Array, w: Array, spec: ConvSpec) -> Array:
        matrix = (w if order is None else w.transpose(order)).reshape(-1, spec.out_features)
        y = jnp.einsum('nhwp,po->nhwo', _patches(x, spec), matrix,
                       preferred_element_type=jnp.float32)  # fmt: skip
        return y.astype(spec.dtype)

    return by_patches


by_patches = Exercise(
    name='by_patches',
    right=_lax,
    cases=lambda: _cases('x', 'w'),
    observe=_traced,
    verified='equal to your sum over taps on the same four convolutions.',
    shape='Wanted is spec.y_shape: (spec.batch, *spec.output_size, spec.out_features).',
    wrong=(
        (
            _by_order(None),
            'the rows of the matrix are in another order than the patches: in these, the channel '
            'comes first, then the window. Move its axis before you reshape w.',
        ),
        (
            _by_order((2, 1, 0, 3)),
            'rows and columns of the window are exchanged: w.transpose(2, 0, 1, 3).',
        ),
        (
            lambda x, w, spec: _lax(x, w[::-1, ::-1], spec),
            'the kernel is flipped; patches need no flip.',
        ),
        (
            _unpadded,
            'the padding is missing: pass spec.padding to the patches.',
        ),
        (
            _exchanged,
            'the two sides of the padding are exchanged: each pair is (before, after).',
        ),
        (_unrounded, UNROUNDED),
    ),
)
