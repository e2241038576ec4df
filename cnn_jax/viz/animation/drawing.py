"""Draws the steps of an animation with Pillow: three arrays as cells with numbers, and the sum.

The first operand is blue, the second orange, the result green, in shades of a palette that
colour-blind people can tell apart (Okabe & Ito 2008, "Color Universal Design"). Outlines mark the
same cells without colour.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from cnn_jax.ops.spec import ROLES, dilated
from cnn_jax.viz.animation import products
from cnn_jax.viz.animation.layout import CELL, MARGIN, Panel, font, place, way
from cnn_jax.viz.animation.products import Cell, Frame
from cnn_jax.viz.animation.scene import Scene

LINE, MOST_LINES = 26, 3
INK, FAINT, RULE = '#1A1A1A', '#5C5C5C', '#9A9A9A'
PADDING, HOLE = '#D4D4D4', '#EEEEEE'


class _Colours(NamedTuple):
    """Fills of a cell that is known, and of one that this step uses; the outline of the latter."""

    pale: str
    active: str
    outline: str


_FIRST = _Colours('#FFFFFF', '#9FD4F5', '#0072B2')
_SECOND = _Colours('#FFFFFF', '#FFD27F', '#B05A00')
_RESULT = _Colours('#DFF3EC', '#7FD3B5', '#00664D')


class Painter:
    """Draws the steps of a scene; `size` is (width, height) in pixels.

    Raises:
        UserError: the picture would be too large.
    """

    def __init__(self, scene: Scene, frames: Sequence[Frame]):
        self._scene, self._frames = scene, frames
        *self._operands, self._result = ROLES[scene.op]
        self._source = products.sources(scene.spec, scene.padding_mode)
        self._values = dict(zip(self._operands, scene.operands, strict=True))
        if 'x' in self._values:
            self._values['x'] = products.padded(self._values['x'], self._source)
        self._colours = dict(zip(ROLES[scene.op], (_FIRST, _SECOND, _RESULT), strict=True))
        self._layout = place(scene, frames)
        self._legend = list(self._kinds())
        width = self._layout.width
        self._texts = [wrapped(self._explanation(f), width - 2 * MARGIN) for f in frames]
        lines = max(map(len, self._texts)) + bool(self._legend)
        height = self._layout.height + LINE * lines + MARGIN
        self.size = (width + width % 2, height + height % 2)  # even, as video codecs require

    def images(self) -> Iterator[Image.Image]:
        """Yields one picture per step, with the result so far."""
        done: dict[Cell, float] = {}
        for frame, lines in zip(self._frames, self._texts, strict=True):
            for element, value in frame.sums.items():
                done[element] = done.get(element, 0) + value
            yield self._draw(frame, done, lines)

    def _draw(self, frame: Frame, done: dict[Cell, float], lines: list[str]) -> Image.Image:
        image = Image.new('RGB', self.size, 'white')
        draw = ImageDraw.Draw(image)
        middle = self.size[0] / 2
        draw.text((middle, MARGIN), self._scene.title, INK, font(17, bold=True), 'mm')
        for sign, centre in self._layout.signs:
            draw.text(centre, sign, INK, font(26), 'mm')
        for panel in self._layout.panels:
            self._draw_panel(draw, panel, frame, done)
        top = self._layout.height + 10
        left = middle - sum(44 + font(14).getlength(text) for text, _ in self._legend) / 2
        for text, fill in self._legend:
            draw.rectangle((left, top + 2, left + 16, top + 18), fill, RULE)
            draw.text((left + 24, top + 10), text, FAINT, font(14), 'lm')
            left += 44 + font(14).getlength(text)
        top += LINE * bool(self._legend)
        for line in lines:
            draw.text((middle, top + 13), line, INK, font(17), 'mm')
            top += LINE
        return image

    def _draw_panel(self, draw, panel: Panel, frame: Frame, done: dict[Cell, float]) -> None:
        draw.text((panel.left, panel.top - 12), panel.heading, INK, font(15), 'lm')
        role, scene = panel.role, self._scene
        colours = self._colours[role]
        notes = dict(zip(getattr(frame, role), self._notes(frame), strict=True))
        for row in range(panel.shape[0]):
            for column in range(panel.shape[1]):
                at = (row, column)[-scene.spec.ndim :]
                cell = (*at, *panel.feature)
                active = cell in notes
                kind = self._kind(at) if role == 'x' else None
                value = self._value(role, cell, kind, done)
                pale = colours.pale if value is not None else '#FFFFFF'
                fill = colours.active if active else kind or pale
                box = _box(panel, row, column)
                draw.rectangle(box, fill, RULE)
                centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                note = notes.get(cell, '') if role == 'x' else ''
                if note:
                    draw.text((box[2] - 4, box[3] - 5), note, self._note_colour(), font(13), 'rs')
                    centre = (centre[0] - 4, centre[1] - 6)
                if value is not None:
                    faint = kind and not active
                    draw.text(centre, number(value), FAINT if faint else INK, font(19), 'mm')
        boxes = [
            _box(panel, *(0, *cell[: scene.spec.ndim])[-2:])
            for cell in notes
            if cell[scene.spec.ndim :] == panel.feature
        ]
        # The taps of the window in x, or one cell; the many cells of a gradient lie apart.
        if len(boxes) == 1 or boxes and role == 'x' and scene.op != 'filter_grad':
            lefts, tops, rights, bottoms = zip(*boxes, strict=True)
            around = (min(lefts) - 1, min(tops) - 1, max(rights) + 1, max(bottoms) + 1)
            draw.rectangle(around, None, colours.outline, 3)

    def _notes(self, frame: Frame) -> list[str]:
        """Returns what stands small in the cells of x: the other factor, or the product."""
        if self._result == 'x':
            return [f'+{number(v)}' if v >= 0 else number(v) for v in frame.products]
        other = 'w' if self._result == 'y' else 'y'
        return [f'×{number(self._values[other][cell].item())}' for cell in getattr(frame, other)]

    def _note_colour(self) -> str:
        return (_RESULT if self._result == 'x' else _SECOND).outline

    def _value(self, role: str, cell: Cell, kind: str | None, done) -> float | None:
        if role != self._result:
            return self._values[role][cell].item()
        if role != 'x':
            return done.get(cell)
        element = products.element(cell, self._source, self._scene.spec)
        return None if kind or element is None else done.get(element)

    def _kind(self, at: Cell) -> str | None:
        """Returns the fill of a position of x that is padding or a hole; None for an element."""
        spec = self._scene.spec
        holed = map(dilated, spec.input_size, spec.input_dilation)
        inside = [lo <= p < lo + n for p, n, (lo, _) in zip(at, holed, spec.padding, strict=True)]
        if not all(inside):
            return PADDING
        return HOLE if self._source[at] < 0 else None

    def _kinds(self) -> Iterator[tuple[str, str]]:
        """Yields the entries of the legend."""
        spec, mode = self._scene.spec, self._scene.padding_mode
        if max(max(pair) for pair in spec.padding) > 0:
            if mode == 'zeros' and self._result == 'x':
                what = 'cropped' if self._scene.names['x'] == 'y' else 'dropped'
            elif mode == 'zeros':
                what = 'zeros'
            else:
                what = f'{mode!r}, repeats elements'
                what += ', which get its sums' if self._result == 'x' else ''
            yield f'padding: {what}', PADDING
        if set(spec.input_dilation) != {1}:
            yield 'holes: zeros', HOLE

    def _explanation(self, frame: Frame) -> list[str]:
        """Returns the sum of this step, in parts between which a line may break."""
        names, (a, b) = self._scene.names, self._operands
        at = self._index(frame.at)
        if self._result == 'x':
            value = number(self._values['y'][frame.at].item())
            return [
                f'{names["y"]}{at} = {value}: ',
                f'{value} × {names["w"]} is added to the window of {names["x"]}',
            ]
        factors = [
            f'{number(self._values[a][u].item())}·{bracketed(self._values[b][v].item())}'
            for u, v in zip(getattr(frame, a), getattr(frame, b), strict=True)
        ]
        terms = [f'{factors[0]} ', *(f'+ {factor} ' for factor in factors[1:])]
        return [f'{names[self._result]}{at} = ', *terms, f'= {number(sum(frame.products))}']

    def _index(self, at: Cell) -> str:
        """Returns the index of a step, without features if there is only one."""
        spec, role = self._scene.spec, products.STEP[self._scene.op]
        many = max(spec.kernel_shape[-2:] if role == 'w' else spec.y_shape[-1:]) > 1
        if many and role == 'w':
            return f'{list(at[: spec.ndim])} ({way(self._scene, at[spec.ndim :])})'
        return str(list(at if many else at[: spec.ndim]))


def number(value: float) -> str:
    """Returns whole numbers in full, and others with three digits."""
    text = str(round(value)) if value == round(value) else f'{value:.3g}'
    return text.replace('-', '−')


def bracketed(value: float) -> str:
    return f'({number(value)})' if value < 0 else number(value)


def wrapped(parts: Sequence[str], width: float) -> list[str]:
    """Joins `parts` into at most `MOST_LINES` lines, with '…' before the last part if need be."""
    fits = lambda line: font(17).getlength(line) <= width  # noqa: E731
    for kept in range(len(parts), 0, -1):
        shown = list(parts) if kept == len(parts) else [*parts[:kept], '+ … ', parts[-1]]
        lines = ['']
        for part in shown:
            if fits(lines[-1] + part):
                lines[-1] += part
            else:
                lines.append(part)
        if len(lines) <= MOST_LINES:
            return lines
    return lines[:MOST_LINES]


def _box(panel: Panel, row: int, column: int) -> tuple[int, int, int, int]:
    left, top = panel.left + column * CELL, panel.top + row * CELL
    return (left, top, left + CELL, top + CELL)
