"""Defines runs that train image generators: their networks, pictures and metrics."""

import dataclasses
import pathlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import data, models
from cnn_jax.data.dataset import normalize
from cnn_jax.data.loader import evaluation_batches
from cnn_jax.errors import UserError
from cnn_jax.training import generation
from cnn_jax.training.config import GenerateConfig
from cnn_jax.training.devices import Devices
from cnn_jax.training.evaluation import Evaluation
from cnn_jax.training.job import BaseJob, common_parts, load_data
from cnn_jax.training.prediction import in_batches, predictor
from cnn_jax.training.saved import SavedRun, load_run
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState, init_state
from cnn_jax.training.step import Step
from cnn_jax.viz import samples

MOST = 10_000  # maximum number of generated images; by default one per example
SHOWN = 64
PAIRS, BETWEEN = 5, 9  # rows and columns of interpolations
NOISE = 2**32 - 1  # folded into the seed; never equal to a step number, which the steps fold in

LIKELIHOOD = (
    'Bernoulli pixels: nats per image if each pixel is on at random, with its grey value as the '
    'probability'
)


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

    def example_sums(
        self, params: Arrays, model_state: Arrays, key: jax.Array, batch: Arrays
    ) -> dict[str, jax.Array]:
        """Returns sums of metrics over the examples of an evaluation batch; traceable."""
        raise NotImplementedError

    def evaluator(self) -> 'GenerationEvaluator':
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
        return init_state(self.net, self.optimizer, self.config.seed)

    def step(self) -> Step:
        return generation.autoencoder_step(
            self.net, self.optimizer, self.schedule, seed=self.config.seed
        )

    def paint(self, params: Arrays, model_state: Arrays, codes: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(self._model(params, model_state).decode(codes))

    def encode(self, params: Arrays, model_state: Arrays, inputs: jax.Array) -> jax.Array:
        return self._model(params, model_state).encode(normalize(inputs))

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
        return generation.init_gan_state(self.nets, self.optimizer, self.config.seed)

    def step(self) -> Step:
        return generation.gan_step(self.nets, self.optimizer, self.schedule, seed=self.config.seed)

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


class GenerationEvaluator:
    """Draws sample images of a model and computes its metrics."""

    def __init__(self, job: GenerationJob):
        self._job = job
        self._paint, self._encode = jax.jit(job.paint), jax.jit(job.encode)
        self._sums = jax.jit(job.example_sums)
        self._classify = predictor(job.classifier) if job.classifier else None
        self._key = jax.random.fold_in(jax.random.key(job.config.seed), NOISE)

    def evaluate(self, state: TrainState, step: int, split: str) -> Evaluation:
        """Draws samples and reconstructions, and computes the metrics on `split`."""
        found, shown = self._measure(state, split)
        samples.save_step(self._job.folder, step, step / self._job.steps_per_epoch, shown)
        metrics = {
            f'{split if group == "test" else group}_{name}': value
            for group, values in found.items()
            for name, value in values.items()
            if isinstance(value, float)
        }
        loss = found['test'].get('loss')
        return Evaluation(metrics, describe(found, split), None if loss is None else -loss)

    def final(self, state: TrainState, step: int) -> dict[str, Any]:
        """Computes the metrics on the test split and draws all pictures."""
        job = self._job
        found, _ = self._measure(state, 'test')
        result: dict[str, Any] = {'step': step, 'model': job.config.model}
        if job.config.model == 'vae':
            result['likelihood'] = LIKELIHOOD
        if self._classify:
            test = job.dataset.splits['test']
            found['images'] = self._judged(test.inputs[:MOST], test.labels[:MOST])
        result |= found
        samples.save_final(job.folder, self._interpolations(state), result, job.dataset.class_names)
        return result

    def _measure(
        self, state: TrainState, split: str
    ) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
        """Returns metrics by group (test, samples, reconstructions), and images to show."""
        job, examples = self._job, self._job.dataset.splits[split]
        found, shown = {'test': self._means(state, split)}, {}
        count = min(MOST, len(examples))
        if job.draws:
            images = self._images(state, jax.random.normal(self._key, (count, job.latent)))
            shown['samples'] = images[:SHOWN]
            if self._classify:
                found['samples'] = self._judged(images)
        if job.encodes:
            inputs = examples.inputs[: count if self._classify else SHOWN]
            images = self._images(state, self._codes(state, inputs))
            shown |= {'inputs': inputs[:SHOWN], 'reconstructions': images[:SHOWN]}
            if self._classify:
                found['reconstructions'] = self._judged(images, examples.labels[:count])
        return found, shown

    def _means(self, state: TrainState, split: str) -> dict[str, float]:
        job, sums = self._job, {}
        examples = job.dataset.splits[split]
        for number, batch in enumerate(evaluation_batches(examples, job.config.batch_size)):
            key = jax.random.fold_in(self._key, number)
            rows = job.devices.put_rows(batch)
            new = jax.device_get(self._sums(state.params, state.model_state, key, rows))
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in new.items()}
        return {name: value / len(examples) for name, value in sums.items()}

    def _judged(self, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, Any]:
        return judged(self._classify(images), labels)

    def _images(self, state: TrainState, codes: Any) -> np.ndarray:
        """Decodes codes to uint8 images, the format of the data sets."""
        paint = lambda part: self._paint(state.params, state.model_state, part)  # noqa: E731
        return np.rint(255 * in_batches(paint, jax.device_get(codes))).astype(np.uint8)

    def _codes(self, state: TrainState, inputs: np.ndarray) -> np.ndarray:
        encode = lambda part: self._encode(state.params, state.model_state, part)  # noqa: E731
        return in_batches(encode, inputs)

    def _interpolations(self, state: TrainState) -> np.ndarray:
        """Returns interpolations as uint8 images (PAIRS, BETWEEN, *image).

        If the model encodes, two more columns hold the test images at both ends.
        """
        job, test = self._job, self._job.dataset.splits['test']
        if not job.encodes:
            ends = jax.random.normal(jax.random.fold_in(self._key, NOISE), (2, PAIRS, job.latent))
        else:
            # Each pair is the first example of one class and the first example of the next class.
            classes = np.unique(test.labels)
            firsts = [int(np.argmax(test.labels == label)) for label in classes]
            rows = np.resize(firsts, 2 * PAIRS)
            images = np.stack([test.inputs[i : i + 1][0] for i in rows])
            ends = self._codes(state, images).reshape(PAIRS, 2, -1).swapaxes(0, 1)
        codes = generation.between(*ends, BETWEEN, sphere=not job.encodes)
        shape = job.dataset.input_shape
        found = self._images(state, codes.reshape(-1, job.latent)).reshape(PAIRS, BETWEEN, *shape)
        if not job.encodes:
            return found
        first, last = images.reshape(PAIRS, 2, 1, *shape).swapaxes(0, 1)
        return np.concatenate([first, found, last], axis=1)


