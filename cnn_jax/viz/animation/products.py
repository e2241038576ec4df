"""Lists the products of a convolution or of its gradients, in the steps that an animation shows.

Each map of a convolution is a sum of products x[p, c] w[t, i, o] y[q, o] with one factor left out,
over all positions q of y and taps t, where p = s q + d t is a position of the padded, dilated x.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax import lax

from cnn_jax.ops import patches
from cnn_jax.ops.spec import ROLES, ConvSpec

Cell = tuple[int, ...]

# Products that share this element are one step: the element of the result that they are added to,
# or, for the input gradient, the element of dy that they distribute.
STEP = {'forward': 'y', 'input_grad': 'y', 'filter_grad': 'w'}


class Frame(NamedTuple):
    """One step of a map.

    Attributes:
        at: the element of y or of w whose turn it is; see `STEP`.
        x: for each product, (*position, c) in the padded, dilated x.
        w: for each product, (*tap, i, o), an index of the kernel.
        y: for each product, (*position, o), an index of y.
        products: the products.
        sums: for each element of the result, by its index, what this step adds to it. The zeros of
            the padding and the holes of a dilated x are no elements.
    """

    at: Cell
    x: tuple[Cell, ...]
    w: tuple[Cell, ...]
    y: tuple[Cell, ...]
    products: tuple[float, ...]
    sums: dict[Cell, float]


def frames(
    spec: ConvSpec,
    op: str,
    first: np.ndarray,
    second: np.ndarray,
    *,
    padding_mode: str = 'zeros',
    channel: int | None = None,
) -> list[Frame]:
    """Returns the steps of a map of one example, in row-major order within each channel.

    Args:
        spec: the convolution, with batch 1; negative padding crops.
        op: 'forward', 'input_grad' or 'filter_grad'.
        first, second: the operands in the order of `spec.ROLES`, without the batch axis.
        padding_mode: how x is padded, as in `conv`.
        channel: an index of the last axis of y; only the steps of this channel are returned.
    """
    *roles, result = ROLES[op]
    values = dict(zip(roles, (first, second), strict=True))
    source = sources(spec, padding_mode)
    if 'x' in values:
        values['x'] = padded(values['x'], source)
    steps: dict[Cell, list[dict[str, Cell]]] = {}
    for product in _products(spec):
        at = product[STEP[op]]
        if channel in (None, at[-1]):
            steps.setdefault(at, []).append(product)
    found = []
    for at in sorted(steps, key=lambda cell: (cell[spec.ndim :][::-1], cell)):
        cells = {role: tuple(product[role] for product in steps[at]) for role in 'xwy'}
        a, b = ([values[role][cell].item() for cell in cells[role]] for role in roles)
        products = tuple(u * v for u, v in zip(a, b, strict=True))
        sums: dict[Cell, float] = {}
        for cell, product in zip(cells[result], products, strict=True):
            target = element(cell, source, spec) if result == 'x' else cell
            if target is not None:
                sums[target] = sums.get(target, 0) + product
        found.append(Frame(at, products=products, sums=sums, **cells))
    return found


def assemble(steps: Sequence[Frame], shape: tuple[int, ...]) -> np.ndarray:
    """Adds the sums of `steps` to a result of zeros (*shape,) of float64."""
    result = np.zeros(shape)
    for step in steps:
        for element, value in step.sums.items():
            result[element] += value
    return result


def count(spec: ConvSpec, op: str, channel: int | None = None) -> int:
    """Returns the number of steps that `frames` returns."""
    sizes = spec.shape(STEP[op])[0 if STEP[op] == 'w' else 1 :]
    return int(np.prod(sizes[:-1] if channel is not None else sizes))


def sources(spec: ConvSpec, padding_mode: str = 'zeros') -> np.ndarray:
    """Returns, for each position of the padded, dilated x, the row of x.reshape(-1, c), or -1."""
    index = np.arange(int(np.prod(spec.input_size)), dtype=np.int32).reshape(spec.input_size)
    if padding_mode != 'zeros':
        return np.asarray(patches.pad(index[..., None], spec.padding, padding_mode))[..., 0]
    widths = [(*pair, e - 1) for pair, e in zip(spec.padding, spec.input_dilation, strict=True)]
    return np.asarray(lax.pad(index, np.int32(-1), widths))


def padded(x: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Returns x (*size, features) padded and dilated, given its `sources`."""
    flat = x.reshape(-1, x.shape[-1])
    return np.concatenate([flat, np.zeros_like(flat[:1])])[source]


def _products(spec: ConvSpec) -> Iterator[dict[str, Cell]]:
    """Yields the cells of x, w and y in each product; those of x are padded positions."""
    ins, outs = spec.in_features // spec.groups, spec.out_features // spec.groups
    for q in np.ndindex(spec.output_size):
        for t in np.ndindex(spec.window):
            steps = zip(spec.strides, q, spec.dilation, t, strict=True)
            p = tuple(s * i + d * k for s, i, d, k in steps)
            for o in range(spec.out_features):
                for i in range(ins):
                    yield {'x': (*p, o // outs * ins + i), 'w': (*t, i, o), 'y': (*q, o)}


def element(cell: Cell, source: np.ndarray, spec: ConvSpec) -> Cell | None:
    """Returns the index of x behind a padded position, or None for a zero."""
    at = int(source[cell[:-1]])
    return None if at < 0 else (*map(int, np.unravel_index(at, spec.input_size)), cell[-1])
