"""A trained network as one pure function of raw inputs, without batch norm and dropout."""

import dataclasses
import inspect
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax.data.dataset import normalize
from cnn_jax.errors import UserError
from cnn_jax.export import metadata
from cnn_jax.export.fold import fold_batch_norm
from cnn_jax.models import Model
from cnn_jax.nn.layers import Intermediates
from cnn_jax.ops.dispatch import use_implementation
from cnn_jax.training import load_run, make_net, read_config
from cnn_jax.training.generation_config import GenerateConfig
from cnn_jax.training.generation_job import load_network
from cnn_jax.training.objectives import Objective
from cnn_jax.training.state import Arrays, named

# (model, raw inputs, intermediates or None) -> outputs
Call = Callable[[Any, jax.Array, Intermediates | None], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)  # hashable, for jax.jit
class Inference:
    """A trained network as a function for use outside of this package.

        infer = load_inference('runs/first')
        probabilities = jax.jit(infer)(images)      # uint8 (N, 8, 8, 1) to float32 (N, 10)

    The function consists of standard operations of JAX: convolutions and pools are XLA's own.

    Attributes:
        apply: (weights, raw inputs, intermediates=None) -> float32 outputs; traceable. A dict given
            as `intermediates` receives the result of every layer, if the model records them.
        weights: name -> array, as in `FunctionalModel.params`.
        example: shape and dtype of one raw input, without the batch axis.
        about: what the function is, JSON-serialisable; see `metadata.describe`.
    """

    apply: Callable[..., jax.Array]
    weights: Arrays
    example: jax.ShapeDtypeStruct
    about: dict[str, Any]

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps raw inputs (N, *example.shape) to float32 outputs (N, ...)."""
        return self.apply(self.weights, inputs)


def make_inference(
    model: nnx.Module, call: Call, example: jax.ShapeDtypeStruct, about: dict[str, Any]
) -> Inference:
    """Returns the inference function of a model; see `Inference` for `example` and `about`.

    Args:
        model: a model with concrete arrays; it is not changed.
        call: function of a model in evaluation mode, raw inputs (N, *example.shape), and a dict for
            intermediate results or None, which returns the outputs.

    Raises:
        UserError: the model does not return one array.
    """
    model = fold_batch_norm(model)
    model.eval()
    graph, random, state = nnx.split(model, nnx.RngState, ...)  # type: ignore[misc]
    weights, structure = named(state), jax.tree.structure(state)
    names = list(weights)

    def apply(
        weights: Arrays, inputs: jax.Array, intermediates: Intermediates | None = None
    ) -> jax.Array:
        state = jax.tree.unflatten(structure, [weights[name] for name in names])
        model = nnx.merge(graph, random, state)
        size = inputs.shape[1:]
        if isinstance(model, Model) and not all(isinstance(n, int) for n in size):
            model.input_shape = size  # a symbolic size stands for many
        with use_implementation('lax', max_pool='reduce_window', avg_pool='reduce_window'):
            outputs = call(model, inputs, intermediates)
        if not isinstance(outputs, jax.Array):
            raise UserError(f'the model returns {type(outputs).__name__}; must be one array')
        return outputs.astype(jnp.float32)

    batch = jax.ShapeDtypeStruct((1, *example.shape), example.dtype)
    shape = jax.eval_shape(apply, weights, batch).shape
    output = about['output'] | {'shape': ['batch', *shape[1:]]}
    return Inference(apply, weights, example, about | {'output': output})


def load_inference(
    path: str | os.PathLike,
    *,
    step: int | str | None = None,
    averaged: bool = False,
    part: str = '',
) -> Inference:
    """Returns the inference function of the run in a folder.

    It computes in float32, whatever the dtype of the training. Its inputs are as stored in the data
    set: uint8 images, int16 or float32 waveforms, int32 token ids. Its outputs are

        classification     probabilities (N, classes), a softmax
        multilabel         probabilities (N, classes), a sigmoid each
        regression         values (N, values)
        segmentation       probabilities (N, H, W, classes), a softmax per pixel
        autoencoders       images (N, H, W, C) in [0, 1]

    Args:
        path: the working folder.
        step: the step of the checkpoint, or 'best'; None means the newest undamaged checkpoint.
        averaged: whether to use the moving average of the weights.
        part: for autoencoders and GANs: 'decode' maps codes (N, latent) to images, 'encode' images
            to codes, and 'reconstruct' images to images. The default, '', is 'reconstruct' for an
            autoencoder, else 'decode'. For other runs it must be ''.

    Raises:
        ValueError: the folder holds no run or no such checkpoint, the checkpoint is damaged, or the
            run has no such part.
    """
    config = read_config(path)
    if isinstance(config, GenerateConfig):
        return _of_generation(path, config, step=step, averaged=averaged, part=part)
    if part:
        raise UserError(f'part={part!r}: only autoencoders and GANs have parts')
    run = load_run(path, step=step, averaged=averaged, examples=False)
    net = make_net(_portable(run.config), run.dataset)
    model = net.merge(*jax.device_get((run.params, run.model_state)))

    def call(model: Any, inputs: jax.Array, intermediates: Intermediates | None) -> jax.Array:
        outputs = _call(model, run.dataset.normalize(inputs), intermediates)
        return outputs_of(run.objective, outputs)

    example = metadata.example(run.dataset)
    about = metadata.describe(path, run.config, run.dataset, example, run.step, averaged=averaged)
    return make_inference(model, call, example, about)


def outputs_of(objective: Objective, outputs: Any) -> Any:
    """Returns probabilities or values, for the outputs of a model; traceable."""
    # The predictions of segmentation are classes, without their probabilities.
    return jax.nn.softmax(outputs) if objective.dense else objective.predictions(outputs)


def _of_generation(
    path: str | os.PathLike,
    config: GenerateConfig,
    *,
    step: int | str | None,
    averaged: bool,
    part: str,
) -> Inference:
    is_gan = config.model == 'dcgan'
    calls = GAN if is_gan else AUTOENCODER
    part = part or ('reconstruct' if config.model == 'autoencoder' else 'decode')
    if part not in calls:
        raise UserError(f'part={part!r}: {config.model} has {" and ".join(calls)}')
    model, dataset, found = load_network(path, _portable(config), averaged=averaged, step=step)
    example = metadata.example(dataset)
    if part == 'decode':
        latent = model.input_shape[0] if is_gan else model.decoder.dense.in_features
        example = jax.ShapeDtypeStruct((latent,), np.dtype('float32'))
    about = metadata.describe(path, config, dataset, example, found, averaged=averaged, part=part)
    return make_inference(model, calls[part], example, about)


GAN: dict[str, Call] = {
    'decode': lambda model, codes, maps: (_call(model, codes, maps) + 1) / 2,
}
AUTOENCODER: dict[str, Call] = {
    'decode': lambda model, codes, maps: jax.nn.sigmoid(model.decode(codes, maps)),
    'encode': lambda model, images, maps: model.encode(normalize(images), maps),
    'reconstruct': lambda model, images, maps: jax.nn.sigmoid(
        _call(model, normalize(images), maps)
    ),
}


def _call(model: Any, inputs: jax.Array, intermediates: Intermediates | None) -> Any:
    if intermediates is None or 'intermediates' not in inspect.signature(model).parameters:
        return model(inputs)  # a user's own model may record nothing
    return model(inputs, intermediates=intermediates)


def _portable(config: Any) -> Any:
    """Returns a configuration in float32 without a kernel, which may exist only in this package."""
    return dataclasses.replace(config, dtype='float32', implementation='')
