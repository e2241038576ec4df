"""Exercises of chapter 9: transposed convolution, the VAE's code and divergence, a GAN's losses."""

from collections.abc import Callable

import numpy as np

import cnn_jax
from cnn_jax.course.arrays import Array, conv, whole_numbers
from cnn_jax.course.exercise import Case, Exercise


def _conv_transpose(x: Array, w: Array, stride: int, padding: int) -> Array:
    y = cnn_jax.conv_transpose(
        x[..., None], w[..., None, None], strides=stride, padding=padding, precision='highest'
    )
    return np.asarray(y)[..., 0]


def _stored(x: Array, w: Array, stride: int, padding: int) -> Array:
    kh, kw = w.shape
    full = np.zeros([(n - 1) * stride + k for n, k in zip(x.shape, w.shape, strict=True)])
    for i, j in np.ndindex(*x.shape):
        full[stride * i : stride * i + kh, stride * j : stride * j + kw] = x[i, j] * w
    return _cropped(full, padding)


def _cropped(x: Array, amount: int) -> Array:
    return x[amount : x.shape[0] - amount, amount : x.shape[1] - amount]


conv_transpose = Exercise(
    name='conv_transpose',
    right=_conv_transpose,
    cases=lambda: [
        (whole_numbers(2, 2), whole_numbers(2, 2, seed=1), 1, 0),
        (whole_numbers(3, 4, seed=2), whole_numbers(3, 3, seed=3), 2, 0),
        (whole_numbers(3, 2, seed=4), whole_numbers(4, 4, seed=5), 2, 1),
        (whole_numbers(2, 3, seed=6), whole_numbers(2, 3, seed=7), 3, 0),
    ],
    verified='equal to cnn_jax.conv_transpose, with strides, padding, and gaps between windows.',
    shape='The last copy begins at stride * (n - 1) and is k long; then padding is cut off twice.',
    wrong=(
        (
            _stored,
            'where two copies overlap, the second replaces the first: add with +=.',
        ),
        (
            lambda x, w, s, p: _conv_transpose(x, w[::-1, ::-1], s, p),
            'the kernel is flipped. A copy is laid down as it is; only who writes this as a '
            'convolution has to flip.',
        ),
        (
            lambda x, w, s, p: _conv_transpose(x, w, s, 0),
            'the padding is missing: cut off padding rows and columns on all four sides.',
        ),
        (
            lambda x, w, s, p: np.pad(_conv_transpose(x, w, s, 0), p),
            'padding makes this result larger. It undoes the padding of a convolution, so it cuts '
            'off.',
        ),
        (
            lambda x, w, s, p: _conv_transpose(x, w, 1, p),
            'the copies are one pixel apart: the one of x[i, j] begins at (stride * i, stride * '
            'j).',
        ),
        (
            lambda x, w, s, p: _conv_transpose(x, w, s, 0)[p:-p, p:-p],
            'without padding the result is empty: [0:-0] is [0:0]. Count the end from the front: '
            '[padding : len(y) - padding].',
        ),
        (
            lambda x, w, s, p: _cropped(_conv_transpose(x, w, s, 0), 2 * p),
            'twice the padding is cut off on each side.',
        ),
        (
            lambda x, w, s, p: _conv_transpose(x.T, w.T, s, p),
            'rows and columns are exchanged.',
        ),
    ),
)


def _with_zeros(x: Array, stride: int) -> Array:
    y = np.zeros([(n - 1) * stride + 1 for n in x.shape], np.float32)
    y[::stride, ::stride] = x
    return y


def _full(x: Array, w: Array) -> Array:
    """Convolves x, with k - 1 zeros on all sides, with w as it is."""
    return conv(x, w, padding=tuple((k - 1, k - 1) for k in w.shape))


