"""How a depthwise convolution is cut into steps and tiles that fit into VMEM and registers."""

from typing import NamedTuple

import jax.numpy as jnp

from cnn_jax.ops.spec import ConvSpec

LANES = 128  # features in a register
SUBLANES = 8  # images in a register of float32; twice as many in one of bfloat16
REGISTERS = 28  # of the sums of a tile, of the 64 that there are
BUDGET = 32 << 20  # bytes of VMEM that a step may use, with both buffers of each block


class Tiling(NamedTuple):
    """Images, features and rows of the output in one step of the grid."""

    images: int
    features: int
    rows: int

    def blocks(self, spec: ConvSpec) -> tuple[int, int]:
        """Returns the number of blocks along the batch and the features."""
        return spec.batch // self.images, spec.in_features // self.features

    def grid(self, spec: ConvSpec) -> tuple[int, int, int]:
        """Returns the number of blocks of features, images and rows."""
        images, features = self.blocks(spec)
        return features, images, -(-spec.output_size[0] // self.rows)

    def padded(self, spec: ConvSpec) -> tuple[int, int, int, int]:
        """Returns the shape of the padded rows that a step reads."""
        rows = self.rows + spec.dilated_window[0] - 1
        return rows, spec.padded_size[1], self.images, self.features

    def rows_read(self, spec: ConvSpec) -> int:
        """Returns the number of rows of the input that a step reads."""
        return min(spec.input_size[0], self.rows + spec.dilated_window[0] - 1)

    def tile(self, spec: ConvSpec) -> tuple[int, int]:
        """Returns the rows and columns of the output whose sums are in registers together."""
        positions = max(1, REGISTERS // (_padded(self.images, SUBLANES) // SUBLANES))
        columns = min(spec.output_size[1], positions)
        return min(self.rows, positions // columns), columns

    def bytes(self, spec: ConvSpec) -> int:
        """Returns the bytes of VMEM that a step uses."""
        size = jnp.dtype(spec.dtype).itemsize
        column = _padded(self.images, SUBLANES * 4 // size) * _padded(self.features, LANES)
        x = self.rows_read(spec) * spec.input_size[1]
        y = self.rows * spec.output_size[1]
        rows, width, *_ = self.padded(spec)
        taps = spec.window[0] * spec.window[1]
        return column * (2 * size * (x + y) + 4 * (rows * width + taps))


def cut(spec: ConvSpec) -> Tiling:
    """Returns the tiling with the most rows that fits the budget, or with one row if none fits."""
    sublanes = SUBLANES * 4 // jnp.dtype(spec.dtype).itemsize
    images = next((n for n in (sublanes, SUBLANES) if spec.batch % n == 0), spec.batch)
    features = LANES if spec.in_features % LANES == 0 else spec.in_features
    height = spec.output_size[0]
    for blocks in range(1, height + 1):
        tiling = Tiling(images, features, -(-height // blocks))
        if tiling.bytes(spec) <= BUDGET:
            break
    return tiling


def _padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
