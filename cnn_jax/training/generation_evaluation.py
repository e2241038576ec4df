"""Evaluates image generators: metrics, and ratings by a classifier of the images they make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cnn_jax.data.loader import evaluation_batches
from cnn_jax.training import generation
from cnn_jax.training.evaluation import Evaluation
from cnn_jax.training.frechet import features_and_predictions, frechet_distance, moments
from cnn_jax.training.mixture import fit_mixture
from cnn_jax.training.prediction import in_batches
from cnn_jax.training.state import TrainState

if TYPE_CHECKING:
    from cnn_jax.training.generation_job import GenerationJob

MOST = 10_000  # maximum number of generated images; by default one per example
FITTED = 20_000  # maximum number of training images whose codes a mixture is fitted to
SHOWN = 64
PAIRS, BETWEEN = 5, 9  # rows and columns of interpolations
NOISE = 2**32 - 1  # folded into the seed; never equal to a step number, which the steps fold in

LIKELIHOODS = {
    'bernoulli': 'Bernoulli pixels: nats per image if each pixel is on at random, with its grey '
    'value as the probability',
    'normal': 'normal pixels: nats per image, of the density of grey values in [0, 1]',
}


class GenerationEvaluator:
    """Draws sample images of a model and computes its metrics."""

    def __init__(self, job: GenerationJob):
        self._job = job
        self._paint, self._encode = jax.jit(job.paint), jax.jit(job.encode)
        self._distribution = jax.jit(job.distribution)
        self._sums = jax.jit(job.example_sums)
        if job.classifier:
            self._judge = features_and_predictions(job.classifier)
        self._real = functools.cache(self._judge_split)
        self._key = jax.random.fold_in(jax.random.key(job.config.seed), NOISE)
        self._latest: tuple[int, str, dict[str, Any]] | None = None

    def evaluate(self, state: TrainState, step: int, split: str) -> Evaluation:
        """Draws samples and reconstructions, and computes the metrics on `split`."""
        from cnn_jax.viz import samples  # here, because Matplotlib takes 0.3 s to import

        found, shown = self._measure(generation.averaged(state), split)
        self._latest = step, split, found
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
        from cnn_jax.viz import samples

        job, state = self._job, generation.averaged(state)
        if self._latest and self._latest[:2] == (step, 'test'):
            found = self._latest[2]
        else:
            found, _ = self._measure(state, 'test')
        result: dict[str, Any] = {'step': step, 'model': job.config.model}
        if job.config.model == 'vae':
            chosen = job.config.read_model_options().get('likelihood', 'bernoulli')
            result['likelihood'] = LIKELIHOODS[chosen]
        if job.classifier:
            train, labels = job.dataset.splits['train'], job.dataset.splits['test'].labels[:MOST]
            features, probabilities = self._real('test')
            others, _ = self._judge(spread(train.inputs, len(labels)))
            distance = frechet_distance(*moments(others), *moments(features))
            result['images'] = judged(probabilities, labels) | {'frechet_distance': distance}
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
            images = self._images(state, self._draw(state, count))
            shown['samples'] = images[:SHOWN]
            if job.classifier:
                found['samples'] = self._rated(images, split)
        if job.encodes:
            inputs = examples.inputs[: count if job.classifier else SHOWN]
            images = self._images(state, self._codes(state, inputs))
            shown |= {'inputs': inputs[:SHOWN], 'reconstructions': images[:SHOWN]}
            if job.classifier:
                found['reconstructions'] = self._rated(images, split, examples.labels[:count])
        return found, shown

    def _draw(self, state: TrainState, count: int) -> Any:
        """Draws codes (count, latent) from the prior or from the mixture of the configuration."""
        job = self._job
        if not job.config.mixture:
            return jax.random.normal(self._key, (count, job.latent))
        inputs = spread(job.dataset.splits['train'].inputs, FITTED)
        spots = self._codes(state, inputs, self._distribution)
        mean, log_variance = np.split(spots, 2, axis=-1)
        noise = np.random.default_rng(job.config.seed).normal(size=mean.shape)
        codes = mean + np.exp(log_variance / 2) * noise
        return fit_mixture(codes, job.config.mixture, seed=job.config.seed)(count)

    def _means(self, state: TrainState, split: str) -> dict[str, float]:
        job, sums = self._job, {}
        examples = job.dataset.splits[split]
        for number, batch in enumerate(evaluation_batches(examples, job.config.batch_size)):
            key = jax.random.fold_in(self._key, number)
            rows = job.devices.put_rows(batch)
            new = jax.device_get(self._sums(state.params, state.model_state, key, rows))
            sums = {name: sums.get(name, 0.0) + float(value) for name, value in new.items()}
        return {name: value / len(examples) for name, value in sums.items()}

    def _rated(
        self, images: np.ndarray, split: str, labels: np.ndarray | None = None
    ) -> dict[str, Any]:
        features, probabilities = self._judge(images)
        distance = frechet_distance(*moments(features), *moments(self._real(split)[0]))
        return judged(probabilities, labels) | {'frechet_distance': distance}

    def _judge_split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features and predictions of the images of a split."""
        return self._judge(self._job.dataset.splits[split].inputs[:MOST])

    def _images(self, state: TrainState, codes: Any) -> np.ndarray:
        """Decodes codes to uint8 images, the format of the data sets."""
        paint = lambda part: self._paint(state.params, state.model_state, part)  # noqa: E731
        return np.rint(255 * in_batches(paint, jax.device_get(codes))).astype(np.uint8)

    def _codes(
        self, state: TrainState, inputs: np.ndarray, encode: Callable | None = None
    ) -> np.ndarray:
        encode = encode or self._encode
        return in_batches(lambda part: encode(state.params, state.model_state, part), inputs)

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


def spread(inputs: Any, count: int) -> np.ndarray:
    """Returns at most `count` of the inputs, evenly spaced, since they may be sorted by class."""
    return inputs[np.linspace(0, len(inputs) - 1, min(count, len(inputs))).astype(int)]


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
            if 'frechet_distance' in values:
                parts[-1] += f', Fréchet distance {values["frechet_distance"]:.3f}'
    if 'frechet_distance' in found.get('images', {}):
        parts.append(f'training images: Fréchet distance {found["images"]["frechet_distance"]:.3f}')
    return ', '.join(parts)
