"""Pallas calls that compute depthwise convolutions of stride 1 on the vector unit of a TPU.

    y[i, j, n, c]  = sum over taps (h, w) of x[i + d h, j + d w, n, c] k[h, w, c]
    dk[h, w, c]    = sum over i, j, n of     x[i + d h, j + d w, n, c] dy[i, j, n, c]

with x padded. The batch is next to the features, so that a register holds 8 images of 128 features
and a shift by a tap selects other registers, without moving data. XLA, too, prefers this layout for
convolutions on TPUs.

A step of the grid holds some rows of some images in VMEM. It copies them, in float32, into a
buffer between zeros. These zeros are all the padding that there is: none is written to HBM.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from cnn_jax.ops.kernels.pallas.tiling import Tiling
from cnn_jax.ops.spec import ConvSpec

Array = jax.Array
Ref = Any

VMEM_LIMIT = 48 << 20  # bytes; from v5e on, a core has at least 64 MiB


def forward(x: Array, w: Array, spec: ConvSpec, tiling: Tiling, interpret: Any = False) -> Array:
    """Returns y (*output_size, batch, features) of the dtype of x (*input_size, batch, features).

    w is (*window, 1, features); `spec` is 2-D, and its padding may be negative.
    """
    return pl.pallas_call(
        functools.partial(_forward, spec=spec, tiling=tiling),
        grid=tiling.grid(spec),
        in_specs=[_x_block(spec, tiling), _taps_block(spec, tiling)],
        out_specs=_y_block(spec, tiling),
        out_shape=jax.ShapeDtypeStruct((*spec.output_size, *x.shape[2:]), x.dtype),
        scratch_shapes=[pltpu.VMEM(tiling.padded(spec), jnp.float32)],
        compiler_params=_compiler_params('parallel', 'parallel', 'parallel'),
        interpret=interpret,
    )(x, w.reshape(-1, w.shape[-1]))


def filter_grad(
    x: Array, dy: Array, spec: ConvSpec, tiling: Tiling, interpret: Any = False
) -> Array:
    """Returns dk (*window, 1, features) in float32, with x and dy as in `forward`."""
    taps = spec.window[0] * spec.window[1]
    sums = (taps, tiling.images, tiling.features)
    dw = pl.pallas_call(
        functools.partial(_filter_grad, spec=spec, tiling=tiling),
        grid=tiling.grid(spec),
        in_specs=[_x_block(spec, tiling), _y_block(spec, tiling)],
        out_specs=_taps_block(spec, tiling),
        out_shape=jax.ShapeDtypeStruct((taps, x.shape[-1]), jnp.float32),
        scratch_shapes=[
            pltpu.VMEM(tiling.padded(spec), jnp.float32),
            pltpu.VMEM(sums, jnp.float32),
        ],
        # All steps of the same features add to the same block of the result.
        compiler_params=_compiler_params('parallel', 'arbitrary', 'arbitrary'),
        interpret=interpret,
    )(x, dy)
    return dw.reshape(spec.kernel_shape)


def _compiler_params(*semantics: Any) -> Any:
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM_LIMIT)


def _x_block(spec: ConvSpec, tiling: Tiling) -> pl.BlockSpec:
    # Neighbouring blocks share rows, so that indices count elements, not blocks.
    block = (tiling.rows_read(spec), spec.input_size[1], tiling.images, tiling.features)

    def first(c, n, i):
        # A single block is at 0: Mosaic takes no other index where it cannot prove divisibility.
        n, c = (
            index * size if blocks > 1 else 0
            for index, size, blocks in zip((n, c), block[2:], tiling.blocks(spec), strict=True)
        )
        return _first_row(i, spec, tiling), 0, n, c

    return pl.BlockSpec(tuple(map(pl.Element, block)), first)


def _first_row(i: Any, spec: ConvSpec, tiling: Tiling) -> Any:
    """Returns the first row of x in its block: that of the first window, moved inside x."""
    last = spec.input_size[0] - tiling.rows_read(spec)
    return jnp.clip(i * tiling.rows - spec.padding[0][0], 0, last)


def _y_block(spec: ConvSpec, tiling: Tiling) -> pl.BlockSpec:
    block = (tiling.rows, spec.output_size[1], tiling.images, tiling.features)
    return pl.BlockSpec(block, lambda c, n, i: (i, 0, n, c))


def _taps_block(spec: ConvSpec, tiling: Tiling) -> pl.BlockSpec:
    return pl.BlockSpec((spec.window[0] * spec.window[1], tiling.features), lambda c, n, i: (0, c))


def _forward(x: Ref, w: Ref, y: Ref, padded: Ref, *, spec: ConvSpec, tiling: Tiling) -> None:
    _pad(padded, x, spec, tiling)

    def tile(row, rows, column, columns):
        sums = jnp.zeros((rows, columns, *y.shape[2:]), jnp.float32)
        for tap, view in _views(padded, spec, row, rows, column, columns):
            sums += view * w[pl.ds(tap, 1)].astype(jnp.float32)
        y[pl.ds(row, rows), pl.ds(column, columns)] = sums.astype(y.dtype)

    _for_each_tile(spec, tiling, tile)


def _filter_grad(
    x: Ref, dy: Ref, dw: Ref, padded: Ref, sums: Ref, *, spec: ConvSpec, tiling: Tiling
) -> None:
    @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
    def _():
        dw[...] = jnp.zeros_like(dw)

    _pad(padded, x, spec, tiling)
    sums[...] = jnp.zeros_like(sums)
    rows_left = spec.output_size[0] - pl.program_id(2) * tiling.rows

    def tile(row, rows, column, columns):
        part = dy[pl.ds(row, rows), pl.ds(column, columns)].astype(jnp.float32)
        if spec.output_size[0] % tiling.rows:  # the last block reaches beyond dy
            index = row + lax.broadcasted_iota(jnp.int32, part.shape, 0)
            part = jnp.where(index < rows_left, part, 0.0)
        for tap, view in _views(padded, spec, row, rows, column, columns):
            sums[tap] += (view * part).sum((0, 1))

    _for_each_tile(spec, tiling, tile)
    dw[...] += sums[...].sum(1)


def _pad(padded: Ref, x: Ref, spec: ConvSpec, tiling: Tiling) -> None:
    """Copies what the step reads of x into `padded`, and writes zeros where there is no x."""
    width, (left, right) = padded.shape[1], spec.padding[1]
    inside = slice(max(left, 0), width - max(right, 0))
    kept = slice(max(-left, 0), x.shape[1] - max(-right, 0))
    for border in (slice(0, inside.start), slice(inside.stop, width)):
        if border.start < border.stop:
            padded[:, border] = jnp.zeros_like(padded[:, border])
    i = pl.program_id(2)
    first = i * tiling.rows - spec.padding[0][0]

    def copy(row):
        is_inside = (first + row >= 0) & (first + row < spec.input_size[0])

        @pl.when(is_inside)
        def _():
            source = x[first + row - _first_row(i, spec, tiling), kept]
            padded[row, inside] = source.astype(padded.dtype)

        @pl.when(~is_inside)
        def _():
            padded[row, inside] = jnp.zeros_like(padded[row, inside])

    _for_each(padded.shape[0], copy)


def _views(padded: Ref, spec: ConvSpec, row: Any, rows: int, column: Any, columns: int):
    """Yields the index of each tap, and what it multiplies for a tile of y."""
    for h in range(spec.window[0]):
        for w in range(spec.window[1]):
            here = (row + h * spec.dilation[0], column + w * spec.dilation[1])
            yield h * spec.window[1] + w, padded[pl.ds(here[0], rows), pl.ds(here[1], columns)]


def _for_each_tile(
    spec: ConvSpec, tiling: Tiling, do: Callable[[Any, int, Any, int], None]
) -> None:
    rows, columns = tiling.tile(spec)

    def in_rows(row, rows):
        _in_pieces(spec.output_size[1], columns, functools.partial(do, row, rows))

    _in_pieces(tiling.rows, rows, in_rows)


def _in_pieces(size: int, piece: int, do: Callable[[Any, int], None]) -> None:
    """Calls `do(start, length)` for the pieces of a range; the last one may be shorter."""
    whole, rest = divmod(size, piece)
    _for_each(whole, lambda i: do(i * piece, piece))
    if rest:
        do(whole * piece, rest)


def _for_each(n: int, do: Callable[[Any], None]) -> None:
    if n == 1:
        do(0)  # a static index
    else:
        lax.fori_loop(0, n, lambda i, _: do(i), None)
