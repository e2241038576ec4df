"""Rules that choose the kernels of a convolution, derived from measurements (docs/performance.md).

On GPUs, the choice is XLA's own convolution; TPUs have `rules_tpu`. On a CPU, it is a native kernel
if one supports the problem by more than oneDNN's reference code. Otherwise it is the formulation
that was fastest for similar problems on two cores of an x86-64 server, or XLA's own convolution if
no other was clearly faster.
"""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops import kernels
from cnn_jax.ops.kernels import integers, winograd
from cnn_jax.ops.kernels.native import depthwise as native_depthwise
from cnn_jax.ops.kernels.native import dot as native_dot
from cnn_jax.ops.kernels.native import onednn
from cnn_jax.ops.kernels.native import winograd as native_winograd
from cnn_jax.ops.spec import ConvSpec
from cnn_jax.ops.tuning import rules_tpu

MANY_TAPS = 64  # with more taps, a window with groups is not unrolled
FEATURES = 16  # with fewer, patches with features last are too short to copy fast
WINOGRAD_MARGIN = 0.9  # Winograd must take at most this part of the time of XLA's convolution
# How many times as long as a matrix product XLA:CPU's convolution takes for as many products:
XLA_ONE_CORE = 1.5  # with at most `FEW_OUTPUTS` features of the result it often uses one core
XLA_FILTER_GRAD = 2.0
XLA_3D = 3.0
FEW_OUTPUTS = 128
NATIVE_MARGIN = 0.9  # native Winograd must take at most this part of the direct form's time
# In bfloat16, oneDNN's filter gradient computes the products with padding, too, and each takes this
# much longer than in its other maps:
BFLOAT16_FILTER_GRAD = 1.1
# Outputs per image and their features. With fewer of both, patches cost as much as the product
# saves.
MANY_POSITIONS, WIDE = 1100, 32
# Whether XLA:CPU multiplies int8 faster than float32 in 2-D, as in jax 0.10. In jax 0.7, it takes 4
# to 1,000 times as long.
XLA_HAS_INT8 = jax.__version_info__ >= (0, 10)
STRIDED_BYTES = 1 << 23  # of the products that XLA:CPU's strided input gradient adds up
FEW_PER_GROUP = 4  # features per group; with fewer, XLA:CPU's groups of float64 and int8 are slow
FEW_OUTPUTS_OF_ROWS = 8  # with fewer features of dy, a row's product is too small
FEW = 4  # features; oneDNN's 1x1 kernels leave most of a vector unused
# Features, and outputs in a row, from which on oneDNN's depthwise filter gradient is slower, by 1.2
# to 1.5 times.
WIDE_ROW, LONG_ROW = 256, 14
FEW_POSITIONS = 4  # outputs per image; up to this many, XLA:CPU reaches only a few GFLOP/s


def ranked(op: str, spec: ConvSpec, platform: str) -> Iterator[tuple[str, str]]:
    """Yields the kernels for map `op` of `spec` on `platform` with reasons, best first."""
    if platform == 'tpu' and (found := rules_tpu.choice(spec)):
        yield found
    if platform != 'cpu':
        yield 'lax', f'the default on {platform}'
        return
    for choose in (_native_winograd, _native_depthwise, _native_dot):
        if found := choose(op, spec):
            yield found
    if onednn.supports(spec, op, 'cpu') is None and not _is_slow_by_onednn(op, spec):
        yield 'onednn', 'the native kernel supports it'
    is_small = integers.suits(op, spec)
    if found := _small_integers(op, spec) if is_small else _any_map(op, spec) or RULES[op](spec):
        yield found
    yield 'lax', 'no rule applies'


def _small_integers(op: str, spec: ConvSpec) -> tuple[str, str] | None:
    is_fast_by_xla = spec.ndim == 2 and spec.in_features >= FEATURES and op == 'forward'
    if found := _small_groups(spec):
        return found
    if spec.groups > 1 or (XLA_HAS_INT8 and is_fast_by_xla):
        return None
    return 'dot' if spec.is_pointwise else 'im2col', "in float32: XLA's integers are slower"


def _small_groups(spec: ConvSpec) -> tuple[str, str] | None:
    if spec.groups == 1 or math.prod(spec.window) > MANY_TAPS:
        return None
    if spec.is_depthwise:
        return 'shift', 'depthwise'
    width = max(spec.in_features, spec.out_features) // spec.groups
    if width <= FEW_PER_GROUP and spec.dtype not in ('float32', 'bfloat16', 'float16'):
        return 'shift', f'{spec.dtype} in groups of at most {FEW_PER_GROUP} features'
    return None


