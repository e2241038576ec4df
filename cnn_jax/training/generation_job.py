"""Defines runs that train image generators: their networks and steps."""

import dataclasses
import os
import pathlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cnn_jax import data, models
from cnn_jax.data.dataset import normalize
from cnn_jax.errors import UserError
from cnn_jax.training import generation
from cnn_jax.training.devices import Devices
from cnn_jax.training.frechet import check_count, num_features
from cnn_jax.training.generation_config import GenerateConfig
from cnn_jax.training.generation_evaluation import MOST, GenerationEvaluator
from cnn_jax.training.job import BaseJob, common_parts, load_data
from cnn_jax.training.saved import SavedRun, load_run
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState, init_state
from cnn_jax.training.step import Step
from cnn_jax.training.weights import read_weights
from cnn_jax.training.workdir import Workdir, read_config


@dataclasses.dataclass(frozen=True)
class GenerationJob(BaseJob):
    """The base class of jobs that train autoencoders and GANs.

    Attributes:
        folder: the folder of the run, to which pictures are written.
        classifier: the run whose classifier rates the images, or None.
        draws: whether the model can generate images from noise.
        encodes: whether the model can encode images.
    """

    config: GenerateConfig
    folder: pathlib.Path
    classifier: SavedRun | None

    draws: ClassVar[bool]
    encodes: ClassVar[bool]

    @property
    def latent(self) -> int:
        """The number of dimensions of a code."""
        raise NotImplementedError

    def paint(self, params: Arrays, model_state: Arrays, codes: jax.Array) -> jax.Array:
        """Decodes codes (N, latent) to images in [0, 1]; traceable."""
        raise NotImplementedError

    def encode(self, params: Arrays, model_state: Arrays, inputs: jax.Array) -> jax.Array:
        """Encodes raw images to codes (N, latent); traceable."""
        raise NotImplementedError

    def distribution(self, params: Arrays, model_state: Arrays, inputs: jax.Array) -> jax.Array:
        """Encodes raw images to means and log variances (N, 2 * latent), of a VAE; traceable."""
        raise NotImplementedError

    def example_sums(
        self, params: Arrays, model_state: Arrays, key: jax.Array, batch: Arrays
    ) -> dict[str, jax.Array]:
        """Returns sums of metrics over the examples of an evaluation batch; traceable."""
        raise NotImplementedError

    def evaluator(self) -> GenerationEvaluator:
        return GenerationEvaluator(self)