as_convolution = Exercise(
    name='as_convolution',
    right=lambda x, w, stride: _conv_transpose(x, w, stride, 0),
    cases=lambda: [
        (whole_numbers(2, 2), whole_numbers(2, 2, seed=1), 1),
        (whole_numbers(3, 4, seed=2), whole_numbers(3, 3, seed=3), 2),
        (whole_numbers(2, 3, seed=4), whole_numbers(3, 2, seed=5), 3),
    ],
    verified='equal to scattering, so both are the same sum.',
    shape='With zeros between, an axis has (n - 1) stride + 1 pixels; k - 1 more on both sides '
    'leave (n - 1) stride + k places.',
    wrong=(
        (
            lambda x, w, s: _full(_with_zeros(x, s), w),
            'the kernel is not flipped. A convolution reads y[a] from x[a - k] w[k]: backwards.',
        ),
        (
            lambda x, w, s: _full(np.kron(x, np.ones((s, s))), w[::-1, ::-1]),
            'the pixels are repeated. Between two of them belong stride - 1 zeros.',
        ),
        (
            lambda x, w, s: _full(np.pad(_with_zeros(x, s), (0, s - 1)), w[::-1, ::-1]),
            'there are zeros after the last pixel, too. They belong between pixels, so an axis has '
            '(n - 1) stride + 1.',
        ),
        (
            lambda x, w, s: conv(_with_zeros(x, s), w[::-1, ::-1], padding=0),
            'this keeps the places where the whole window fits. The copy of the first pixel begins '
            'k - 1 places earlier: pad with k - 1 zeros on all sides.',
        ),
        (
            lambda x, w, s: _full(x, w[::-1, ::-1]),
            'the stride is missing: put stride - 1 zeros between neighbouring pixels.',
        ),
        (
            lambda x, w, s: _full(_with_zeros(x, s + 1), w[::-1, ::-1]),
            'there is one zero too many between neighbours: stride - 1.',
        ),
        (
            lambda x, w, s: _full(_with_zeros(x, s), w.T),
            'the kernel is transposed. The name means the matrix W of the whole layer; the kernel '
            'is flipped on both axes.',
        ),
    ),
)


def _overlaps(n: int, k: int, stride: int) -> Array:
    return _conv_transpose(np.ones((n, 1), np.float32), np.ones((k, 1), np.float32), stride, 0)[
        :, 0
    ]


