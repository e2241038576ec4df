"""U-Net, for semantic segmentation.

Ronneberger, Fischer & Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
arXiv:1505.04597. A contracting path of convolutions and pools, and an expanding path of 2 x 2
transposed convolutions of stride 2, each followed by the features of the same size from the
contracting path (skip connections).

The paper's convolutions have no padding, so its output is smaller than its input (572 -> 388
pixels); that is `padding='valid'`. By default the convolutions keep the size. Differences from the
paper: no dropout at the end of the contracting path, and batch norm as an option.

    | input         | classes | padding | parameters |
    |---------------|---------|---------|------------|
    | 572 x 572 x 1 |       2 | valid   | 31,030,658 | the paper's figure 1
    | 512 x 512 x 3 |      21 | same    | 31,033,045 |
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import LayerFactory
from cnn_jax.models.segmenter import Segmenter, centre

# Section 3: normal with variance 2 / fan_in.
INIT = nnx.initializers.variance_scaling(2.0, 'fan_in', 'normal')


class UNet(Segmenter):
    """U-Net of any depth; see `Segmenter` for the call.

    Args:
        down: the two convolutions of each level of the contracting path, from the top.
        bottom: the two convolutions at the lowest resolution.
        up: for each level, from the top, the transposed convolution that doubles the size and the
            two convolutions after it.
        pool: halves the size.
        logits: the last convolution.
        input_shape: shape of one image.
        num_classes: number of logits per pixel.
    """

    def __init__(
        self,
        down: Sequence[nn.Layers],
        bottom: nn.Layers,
        up: Sequence[tuple[nn.ConvTranspose, nn.Layers]],
        pool: nn.MaxPool,
        logits: nn.Conv,
        input_shape: Sequence[int],
        num_classes: int,
    ):
        super().__init__(input_shape, num_classes)
        self.depth = len(down)
        for level, (before, (upsample, after)) in enumerate(zip(down, up, strict=True), start=1):
            setattr(self, f'down{level}', before)
            setattr(self, f'upsample{level}', upsample)
            setattr(self, f'up{level}', after)
        self.bottom = bottom
        self.pool = pool
        self.logits = logits

    def __call__(
        self, x: jax.Array, *, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        self.check_input(x)

        def keep(name: str, value: jax.Array) -> jax.Array:
            if intermediates is not None:
                intermediates[name] = value
            return value

        def apply(name: str, value: jax.Array) -> jax.Array:
            return keep(name, getattr(self, name)(value, nn.layers.within(intermediates, name)))

        skips = []
        for level in range(1, self.depth + 1):
            x = apply(f'down{level}', x)
            skips.append(x)
            x = keep(f'pool{level}', self.pool(x))
        x = apply('bottom', x)
        for level in range(self.depth, 0, -1):
            x = keep(f'upsample{level}', getattr(self, f'upsample{level}')(x))
            x = jnp.concatenate([centre(skips.pop(), x.shape[1:3]), x], axis=-1)
            x = apply(f'up{level}', x)
        return keep('logits', self.logits(x)).astype(jnp.float32)


def unet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    width: int = 64,
    depth: int = 4,
    padding: str = 'same',
    batch_norm: bool = False,
) -> UNet:
    """Makes U-Net.

    Args:
        width: channels of the first level; each lower level has twice as many as the one above.
        depth: number of pools, and of transposed convolutions.
        padding: 'same' keeps the size of the image, which must be a multiple of 2**depth; 'valid'
            is the paper's, whose output is smaller.
        batch_norm: whether batch norm follows every 3 x 3 convolution, which then has no bias.

    Raises:
        UserError: an option is invalid, or the size of the image does not fit.
    """
    if depth < 1 or width < 1:
        raise UserError(f'depth={depth} and width={width} must be at least 1')
    if padding not in ('same', 'valid'):
        raise UserError(f"padding={padding!r} must be 'same' or 'valid'")
    for side in input_shape[:2]:
        _check_side(side, depth, padding)

    def two(channels: int, features: int) -> nn.Layers:
        layers: dict[str, Any] = {}
        for i, inputs in enumerate((channels, features), start=1):
            layers[f'conv{i}'] = make.conv(
                inputs,
                features,
                (3, 3),
                padding=1 if padding == 'same' else 0,
                use_bias=not batch_norm,
                kernel_init=INIT,
            )
            if batch_norm:
                layers[f'bn{i}'] = make.batch_norm(features)
            layers[f'relu{i}'] = nnx.relu
        return nn.Layers(layers)

    widths = [width * 2**level for level in range(depth + 1)]
    down = [
        two(channels, features)
        for channels, features in zip([input_shape[-1], *widths[:-2]], widths[:-1], strict=True)
    ]
    bottom = two(widths[-2], widths[-1])
    up = [
        (
            make.conv_transpose(
                2 * features, features, (2, 2), strides=2, padding=0, kernel_init=INIT
            ),
            two(2 * features, features),
        )
        for features in widths[:-1]
    ]
    logits = make.conv(width, num_classes, (1, 1), kernel_init=INIT)
    return UNet(down, bottom, up, make.max_pool((2, 2)), logits, input_shape, num_classes)


def output_side(side: int, depth: int, padding: str) -> int:
    """Returns the height or width of the output for that of the input; 0 if it does not fit.

    Every pool must halve an even size, as in section 2 of the paper.
    """
    lost = 4 if padding == 'valid' else 0  # by two 3 x 3 convolutions
    for _ in range(depth):
        side -= lost
        if side < 2 or side % 2:
            return 0
        side //= 2
    side -= lost
    for _ in range(depth):
        if side < 1:
            return 0
        side = 2 * side - lost
    return max(side, 0)


def _check_side(side: int, depth: int, padding: str) -> None:
    if output_side(side, depth, padding):
        return
    fitting = (n for n in range(side + 1, side + 1000 * 2**depth) if output_side(n, depth, padding))
    unit, larger = 2**depth, next(fitting)
    smaller = larger - unit  # sizes that fit differ by multiples of 2**depth
    choices = f'{smaller} or {larger}' if output_side(smaller, depth, padding) else str(larger)
    raise UserError(
        f'an image side of {side} pixels does not fit depth={depth} and padding={padding!r}, whose '
        f'pools halve even sizes; it must be {choices}, or another multiple of {unit} away'
    )