@dataclasses.dataclass(frozen=True)
class AutoencoderJob(GenerationJob):
    """A job that trains an autoencoder or a VAE."""

    net: FunctionalModel

    encodes = True

    @property
    def draws(self) -> bool:
        return self.config.model == 'vae'

    @property
    def latent(self) -> int:
        inputs = self.dataset.splits['train'].inputs[:1]
        return jax.eval_shape(self.encode, self.net.params, self.net.model_state, inputs).shape[-1]

    @property
    def num_parameters(self) -> dict[str, int]:
        return {self.config.model: self.net.num_parameters}

    def _init(self) -> TrainState:
        state = init_state(self.net, self.optimizer, self.config.seed)
        arrays = state.params | state.model_state
        return state._replace(ema=jax.tree.map(jnp.copy, arrays) if self.config.ema else None)

    def step(self) -> Step:
        config = self.config
        return generation.autoencoder_step(
            self.net, self.optimizer, self.schedule, ema=config.ema, seed=config.seed
        )

    def paint(self, params: Arrays, model_state: Arrays, codes: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(self._model(params, model_state).decode(codes))

    def encode(self, params: Arrays, model_state: Arrays, inputs: jax.Array) -> jax.Array:
        return self._model(params, model_state).encode(normalize(inputs))

    def distribution(self, params: Arrays, model_state: Arrays, inputs: jax.Array) -> jax.Array:
        both = self._model(params, model_state).distribution(normalize(inputs))
        return jnp.concatenate(both, axis=-1)

    def example_sums(
        self, params: Arrays, model_state: Arrays, key: jax.Array, batch: Arrays
    ) -> dict[str, jax.Array]:
        """Sums the loss and its terms (nats per image), and each image's mean squared error."""
        model, images = self._model(params, model_state), normalize(batch['inputs'])
        terms = model.loss_terms(images, key)
        error = (jax.nn.sigmoid(model(images)) - images) ** 2
        each = {'loss': sum(terms.values())} | terms
        each['squared_error'] = error.mean(range(1, images.ndim))
        weights = batch['weights']
        return {n: jnp.where(weights > 0, value, 0.0).sum() for n, value in each.items()}

    def _model(self, params: Arrays, model_state: Arrays) -> Any:
        model = self.net.merge(params, model_state)
        model.eval()
        return model


@dataclasses.dataclass(frozen=True)
class GanJob(GenerationJob):
    """A job that trains a GAN."""

    nets: dict[str, FunctionalModel]

    losses = ('discriminator_loss', 'generator_loss')
    draws = True
    encodes = False

    @property
    def latent(self) -> int:
        return self.nets['generator'].model.input_shape[0]

    @property
    def num_parameters(self) -> dict[str, int]:
        return {player: net.num_parameters for player, net in self.nets.items()}

    def _init(self) -> TrainState:
        config = self.config
        return generation.init_gan_state(self.nets, self.optimizer, config.seed, ema=config.ema > 0)

    def step(self) -> Step:
        config = self.config
        return generation.gan_step(
            self.nets,
            self.optimizer,
            self.schedule,
            ema=config.ema,
            seed=config.seed,
        )

    def paint(self, params: Arrays, model_state: Arrays, codes: jax.Array) -> jax.Array:
        """Decodes codes; batch norm uses running averages, so an image depends only on its code."""
        own = (generation.of_player(arrays, 'generator') for arrays in (params, model_state))
        return (self.nets['generator'].predict(*own, codes) + 1) / 2

    def example_sums(
        self, params: Arrays, model_state: Arrays, key: jax.Array, batch: Arrays
    ) -> dict[str, jax.Array]:
        """Sums the probability of being real that the discriminator assigns to each example."""
        del key
        own = (generation.of_player(arrays, 'discriminator') for arrays in (params, model_state))
        images = normalize(batch['inputs']) * 2 - 1
        real = jax.nn.sigmoid(self.nets['discriminator'].predict(*own, images)[:, 0])
        return {'real': jnp.where(batch['weights'] > 0, real, 0.0).sum()}


def make_generation_job(config: GenerateConfig, folder: pathlib.Path) -> GenerationJob:
    """Builds the job of a configuration.

    Raises:
        ValueError, TypeError, OSError: the configuration is invalid; nothing has run yet.
    """
    devices = Devices.all()
    devices.check_batch(config.batch_size)
    dataset = load_data(config)
    if dataset.kind != 'image':
        raise UserError(f'dataset={config.dataset!r}: must be images, not {dataset.kind}')
    if config.mixture > len(dataset.splits['train']):
        raise UserError(
            f'mixture={config.mixture}: must be at most the number of training images, '
            f'{len(dataset.splits["train"])}'
        )
    nets = make_nets(config, dataset)
    common = common_parts(config, dataset, devices)
    common |= {'folder': folder, 'classifier': _classifier(config, dataset)}
    if config.model == 'dcgan':
        return GanJob(nets=nets, **common)
    return AutoencoderJob(net=nets[config.model], **common)


def load_network(
    path: str | os.PathLike,
    config: GenerateConfig,
    *,
    averaged: bool = False,
    step: int | str | None = None,
) -> tuple[Any, data.Dataset, int]:
    """Reads the network of a run that makes images, without changing anything in its folder.

    Args:
        path: the working folder.
        config: the configuration; its dtype and kernel may differ from those of the training.
        averaged: whether to read the moving averages of its arrays.
        step: the step of the checkpoint, or 'best'; None means the newest undamaged checkpoint.

    Returns:
        The generator of a GAN, else the model; the data set, without examples if the folder
        describes it; and the step.

    Raises:
        ValueError: see `weights.read_weights`.
        OSError: the data set is not available.
    """
    weights, found = read_weights(path, averaged=averaged, step=step)
    dataset = Workdir(path, read_config(path)).described() or load_data(config)
    name = config.model
    if name == 'dcgan':
        name, weights = 'generator', generation.of_player(weights, 'generator')
    net = make_nets(config, dataset)[name]
    own = ({n: weights[n] for n in kind} for kind in (net.params, net.model_state))
    return net.merge(*own), dataset, found


def make_nets(config: GenerateConfig, dataset: data.Dataset) -> dict[str, FunctionalModel]:
    """Returns the networks by name: the model itself, or generator and discriminator."""
    chosen = config.read_model_options()
    prefix = 'dcgan_' if config.model == 'dcgan' else ''
    names = generation.PLAYERS if prefix else (config.model,)
    known = {name: models.options(prefix + name) for name in names}
    every = {option for options in known.values() for option in options}
    if unknown := sorted(set(chosen) - every):
        raise UserError(
            f'model_options: {config.model} has no option {", ".join(unknown)}; it has '
            f'{", ".join(sorted(every))}'
        )

    def net(name: str) -> FunctionalModel:
        return FunctionalModel(
            lambda rngs: models.create(
                prefix + name,
                input_shape=dataset.input_shape,
                num_classes=dataset.num_classes,
                rngs=rngs,
                dtype=jnp.dtype(config.dtype),
                implementation=config.implementation or None,
                kind=dataset.kind,
                **{n: value for n, value in chosen.items() if n in known[name]},
            )
        )

    return {name: net(name) for name in names}


def _classifier(config: GenerateConfig, dataset: data.Dataset) -> SavedRun | None:
    if not config.classifier_workdir:
        return None
    try:
        run = load_run(config.classifier_workdir, data_dir=config.data_dir)
    except UserError as error:
        raise UserError(f'classifier_workdir: {error}') from error
    mine, its = ((d.input_shape, d.class_names) for d in (dataset, run.dataset))
    if mine != its:
        raise UserError(
            f'classifier_workdir={config.classifier_workdir!r}: was trained on '
            f'{run.dataset.name}, whose image shape or classes differ from {dataset.name}'
        )
    try:
        size = num_features(run)
        for split in dataset.splits.keys() - {'train'}:
            check_count(min(MOST, len(dataset.splits[split])), size)
    except UserError as error:
        raise UserError(f'classifier_workdir={config.classifier_workdir!r}: {error}') from error
    return run
