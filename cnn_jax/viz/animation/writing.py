"""Writes pictures as a GIF, an MP4 or a folder of PNG files, each completely or not at all."""

import io
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

import numpy as np
from matplotlib.animation import FFMpegWriter
from matplotlib.figure import Figure
from PIL import Image

from cnn_jax.errors import UserError
from cnn_jax.output import write_whole

COLOURS = 64
LAST = 3  # how many times as long the last picture stays


def check_output(path: str | os.PathLike) -> None:
    """Raises a UserError if `write` cannot write to `path`."""
    given, suffix = os.fspath(path), pathlib.Path(path).suffix
    if suffix == '.mp4' and not FFMpegWriter.isAvailable():
        raise UserError(
            f'output={given!r}: MP4 needs ffmpeg, which matplotlib does not find; install it, or '
            f'write a .gif'
        )
    if not _is_folder(path):
        if suffix not in ('.gif', '.mp4'):
            raise UserError(f'output={given!r}: must end with .gif or .mp4, or be a folder')
        if os.path.isdir(path):
            raise UserError(f'output={given!r} is a folder')
    elif os.path.lexists(path):
        folder = pathlib.Path(path)
        if not folder.is_dir() or any(not _is_frame(p) for p in folder.iterdir()):
            raise UserError(f'output={given!r}: exists, and is not a folder of frames alone')


def write(images: Sequence[Image.Image], path: str | os.PathLike, fps: float) -> None:
    """Writes a GIF (.gif), a video (.mp4), or numbered PNG files into a folder (no suffix).

    A folder that has only such files is replaced.

    Raises:
        UserError: see `check_output`.
    """
    check_output(path)
    if _is_folder(path):
        _write_folder(images, pathlib.Path(path))
        return
    data = gif(images, fps) if pathlib.Path(path).suffix == '.gif' else mp4(images, fps)
    with write_whole(path, 'wb') as file:
        file.write(data)


def gif(images: Sequence[Image.Image], fps: float) -> bytes:
    """Returns an animated GIF that repeats for ever; its pictures share one palette."""
    middle = images[len(images) // 2].quantize(COLOURS, Image.Quantize.MAXCOVERAGE)  # keeps white
    pages = [i.quantize(palette=middle, dither=Image.Dither.NONE) for i in images]
    durations = [round(1000 / fps)] * len(pages)
    durations[-1] *= LAST
    file = io.BytesIO()
    pages[0].save(file, 'GIF', save_all=True, append_images=pages[1:], duration=durations, loop=0)
    return file.getvalue()


def mp4(images: Sequence[Image.Image], fps: float) -> bytes:
    """Returns a video, encoded by the ffmpeg that matplotlib finds."""
    width, height = images[0].size
    figure = Figure((width / 100, height / 100), dpi=100)
    writer = FFMpegWriter(fps=fps)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / 'video.mp4'
        with writer.saving(figure, str(file), 100):
            for image in [*images, *[images[-1]] * (LAST - 1)]:
                figure.clear()
                figure.figimage(np.asarray(image))
                writer.grab_frame()
        return file.read_bytes()


def _write_folder(images: Sequence[Image.Image], folder: pathlib.Path) -> None:
    folder = folder.resolve()
    temporary = folder.with_name(f'.{folder.name}.{os.getpid()}')
    try:
        temporary.mkdir(parents=True)
        digits = max(3, len(str(len(images))))
        for i, image in enumerate(images, 1):
            image.save(temporary / f'frame_{i:0{digits}}.png', optimize=True)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _is_folder(path: str | os.PathLike) -> bool:
    return os.fspath(path).endswith(('/', os.sep)) or not pathlib.Path(path).suffix


def _is_frame(path: pathlib.Path) -> bool:
    return path.match('frame_*.png')
