"""Computes the input gradient (the transposed convolution) in polyphase form.

This form never multiplies by the zeros between the elements of a dilated dy. With stride s,
position h of the input meets only the taps t with d t = h + lo (mod s). The positions of one phase
a = h mod s therefore form a stride-1 convolution of dy with every (s / gcd(d, s))-th tap, flipped.
The phases are then interleaved ("sub-pixel convolution", Shi et al. 2016, arXiv:1609.05158,
section 3). At stride 1 there is one phase: the convolution of dy with the flipped kernel.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.kernels.views import as_words, from_words, swap_features
from cnn_jax.ops.spec import ConvSpec

Array = jax.Array


class Phase(NamedTuple):
    """The taps of one phase along one axis, and the parameters of its convolution of dy."""

    taps: slice
    dilation: int
    padding: tuple[int, int]


def unsupported(spec: ConvSpec) -> str | None:
    if any(e > 1 for e in spec.input_dilation):
        return f'the polyphase form is not implemented for input_dilation={spec.input_dilation}'
    return None


def input_grad(
    dy: Array, w: Array, spec: ConvSpec, forward: Callable[[Array, Array, ConvSpec], Array]
) -> Array:
    """Computes dx from stride-1 convolutions, each computed by `forward`."""
    per_axis = [_phases(spec, axis) for axis in range(spec.ndim)]
    sizes = tuple(-(-n // s) for n, s in zip(spec.input_size, spec.strides, strict=True))
    shape = (spec.batch, *sizes, spec.in_features)
    results = []
    for combination in itertools.product(*per_axis):
        phases = [phase for phase in combination if phase]
        if len(phases) < spec.ndim:  # no tap reaches these positions
            results.append(jnp.zeros(shape, spec.dtype))
            continue
        taps = w[tuple(phase.taps for phase in phases)]
        taps = swap_features(jnp.flip(taps, range(spec.ndim)), spec.groups)
        crops = [(min(lo, 0), min(hi, 0), 0) for lo, hi in (p.padding for p in phases)]
        source = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *crops, (0, 0, 0)])
        sub = spec.replace(
            input_size=source.shape[1:-1],
            in_features=spec.out_features,
            window=taps.shape[: spec.ndim],
            out_features=spec.in_features,
            strides=(1,) * spec.ndim,
            padding=tuple((max(lo, 0), max(hi, 0)) for lo, hi in (p.padding for p in phases)),
            dilation=tuple(p.dilation for p in phases),
        )
        results.append(forward(source, taps, sub))
    return _interleave(results, sizes, spec)


def _phases(spec: ConvSpec, axis: int) -> list[Phase | None]:
    n, k, s, d = (v[axis] for v in (spec.input_size, spec.window, spec.strides, spec.dilation))
    lo, outputs = spec.padding[axis][0], spec.output_size[axis]
    common = math.gcd(d, s)
    result: list[Phase | None] = []
    for a in range(s):
        first = next((t for t in range(min(k, s)) if (a + lo - d * t) % s == 0), None)
        if first is None:
            result.append(None)
            continue
        step = s // common
        taps = len(range(first, k, step))
        # position a + s q of dx meets outputs q + offset - (d / common) j for j = 0 .. taps - 1
        offset = (a + lo - d * first) // s
        before = d // common * (taps - 1) - offset
        after = -(-n // s) + offset - outputs
        result.append(Phase(slice(first, None, step), d // common, (before, after)))
    return result


def _interleave(results: list[Array], sizes: tuple[int, ...], spec: ConvSpec) -> Array:
    if len(results) == 1:
        return results[0]
    dx = jnp.stack([as_words(result) for result in results])
    dx = dx.reshape(*spec.strides, spec.batch, *sizes, spec.in_features)
    n = spec.ndim
    order = [n, *(axis for i in range(n) for axis in (n + 1 + i, i)), 2 * n + 1]
    whole = tuple(q * s for q, s in zip(sizes, spec.strides, strict=True))
    dx = dx.transpose(order).reshape(spec.batch, *whole, spec.in_features)
    dx = dx[(slice(None), *(slice(n) for n in spec.input_size))]
    return from_words(dx, str(results[0].dtype))