def _any_map(op: str, spec: ConvSpec) -> tuple[str, str] | None:
    if spec.is_pointwise and spec.groups == 1:
        return 'dot', 'pointwise'
    if found := _small_groups(spec):
        return found
    if spec.dtype == 'float64' and spec.ndim != 2 and spec.groups == 1:
        is_wide = spec.in_features >= (FEATURES if spec.ndim == 3 else WIDE)
        by_taps = op == 'filter_grad' and is_wide and math.prod(spec.window) <= MANY_TAPS
        kernel = 'shift' if by_taps else 'im2col'
        return kernel, "float64, 1-D or 3-D: XLA's is 5 to 96 times slower"
    return None


def _forward(spec: ConvSpec) -> tuple[str, str] | None:
    return _winograd('forward', spec) or _tiny(spec)


def _input_grad(spec: ConvSpec) -> tuple[str, str] | None:
    if found := _winograd('input_grad', spec) or _tiny(spec):
        return found
    if max(spec.strides) > 1 and spec.in_features >= FEATURES and _is_slow_strided(spec):
        halves = jnp.dtype(spec.dtype).itemsize == 2  # XLA casts all of every phase to float32
        return 'im2col' if halves else 'subpixel', 'strided: no multiplication by zero'
    if spec.in_features < FEATURES and spec.ndim > 1 and set(spec.strides) == {1}:
        return 'im2col', f'fewer than {FEATURES} input features: by rows'
    return None


def _filter_grad(spec: ConvSpec) -> tuple[str, str] | None:
    if found := _winograd('filter_grad', spec):
        return found
    if spec.groups > 1 and math.prod(spec.window) <= MANY_TAPS:
        return 'shift', "groups: XLA's is slower by a factor that grows with them"
    is_large = math.prod(spec.output_size) >= MANY_POSITIONS
    is_many = spec.in_features >= FEATURES
    if spec.dtype == 'float64' and is_many:
        return None
    is_wide = is_many and spec.out_features >= WIDE
    if spec.ndim > 1 and (is_large or is_wide or math.prod(spec.window) == 1):
        return 'im2col', 'a matrix product over all positions'
    return None


def _is_slow_strided(spec: ConvSpec) -> bool:
    """Returns whether XLA is slow at the strided input gradient.

    In 2-D it adds up the products of all taps, which is fast if they stay in the cache.
    """
    products = spec.batch * math.prod((*spec.output_size, *spec.window)) * spec.in_features
    return spec.ndim != 2 or spec.dtype == 'float64' or 4 * products > STRIDED_BYTES


RULES = {'forward': _forward, 'input_grad': _input_grad, 'filter_grad': _filter_grad}


def _winograd(op: str, spec: ConvSpec) -> tuple[str, str] | None:
    reason = kernels.reason_against('winograd', 'forward', spec, 'cpu')
    if spec.ndim == 1 or _is_exact(spec) or reason:
        return None
    if op == 'filter_grad':
        factor = XLA_FILTER_GRAD
    else:
        results = spec.out_features if op == 'forward' else spec.in_features
        factor = XLA_ONE_CORE if results <= FEW_OUTPUTS else 1
    ratio = (XLA_3D if spec.ndim == 3 else factor) * spec.macs / winograd.cost(spec)
    if WINOGRAD_MARGIN * ratio < 1:
        return None
    return 'winograd', f"windows of 3: by estimate {ratio:.1f} times faster than XLA's"


def _native_winograd(op: str, spec: ConvSpec) -> tuple[str, str] | None:
    """Chooses native Winograd where it is estimated to be faster than the direct form."""
    few = min(spec.in_features, spec.out_features) < FEATURES  # they fill no vector
    if few or _is_exact(spec) or kernels.reason_against('native_winograd', op, spec, 'cpu'):
        return None
    ratio = _direct(op, spec) / native_winograd.cost(spec, op)
    if NATIVE_MARGIN * ratio < 1:
        return None
    return 'native_winograd', f'by estimate {ratio:.1f} times faster than directly'


