"""Metrics of a whole split: exact sums, every example once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data import Dataset, Split
from cnn_jax.data.loader import evaluation_batches
from cnn_jax.training.devices import Devices
from cnn_jax.training.metrics import example_sums
from cnn_jax.training.state import Arrays, Net


class Evaluator:
    """Evaluates parameters on one split, as often as needed, with one compilation.

    Args:
        net: the model.
        dataset: for its normalisation.
        split: the examples.
        devices: a batch is shared out over them.
        batch_size: examples in a batch.
        flips: the logits of an image (H, W, C) are the mean of its own and its mirror image's.
    """

    def __init__(
        self,
        net: Net,
        dataset: Dataset,
        split: Split,
        devices: Devices,
        batch_size: int,
        flips=False,
    ):
        self._split, self._devices, self._batch_size = split, devices, batch_size

        def add_batch(sums, params, rest, batch):
            inputs = dataset.normalize(batch['inputs'])
            logits = net.predict(params, rest, inputs)
            if flips:
                logits = (logits + net.predict(params, rest, inputs[:, :, ::-1])) / 2
            new = example_sums(logits, batch['labels'], batch['weights'])
            return jax.tree.map(jnp.add, sums, new)

        self._add_batch = jax.jit(add_batch, donate_argnums=0, out_shardings=devices.replicated)
        one = jax.ShapeDtypeStruct((1,), jnp.float32)
        logits = jax.ShapeDtypeStruct((1, dataset.num_classes), jnp.float32)
        label = jax.ShapeDtypeStruct((1,), jnp.int32)
        shapes = jax.eval_shape(example_sums, logits, label, one)
        self._zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)

    def __call__(self, params: Arrays, rest: Arrays) -> dict[str, Any]:
        """Sums over the split, see `metrics.example_sums`; `metrics.summary` reads them."""
        sums = self._devices.put(self._zero)
        for batch in evaluation_batches(self._split, self._batch_size):
            sums = self._add_batch(sums, params, rest, self._devices.put_rows(batch))
        return jax.device_get(sums)
