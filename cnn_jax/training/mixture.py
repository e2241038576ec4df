"""Samples codes of a VAE from a mixture of normal distributions instead of from its prior.

Ghosh et al. 2020, arXiv:1903.12436, section 4, estimate the density of the codes after training:
the encoder does not fill the prior, and a decoder has not learned what lies in the gaps.
"""

from collections.abc import Callable

import numpy as np


def fit_mixture(codes: np.ndarray, components: int, *, seed: int) -> Callable[[int], np.ndarray]:
    """Fits normal distributions with full covariances by expectation maximisation.

    Args:
        codes: (N, latent).
        components: number of distributions.
        seed: seed of the fit and of the samples.

    Returns:
        A function from a count to that many samples (count, latent), float32. The first samples do
        not depend on the count.
    """
    from sklearn.mixture import GaussianMixture  # imports SciPy, for a second

    found = GaussianMixture(components, random_state=seed).fit(np.asarray(codes, np.float64))
    roots = np.linalg.cholesky(found.covariances_)

    def sample(count: int) -> np.ndarray:
        chosen = np.random.default_rng([seed, 0]).choice(components, count, p=found.weights_)
        noise = np.random.default_rng([seed, 1]).normal(size=(count, codes.shape[-1]))
        drawn = found.means_[chosen] + np.einsum('nij,nj->ni', roots[chosen], noise)
        return drawn.astype(np.float32)

    return sample
