"""TextCNN: convolutions over word vectors, the maximum over time, one dense layer.

Kim 2014, "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882 (CNN-rand,
or CNN-non-static if `model.embed` is set to pretrained word vectors). With the paper's sizes
(300-dimensional vectors, 100 filters for each of the windows 3, 4, 5) there are 360,300 parameters
in the convolutions, 301 per class, and 300 per word.

    | input                        | classes | parameters | MACs   |
    |------------------------------|---------|------------|--------|
    | 64 words, vocabulary 10,000  |       6 |  3,362,106 | 21.9 M |
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import LayerFactory, Model


class TextCNN(Model):
    """`model(ids)` maps int (N, length) to float32 logits (N, num_classes).

    Records the feature maps `embed` (N, length, embedding), `conv<w>` (N, positions, filters),
    `features` (N, all filters) and `logits`. `conv<w>` is the response of every filter of window w
    to every n-gram.
    """

    def __init__(
        self,
        embed: nnx.Embed,
        convs: dict[int, nn.Conv],
        dropout: nnx.Dropout,
        dense: nnx.Linear,
        *,
        pad_id: int | None,
        input_shape: Sequence[int],
        num_classes: int,
    ):
        super().__init__(input_shape, num_classes)
        self.embed = embed
        self.windows = tuple(convs)
        for window, conv in convs.items():
            setattr(self, f'conv{window}', conv)
        self.dropout = dropout
        self.logits = dense
        self.pad_id = pad_id

    def __call__(
        self, ids: jax.Array, *, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        self.check_input(ids)
        maps: dict[str, Any] = {'embed': self.embed(ids)}
        if self.pad_id is not None:
            maps['embed'] *= (ids != self.pad_id)[..., None]
        pooled = []
        for window in self.windows:
            maps[f'conv{window}'] = nnx.relu(getattr(self, f'conv{window}')(maps['embed']))
            pooled.append(maps[f'conv{window}'].max(axis=1))
        maps['features'] = jnp.concatenate(pooled, axis=-1)
        maps['logits'] = self.logits(self.dropout(maps['features']))
        if intermediates is not None:
            intermediates.update(maps)
        return maps['logits'].astype(jnp.float32)


def textcnn(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    vocabulary_size: int | None = None,
    embedding: int = 300,
    windows: Sequence[int] = (3, 4, 5),
    filters: int = 100,
    dropout: float = 0.5,
    pad_id: int | None = 0,
) -> TextCNN:
    """Makes TextCNN.

    Args:
        vocabulary_size: number of token ids; required.
        embedding: length of a word vector.
        windows: window sizes of the filters in words, without repetition.
        filters: number of filters per window size.
        dropout: rate before the dense layer.
        pad_id: the id that pads short texts, whose vector is set to zero; None means no padding id.
    """
    if vocabulary_size is None or vocabulary_size < 1:
        raise UserError(
            f'vocabulary_size={vocabulary_size} must be given: the number of token ids of the data'
        )
    windows = tuple(windows)
    if len(set(windows)) != len(windows) or not windows or min(windows) < 1:
        raise UserError(f'windows={windows} must be different positive numbers of words')
    if input_shape[0] < max(windows):
        raise UserError(
            f'a text of {input_shape[0]} words is too short for windows={windows}; the shortest '
            f'that works is {max(windows)}'
        )
    return TextCNN(
        make.embed(vocabulary_size, embedding, embedding_init=_uniform),
        {window: make.conv(embedding, filters, (window,), padding='VALID') for window in windows},
        make.dropout(dropout),
        make.linear(filters * len(windows), num_classes),
        pad_id=pad_id,
        input_shape=input_shape,
        num_classes=num_classes,
    )


def _uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Draws word vectors as Kim does: uniform in [-0.25, 0.25), about word2vec's variance."""
    return jax.random.uniform(key, tuple(shape), dtype, -0.25, 0.25)
