"""Places the arrays of an animation: tables of cells, one per feature, in pixels."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import font_manager
from PIL import ImageFont

from cnn_jax.errors import UserError
from cnn_jax.ops.spec import ROLES
from cnn_jax.viz.animation.products import Cell, Frame
from cnn_jax.viz.animation.scene import Scene

CELL, GAP, MARGIN = 46, 16, 24
TITLE, HEADING, SIGN = 34, 24, 44
MIN_WIDTH, MAX_WIDTH, MAX_HEIGHT = 620, 1800, 1400


class Panel(NamedTuple):
    """One feature of an array, as a table whose upper left cell is at (left, top)."""

    role: str
    feature: Cell
    heading: str
    shape: tuple[int, int]
    left: int
    top: int


class Layout(NamedTuple):
    """The panels, the signs between arrays with their centres, and the size of them all."""

    panels: list[Panel]
    signs: list[tuple[str, tuple[float, float]]]
    width: int
    height: int


class _Block(NamedTuple):
    """The panels of one array, in rows, and what they need."""

    role: str
    rows: list[list[Cell]]
    shape: tuple[int, int]
    pitch: tuple[int, int]
    width: int
    height: int


def place(scene: Scene, frames: Sequence[Frame]) -> Layout:
    """Places the features that `frames` use: 2-D arrays side by side, 1-D ones below each other.

    Raises:
        UserError: the picture would be too large to project.
    """
    side_by_side = scene.spec.ndim == 2
    blocks = [_block(scene, role, _features(scene, frames, role)) for role in ROLES[scene.op]]
    widths, heights = [b.width for b in blocks], [b.height for b in blocks]
    inner = sum(widths) + 2 * SIGN if side_by_side else max(widths)
    height = MARGIN + TITLE + (max(heights) if side_by_side else sum(heights) + 2 * GAP)
    title = font(17, bold=True).getlength(scene.title)
    width = max(inner, int(title), MIN_WIDTH - 2 * MARGIN) + 2 * MARGIN
    if width > MAX_WIDTH or height > MAX_HEIGHT:
        raise UserError(
            f'the picture would have {width}x{height} pixels, more than {MAX_WIDTH}x{MAX_HEIGHT}: '
            f'choose a smaller size, fewer features or one channel'
        )
    panels, signs = [], []
    between = '×→' if scene.op == 'input_grad' else '∗='
    left, top = (width - inner) // 2, MARGIN + TITLE
    for i, block in enumerate(blocks):
        x = left if side_by_side else (width - block.width) // 2
        y = top + (height - top - block.height) // 2 if side_by_side else top
        for row, features in enumerate(block.rows):
            for column, feature in enumerate(features):
                at = x + column * block.pitch[1], y + row * block.pitch[0] + HEADING
                heading = _heading(scene, block.role, feature)
                panels.append(Panel(block.role, feature, heading, block.shape, *at))
        if side_by_side:
            left += block.width + SIGN
            middle = (left - SIGN / 2, (MARGIN + TITLE + height + HEADING) / 2)
            signs += [(sign, middle) for sign in between[i : i + 1]]
        else:
            top += block.height + GAP
    return Layout(panels, signs, width, height)


def _features(scene: Scene, frames: Sequence[Frame], role: str) -> list[Cell]:
    ndim = scene.spec.ndim
    return sorted({cell[ndim:] for frame in frames for cell in getattr(frame, role)})


def _block(scene: Scene, role: str, features: list[Cell]) -> _Block:
    sizes = {'x': scene.spec.padded_size, 'w': scene.spec.window, 'y': scene.spec.output_size}
    rows, columns = (1, *sizes[role])[-2:]
    table = _table(features, scene.spec.groups, role)
    heading = max(font(15).getlength(_heading(scene, role, feature)) for feature in features)
    pitch = (HEADING + rows * CELL + GAP, max(columns * CELL, int(heading)) + GAP)
    width, height = len(table[0]) * pitch[1] - GAP, len(table) * pitch[0] - GAP
    return _Block(role, table, (rows, columns), pitch, width, height)


def _table(features: list[Cell], groups: int, role: str) -> list[list[Cell]]:
    """Returns rows: the inputs of a kernel, the groups, or else three rows of channels."""
    count = len(features)
    if role == 'w':
        per_row = count // len({feature[0] for feature in features})
    elif 1 < groups < count and count % groups == 0:
        per_row = count // groups
    else:
        per_row = -(-count // 3)
    return [features[i : i + per_row] for i in range(0, count, per_row)]


def _heading(scene: Scene, role: str, feature: Cell) -> str:
    spec = scene.spec
    sizes = {'x': spec.input_size, 'w': spec.window, 'y': spec.output_size}
    name = f'{scene.names[role]} {"×".join(map(str, sizes[role]))}'
    if role == 'w':
        name += ', flipped' if scene.flipped else ''
        return f'{name}, {way(scene, feature)}' if max(spec.kernel_shape[-2:]) > 1 else name
    return f'{name}, channel {feature[0]}' if spec.shape(role)[-1] > 1 else name


def way(scene: Scene, feature: Cell) -> str:
    """Returns the channels that a feature (i, o) of the kernel leads from and to, as in '0 → 1'."""
    spec, (i, o) = scene.spec, feature
    ends = (o // (spec.out_features // spec.groups) * (spec.in_features // spec.groups) + i, o)
    backwards = scene.op == 'input_grad' or scene.op == 'filter_grad' and scene.names['y'] == 'x'
    return ' → '.join(map(str, reversed(ends) if backwards else ends))


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Returns DejaVu Sans, which comes with matplotlib."""
    weight = 'bold' if bold else 'normal'
    family = font_manager.FontProperties(family='DejaVu Sans', weight=weight)
    return ImageFont.truetype(font_manager.findfont(family), size)
