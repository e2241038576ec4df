"""Figures without global state, through matplotlib's object interface alone."""

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
    """Creates a figure of `width` x `height` inches whose parts do not overlap."""
    _use_fonts()
    return Figure(figsize=(width, height), dpi=DPI, layout='constrained')


def log_ticks(axis: Axis, most: int = 12) -> None:
    """Labels a logarithmic axis with at most about `most` plain numbers; call it after drawing."""
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
    """Escapes a name so that matplotlib draws it literally, without formulas between `$`."""
    return printable(name).replace('$', r'\$')


@functools.cache
def _use_fonts() -> None:
    """Adds installed fonts for CJK and other scripts as fallbacks to matplotlib's own font."""
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
        'some names contain characters that no installed font has; they are drawn as boxes',
        stacklevel=4,
    )


def _draw(figure: Figure, target: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        figure.draw_without_rendering()
        figure.set_layout_engine('none')  # savefig would lay the figure out once more
        figure.savefig(target, dpi=figure.dpi)
    for each in caught:
        if 'missing from font' in str(each.message) or 'missing from current font' in str(
            each.message
        ):
            _warn_of_missing_glyphs()
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def save(figure: Figure, path: str | os.PathLike | None, *, colours: int = 0) -> Figure:
    """Writes `figure` to `path`, creating folders as needed, and returns it.

    Args:
        figure: the figure to write.
        path: where to write the PNG; None writes nothing.
        colours: maximum number of different colours (2 to 256), which makes a picture with
            photographs about four times smaller; 0 means no limit.
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