overlaps = Exercise(
    name='overlaps',
    right=_overlaps,
    cases=lambda: [(4, 3, 2), (3, 4, 2), (4, 5, 3), (3, 2, 3)],
    verified='how many copies cover each pixel, also where there are gaps.',
    shape='One number per output: (n - 1) stride + k.',
    wrong=(
        (
            lambda n, k, s: np.full((n - 1) * s + k, k / s),
            'this is the mean number of copies far from the border, k / stride. The question is '
            'how many there are at each pixel.',
        ),
        (
            lambda n, k, s: np.full((n - 1) * s + k, -(-k // s)),
            'this is the largest number of copies that can meet. Count at each pixel.',
        ),
        (
            lambda n, k, s: _overlaps(n, k, s)[k - 1 : (n - 1) * s + 1],
            'the ends are missing. The first copy begins at pixel 0, the last ends at (n - 1) '
            'stride + k.',
        ),
        (
            lambda n, k, s: _overlaps(n, k, 1),
            'the copies are one pixel apart: copy i covers stride * i ... stride * i + k - 1.',
        ),
        (
            lambda n, k, s: _overlaps(n, k + 1, s)[: (n - 1) * s + k],
            'each copy is one pixel too long: it covers k pixels, the last being stride * i + k - '
            '1.',
        ),
        (
            lambda n, k, s: np.minimum(_overlaps(n, k, s), 1),
            'this says whether a pixel is covered, not how often: add 1 for each copy.',
        ),
    ),
)


def _normals(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _sample_code(mean: Array, log_variance: Array, noise: Array) -> Array:
    return mean + np.exp(log_variance / 2) * noise


def _code_cases() -> list[Case]:
    return [
        (
            np.array([[1, -2]], np.float32),
            np.array([[0, 2]], np.float32),
            np.array([[0.5, -1]], np.float32),
        ),
        tuple(_normals(3, 4, seed=seed) for seed in (0, 1, 2)),
    ]


sample_code = Exercise(
    name='sample_code',
    right=_sample_code,
    cases=_code_cases,
    verified='codes with this mean and variance, if the noise is standard normal.',
    shape='One code for each mean.',
    wrong=(
        (
            lambda mean, log_variance, noise: mean + np.exp(log_variance) * noise,
            'the noise is scaled by the variance. Its scale is the standard deviation, the root: '
            'exp(log_variance / 2).',
        ),
        (
            lambda mean, log_variance, noise: mean + log_variance * noise,
            'this scales by the logarithm of the variance: exp is missing.',
        ),
        (
            lambda mean, log_variance, noise: mean + np.sqrt(np.abs(log_variance)) * noise,
            'this is the root of the logarithm. The variance is exp(log_variance), its root '
            'exp(log_variance / 2).',
        ),
        (
            lambda mean, log_variance, noise: mean + noise,
            'the variance is 1 for all codes: log_variance does not appear.',
        ),
        (
            lambda mean, log_variance, noise: mean,
            'this is the mean, so nothing is drawn.',
        ),
        (
            lambda mean, log_variance, noise: np.exp(log_variance / 2) * (mean + noise),
            'the mean is scaled, too. First scale the noise, then add the mean.',
        ),
        (
            lambda mean, log_variance, noise: mean + np.exp(-log_variance / 2) * noise,
            'the noise is divided by the standard deviation; that is how one would standardise.',
        ),
    ),
)


def _kl(mean: Array, log_variance: Array) -> Array:
    return 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)


def _kl_of_variance(mean: Array, variance: Array) -> Array:
    with np.errstate(all='ignore'):  # NaN, where what is given is the logarithm
        return _kl(mean, np.log(variance))


kl = Exercise(
    name='kl',
    right=_kl,
    cases=lambda: [
        (np.array([[0, 0], [1, -2]], np.float32), np.array([[0, 0], [0, 2]], np.float32)),
        (_normals(3, 4, seed=3), _normals(3, 4, seed=4)),
    ],
    verified='0 for the standard normal distribution itself, and positive otherwise.',
    shape='One number per example: the divergences of the dimensions are added.',
    wrong=(
        (
            lambda mean, log_variance: -_kl(mean, log_variance),
            'the sign is wrong: a divergence is never negative.',
        ),
        (
            lambda mean, log_variance: 2 * _kl(mean, log_variance),
            'the factor 1/2 is missing.',
        ),
        (
            lambda mean, log_variance: _kl(mean, log_variance) / mean.shape[-1],
            'this is the mean over the dimensions. They are independent, so their divergences add.',
        ),
        (
            lambda mean, log_variance: _kl(mean, log_variance).mean(),
            'this is one number for the whole batch. Return one per example.',
        ),
        (
            lambda mean, log_variance: _kl(mean, log_variance) + mean.shape[-1] / 2,
            'the -1 is missing: the divergence of the standard normal distribution from itself '
            'must be 0.',
        ),
        (
            _kl_of_variance,
            'the argument is taken for the variance. It is the logarithm: exp(log_variance) is the '
            'variance.',
        ),
        (
            lambda mean, log_variance: (
                0.5 * (np.exp(log_variance / 2) + mean**2 - 1 - log_variance).sum(-1)
            ),
            'this contains the standard deviation in the place of the variance.',
        ),
        (
            lambda mean, log_variance: (
                0.5 * (np.exp(log_variance) + np.abs(mean) - 1 - log_variance).sum(-1)
            ),
            'the mean is not squared.',
        ),
    ),
)


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def _losses(of_real: Callable, of_fake: Callable, maker: Callable):
    """Returns gan_losses of three functions of logits, each averaged over the batch."""
    return lambda real, fake: (of_real(real).mean() + of_fake(fake).mean(), maker(fake).mean())


def _naive(real: Array, fake: Array) -> tuple[float, float]:
    with np.errstate(all='ignore'):
        real, fake = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
        return (-np.log(real)).mean() + (-np.log(1 - fake)).mean(), (-np.log(fake)).mean()


_real, _fake = lambda real: _softplus(-real), _softplus
gan_losses = Exercise(
    name='gan_losses',
    right=_losses(_real, _fake, _real),
    cases=lambda: [
        (np.array([2, -1], np.float32), np.array([0, -3], np.float32)),
        (3 * _normals(6, seed=5), 3 * _normals(6, seed=6)),
        (np.array([300, -200], np.float32), np.array([-300, 200, -150], np.float32)),
    ],
    verified='both losses, also for logits so large that a probability rounds to 0 or 1.',
    shape='Return two numbers, (discriminator, generator).',
    wrong=(
        (
            _naive,
            'a probability has rounded to 0 or 1, and its logarithm is infinite. -log sigmoid(a) '
            'is softplus(-a), and -log(1 - sigmoid(a)) is softplus(a), without overflow.',
        ),
        (
            _losses(_real, _fake, lambda fake: -_softplus(fake)),
            'the generator minimises log(1 - D(fake)). That is the other player of the same game, '
            'but it hardly has a gradient while the generator is bad. Minimise -log D(fake).',
        ),
        (
            lambda real, fake: tuple(np.flip(_losses(_real, _fake, _real)(real, fake))),
            'the losses are exchanged: discriminator first.',
        ),
        (
            _losses(_fake, _real, _real),
            'the discriminator learns the opposite: real images should get high logits, generated '
            'ones low.',
        ),
        (
            _losses(_real, lambda fake: 0 * fake, _real),
            'the discriminator sees real images only, so it can say "real" to everything.',
        ),
        (
            _losses(_real, _fake, _fake),
            'the generator wants its images to be called generated. It wants D(fake) = 1.',
        ),
        (
            lambda real, fake: (
                (_real(real).mean() + _fake(fake).mean()) / 2,
                _real(fake).mean(),
            ),
            'the loss of the discriminator is halved. It is the sum of both means.',
        ),
        (
            lambda real, fake: (_real(real).sum() + _fake(fake).sum(), _real(fake).sum()),
            'these are sums over the batch; wanted are means.',
        ),
    ),
)