def judged(probabilities: np.ndarray, labels: np.ndarray | None = None) -> dict[str, Any]:
    """Summarises the predictions of a classifier for images.

    Args:
        probabilities: (N, C), N at least 1.
        labels: (N,) int, the true classes, if known.

    Returns:
        A dictionary of count, confidence (mean of the highest probability), classes (number of
        images predicted per class), entropy (of the distribution over classes, in nats) and, if
        `labels` are given, accuracy.
    """
    best = probabilities.argmax(-1)
    counts = np.bincount(best, minlength=probabilities.shape[-1])
    shares = counts[counts > 0] / len(best)
    found: dict[str, Any] = {
        'count': len(best),
        'confidence': float(probabilities.max(-1).mean(dtype=np.float64)),
        'entropy': float(-(shares * np.log(shares)).sum()),
        'classes': counts.tolist(),
    }
    if labels is not None:
        found['accuracy'] = float((best == labels).mean())
    return found


def describe(found: dict[str, Any], split: str = 'test') -> str:
    """Returns the metrics of a run in one line."""
    test, parts = found['test'], []
    if 'divergence' in test:
        parts.append(
            f'{split} ELBO {-test["loss"]:.2f} nats per image (reconstruction '
            f'{-test["reconstruction"]:.2f}, divergence {test["divergence"]:.2f})'
        )
    elif 'loss' in test:
        parts.append(f'{split} cross-entropy {test["loss"]:.2f} nats per image')
    else:
        parts.append(f'discriminator on {split} images {test["real"]:.3f}')
    if 'squared_error' in test:
        parts.append(f'mean squared error {test["squared_error"]:.4f}')
    for group in ('samples', 'reconstructions'):
        if group in found:
            values = found[group]
            accuracy = f', accuracy {values["accuracy"]:.4f}' if 'accuracy' in values else ''
            parts.append(
                f'{group}: confidence {values["confidence"]:.3f}{accuracy}, '
                f'{np.exp(values["entropy"]):.2f} classes'
            )
    return ', '.join(parts)


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
    nets = _nets(config, dataset)
    common = common_parts(config, dataset, devices)
    common |= {'folder': folder, 'classifier': _classifier(config, dataset)}
    if config.model == 'dcgan':
        return GanJob(nets=nets, **common)
    return AutoencoderJob(net=nets[config.model], **common)


def _nets(config: GenerateConfig, dataset: data.Dataset) -> dict[str, FunctionalModel]:
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
    return run
