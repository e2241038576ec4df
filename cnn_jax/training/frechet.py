"""Fréchet distance between two sets of images, in the features of a trained classifier.

Heusel et al. 2017, arXiv:1706.08500, compare images by the features of an Inception network trained
on ImageNet (FID). Here the features are those of a run of this package, so distances in the
features of different runs cannot be compared.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.training.job import batch_shapes
from cnn_jax.training.prediction import in_batches
from cnn_jax.training.saved import SavedRun
from cnn_jax.training.state import Arrays


class Moments(NamedTuple):
    """The mean (D,) and covariance (D, D) of features, float64."""

    mean: np.ndarray
    cov: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """Returns the mean and the unbiased covariance of features (N, D).

    Raises:
        UserError: see `check_count`.
    """
    count, size = features.shape
    check_count(count, size)
    features = np.asarray(features, np.float64)
    return Moments(features.mean(0), np.cov(features, rowvar=False).reshape(size, size))


def check_count(count: int, size: int) -> None:
    """Checks that the covariance of `size` features of `count` images can have full rank.

    Raises:
        UserError: there are too few images.
    """
    if count <= size:
        raise UserError(
            f'{count:,} images are too few for a Fréchet distance in {size:,} features: there must '
            'be more images than features'
        )


def frechet_distance(
    mean_1: np.ndarray, cov_1: np.ndarray, mean_2: np.ndarray, cov_2: np.ndarray
) -> float:
    """Returns the squared Fréchet distance of two normal distributions, computed in float64.

    This is |m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½) (Dowson and Landau 1982, "The Fréchet
    distance between multivariate normal distributions", Journal of Multivariate Analysis 12).

    Args:
        mean_1, mean_2: (D,).
        cov_1, cov_2: (D, D), symmetric and positive semi-definite.
    """
    mean_1, cov_1, mean_2, cov_2 = (
        np.asarray(a, np.float64) for a in (mean_1, cov_1, mean_2, cov_2)
    )
    values, vectors = np.linalg.eigh(cov_1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # The product is symmetric, so that its eigenvalues are real; rounding can make them negative.
    product = np.linalg.eigvalsh(root @ cov_2 @ root)
    overlap = np.sqrt(np.maximum(product, 0)).sum()
    return float(((mean_1 - mean_2) ** 2).sum() + np.trace(cov_1 + cov_2) - 2 * overlap)


def num_features(run: SavedRun) -> int:
    """Returns the length of the vector that the last layer of the classifier takes.

    Raises:
        UserError: the model does not record such a vector.
    """
    features = None
    if 'intermediates' in inspect.signature(run.net.model).parameters:
        inputs = batch_shapes(run.dataset, 2)['inputs']
        features, _ = jax.eval_shape(
            lambda *args: _features_and_outputs(run, *args),
            run.net.params,
            run.net.model_state,
            inputs,
        )
    if features is None or features.ndim != 2:
        raise UserError(f'model={run.config.model!r} has no vector of features before a last layer')
    return features.shape[-1]


def features_and_predictions(
    run: SavedRun,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a function from raw images to what the classifier makes of them.

    The function is compiled once. It returns the features (N, D), which are the input of the last
    layer in evaluation mode, and the predictions, see `Objective.predictions`.
    """

    @jax.jit
    def apply(params, model_state, part):
        features, outputs = _features_and_outputs(run, params, model_state, part)
        return features, run.objective.predictions(outputs)

    params, model_state = jax.device_get((run.params, run.model_state))
    return lambda inputs: in_batches(lambda part: apply(params, model_state, part), inputs)


def _features_and_outputs(
    run: SavedRun, params: Arrays, model_state: Arrays, inputs: jax.Array
) -> tuple[jax.Array | None, jax.Array]:
    """Returns the result of the last layer but one, or None, and that of the model."""
    maps: dict[str, jax.Array] = {}
    outputs = run.net.predict(params, model_state, run.dataset.normalize(inputs), maps)
    return (list(maps.values())[-2] if len(maps) > 1 else None), outputs
