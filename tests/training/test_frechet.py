"""Compares Fréchet distances with closed forms and SciPy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from cnn_jax.training.frechet import frechet_distance, moments

RNG = np.random.default_rng(0)
SIZE = 6


def covariance():
    factor = RNG.normal(size=(SIZE, 2 * SIZE))
    return factor @ factor.T


def test_distance_of_shifted_distributions_is_that_of_their_means():
    mean, cov = RNG.normal(size=SIZE), covariance()
    shift = RNG.normal(size=SIZE)
    assert abs(frechet_distance(mean, cov, mean, cov)) < 1e-11
    np.testing.assert_allclose(frechet_distance(mean, cov, mean + shift, cov), shift @ shift)


def test_distance_where_covariances_commute():
    """The distance is then that of the variances along the common axes; one of them is zero."""
    axes = scipy.stats.ortho_group.rvs(SIZE, random_state=RNG)
    first, second = RNG.uniform(0, 5, (2, SIZE))
    first[0] = second[1] = 0
    wanted = ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    zero = np.zeros(SIZE)
    found = frechet_distance(zero, axes * first @ axes.T, zero, axes * second @ axes.T)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_distance_by_the_square_root_of_a_matrix():
    (mean, other), cov_1, cov_2 = RNG.normal(size=(2, SIZE)), covariance(), covariance()
    assert np.abs(cov_1 @ cov_2 - cov_2 @ cov_1).max() > 1
    overlap = scipy.linalg.sqrtm(cov_1 @ cov_2).real
    wanted = ((mean - other) ** 2).sum() + np.trace(cov_1 + cov_2 - 2 * overlap)
    found = frechet_distance(mean, cov_1, other, cov_2)
    np.testing.assert_allclose(found, wanted)
    np.testing.assert_allclose(frechet_distance(other, cov_2, mean, cov_1), found)


@pytest.mark.parametrize('size', [1, 3])
def test_moments(size):
    features = (1000 + RNG.normal(size=(50, size))).astype(np.float32)
    mean, cov = moments(features)
    exact = features.astype(np.float64)
    np.testing.assert_allclose(mean, exact.sum(0) / 50)
    residuals = exact - exact.sum(0) / 50
    np.testing.assert_allclose(cov, residuals.T @ residuals / 49)
    with pytest.raises(ValueError, match=f'{size} images are too few for a .* in {size} features'):
        moments(features[:size])
