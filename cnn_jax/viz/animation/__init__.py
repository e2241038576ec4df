"""Animations of convolutions, transposed convolutions and their gradients, with numbers.

`scene` computes with the package; `products` lists what each step multiplies and adds; `layout` and
`drawing` make pictures of it, and `writing` files.
"""

import base64
import dataclasses
import functools
import html
import os
from typing import Any

import numpy as np
from PIL import Image

from cnn_jax.errors import UserError
from cnn_jax.ops import checks
from cnn_jax.viz.animation import products, writing
from cnn_jax.viz.animation.drawing import Painter
from cnn_jax.viz.animation.products import Frame
from cnn_jax.viz.animation.scene import Scene, compute, plan

MAX_FRAMES = 200


@dataclasses.dataclass(frozen=True, repr=False)
class Animation:
    """Steps of a map and their pictures; a notebook displays it.

    Attributes:
        scene: the convolution, its operands, and the result that the package computed.
        frames: the steps, see `products.Frame`.
        fps: steps per second.
    """

    scene: Scene
    frames: list[Frame]
    fps: float

    @functools.cached_property
    def images(self) -> list[Image.Image]:
        """One RGB picture per step."""
        return list(Painter(self.scene, self.frames).images())

    def save(self, path: str | os.PathLike) -> None:
        """Writes a .gif, an .mp4 (needs ffmpeg), or PNG files into a folder; see `write`."""
        writing.write(self.images, path, self.fps)

    def __repr__(self) -> str:
        return f'<Animation of {self.scene.title}: {len(self.frames)} steps>'

    def _repr_html_(self) -> str:
        data = base64.b64encode(writing.gif(self.images, self.fps)).decode()
        return f'<img src="data:image/gif;base64,{data}" alt="{html.escape(self.scene.title)}">'


def animate(
    size,
    window,
    *,
    channel: int | None = None,
    fps: float = 2.0,
    max_frames: int = MAX_FRAMES,
    **arguments: Any,
) -> Animation:
    """Shows step by step how a convolution, or a gradient of it, is computed.

        cnn_jax.viz.animate((5, 5), (3, 3), strides=2, padding=1)
        cnn_jax.viz.animate((3, 3), (3, 3), strides=2, padding=1, transposed=True)
        cnn_jax.viz.animate((5, 5), (3, 3), op='filter_grad', padding='VALID')

    Args:
        size, window: an int, or one per spatial axis; 1 or 2 axes.
        channel: show only the steps of this channel: of the result or, where its elements are
            scattered, of the operand; of the last axis of dw (the first, if transposed).
        fps: steps per second.
        max_frames: the most steps that are drawn.
        strides, padding, dilation, groups, padding_mode, input_dilation: as in `conv`.
        transposed: show `conv_transpose`, with PyTorch's meaning of `padding`.
        output_padding: as in `conv_transpose`.
        op: 'forward', 'input_grad' or 'filter_grad'.
        view: for a transposed convolution, or the input gradient of a convolution: 'gather' shows
            the sum that gives each element of the result, as a convolution of an input with holes;
            'scatter' shows where each element of the input is added. By default, the transposed
            convolution gathers and the gradient scatters.
        in_features, out_features: numbers of features; by default `groups` each.
        x: (*size, in_features) and
        kernel: (*window, in_features // groups, out_features): numbers to compute with, instead
            of small random integers; features of 1 may be left out.
        seed: of the random integers.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    if not isinstance(fps, int | float) or not 0 < fps <= 50:
        raise UserError(f'fps must be more than 0 and at most 50, got {fps!r}')
    planned = plan(size, window, **arguments)
    if channel is not None:
        last = planned.spec.out_features
        if checks.integer(channel, 'channel', 0) >= last:
            raise UserError(f'channel must be less than {last}, got {channel}')
    steps = products.count(planned.spec, planned.shown, channel)
    if steps > checks.integer(max_frames, 'max_frames', 1):
        raise UserError(
            f'{steps} steps are more than max_frames={max_frames}: choose a smaller size, larger '
            f'strides or one channel, or raise max_frames'
        )
    scene = compute(planned)
    frames = products.frames(
        scene.spec, scene.op, *scene.operands, padding_mode=scene.padding_mode, channel=channel
    )
    if channel is None:  # the pictures show what the package computed
        sums = products.assemble(frames, scene.result.shape)
        np.testing.assert_allclose(sums, scene.result, 1e-4, 1e-4 * np.abs(sums).max(initial=1))
    return Animation(scene, frames, fps)
