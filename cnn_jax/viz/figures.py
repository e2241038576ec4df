"""Figures without global state: matplotlib's object interface and nothing else."""

import io
import os

import numpy as np
import PIL.Image
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches whose parts do not overlap."""
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
        figure.savefig(path, dpi=figure.dpi)
        return figure
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=figure.dpi)
    image = PIL.Image.open(drawn).convert('RGB')
    image.quantize(colours, dither=PIL.Image.Dither.NONE).save(path, 'PNG', optimize=True)
    return figure
