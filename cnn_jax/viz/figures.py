"""Figures without global state: matplotlib's object interface and nothing else."""

import functools
import io
import os
import warnings
from typing import Any

import numpy as np
import PIL.Image
from matplotlib import font_manager, rcParams
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from cnn_jax.tables import printable

DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches whose parts do not overlap."""
    _use_fonts()
    return Figure(figsize=(width, height), dpi=DPI, layout='constrained')


def log_ticks(axis: Axis, most: int = 12) -> None:
    """Plain numbers on a logarithmic axis, about `most` at most; called when all is drawn."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    if decades < 0.7:
        axis.set_major_locator(MaxNLocator(6))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(
            LogLocator(subs=(1, 2, 5) if 3 * decades < most else (1,), numticks=50)
        )
    axis.set_major_formatter('{x:g}')
    axis.set_minor_formatter(NullFormatter())


def plain(name: str) -> str:
    """Returns a name as matplotlib draws it literally: a dollar sign begins no formula."""
    return printable(name).replace('$', r'\$')


@functools.cache
def _use_fonts() -> None:
    """Adds installed fonts with CJK and other scripts behind matplotlib's own, which has few."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    more = [name for name in _FALLBACKS if name in installed]
    rcParams['font.family'] = [*rcParams['font.family'], *more]


_FALLBACKS = (
    'Noto Sans CJK JP', 'Noto Sans CJK SC', 'Noto Sans CJK KR', 'Source Han Sans',
    'WenQuanYi Zen Hei', 'WenQuanYi Micro Hei', 'IPAexGothic', 'Hiragino Sans', 'PingFang SC',
    'Microsoft YaHei', 'Malgun Gothic', 'Noto Sans Arabic', 'Noto Sans Devanagari',
    'Noto Sans Thai', 'Noto Sans Hebrew',
)  # fmt: skip


@functools.cache
def _warn_of_missing_glyphs() -> None:
    warnings.warn(
        'some names have characters that no installed font has; boxes are drawn for them',
        stacklevel=4,
    )


def _draw(figure: Figure, target: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        figure.savefig(target, dpi=figure.dpi)
    for each in caught:
        if 'missing from font' in str(each.message) or 'missing from current font' in str(
            each.message
        ):
            _warn_of_missing_glyphs()
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def save(figure: Figure, path: str | os.PathLike | None, *, colours: int = 0) -> Figure:
    """Writes `figure` to `path` (folders are made; None writes nothing) and returns it.

    Args:
        figure: what to write.
        path: of the PNG.
        colours: so many different ones at most (2 to 256), for a picture with photographs in it: a
            quarter of the size; 0: all.
    """
    if path is None:
        return figure
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    if not colours:
        _draw(figure, path)
        return figure
    drawn = io.BytesIO()
    _draw(figure, drawn)
    image = PIL.Image.open(drawn).convert('RGB')
    image.quantize(colours, dither=PIL.Image.Dither.NONE).save(path, 'PNG', optimize=True)
    return figure