def _native_depthwise(op: str, spec: ConvSpec) -> tuple[str, str] | None:
    """Chooses the native depthwise kernel where it is faster than oneDNN."""
    if spec.in_features < FEATURES or not _is_plain_depthwise(spec):
        return None
    if native_depthwise.supports(spec, op, 'cpu') is not None:
        return None
    if not onednn.has_depthwise_form(spec, op):
        return 'native_depthwise', "oneDNN's general form is up to 30 times slower"
    if op == 'input_grad' and onednn.casts(spec, op):
        return 'native_depthwise', 'oneDNN would convert all operands to float32'
    is_wide = spec.in_features >= WIDE_ROW and spec.output_size[-1] >= LONG_ROW
    if op == 'filter_grad' and is_wide and spec.dtype == 'float32':
        return 'native_depthwise', f'at least {WIDE_ROW} features: oneDNN reads them far apart'
    return None


def _native_dot(op: str, spec: ConvSpec) -> tuple[str, str] | None:
    """Chooses the native pointwise kernel where it is faster than oneDNN."""
    if spec.dtype != 'float32' or native_dot.supports(spec, op, 'cpu') is not None:
        return None
    inputs, outputs = spec.in_features, spec.out_features
    few, many = (inputs, outputs) if op == 'input_grad' else (outputs, inputs)
    if op == 'filter_grad':
        suits = many >= FEATURES
    else:  # each result is a sum of vectors over the features of the other side
        suits = many >= WIDE and many % FEATURES == 0
    return ('native_dot', f'at most {FEW} features') if few <= FEW and suits else None


def _direct(op: str, spec: ConvSpec) -> float:
    """Returns the time of oneDNN's map `op`, as a number of products in float32."""
    if spec.dtype != 'bfloat16' or onednn.casts(spec, op):
        return _products(spec)
    products = BFLOAT16_FILTER_GRAD * spec.macs if op == 'filter_grad' else _products(spec)
    return products / onednn.bfloat16_rate()


def _is_exact(spec: ConvSpec) -> bool:
    """Returns whether the caller asks for more accurate products than by default."""
    wanted = spec.precision if isinstance(spec.precision, tuple) else (spec.precision,)
    return bool({lax.Precision.HIGH, lax.Precision.HIGHEST}.intersection(wanted))


def _products(spec: ConvSpec) -> int:
    """Returns the number of products of the direct form, without those with padding."""
    pairs = 1
    axes = zip(
        spec.window, spec.strides, spec.input_size, spec.output_size, spec.padding, strict=True
    )
    for window, stride, size, outputs, (low, _) in axes:
        count = 0
        for tap in range(window):  # output j reads position j * stride + tap - low
            first = max(0, -((tap - low) // stride))
            count += max(0, min(outputs, (size - 1 + low - tap) // stride + 1) - first)
        pairs *= count
    return pairs * spec.batch * spec.in_features * spec.out_features


def _is_slow_by_onednn(op: str, spec: ConvSpec) -> bool:
    """Returns whether a formulation in JAX is faster than oneDNN, which supports the problem."""
    return onednn.is_reference(spec, op) or _suits_rows(op, spec) or _suits_taps(op, spec)


def _suits_rows(op: str, spec: ConvSpec) -> bool:
    """Returns whether `im2col`, row by row, is faster than oneDNN, by 1.1 to 5 times."""
    is_few = spec.in_features <= 3 and spec.out_features >= FEW_OUTPUTS_OF_ROWS
    if op != 'input_grad' or not is_few or spec.ndim == 1 or set(spec.strides) != {1}:
        return False
    is_slow_bfloat16 = spec.dtype == 'bfloat16' and onednn.bfloat16_rate() <= 1
    return spec.dtype == 'float32' or is_slow_bfloat16


def _suits_taps(op: str, spec: ConvSpec) -> bool:
    """Returns whether `shift` is faster than oneDNN's general form, by 1.3 to 40 times."""
    if not _is_plain_depthwise(spec) or onednn.has_depthwise_form(spec, op):
        return False
    if math.prod(spec.window) > MANY_TAPS:
        return False
    if spec.dtype == 'float32':
        is_strided = op == 'input_grad' and max(spec.strides) > 1
        return is_strided or (op != 'filter_grad' and spec.ndim == 3)
    return spec.dtype == 'bfloat16'


def _is_plain_depthwise(spec: ConvSpec) -> bool:
    return spec.in_features == spec.out_features == spec.groups > 1


def _tiny(spec: ConvSpec) -> tuple[str, str] | None:
    few = math.prod(spec.output_size) <= FEW_POSITIONS
    if few and spec.ndim > 1 and spec.in_features >= FEATURES:
        return 'im2col', 'very few output positions'
    return None
