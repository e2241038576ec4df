"""Speed claims as programs: each takes `small`, for a version that only checks values."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import cnn_jax
from cnn_jax.bench.gallery.entry import Case
from cnn_jax.bench.kernels import pool_reference, reference
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.ops.spec import ConvSpec

LAST_1D, LAST_2D, LAST_3D = (
    (f'N{space}C', f'{space}IO', f'N{space}C') for space in ('W', 'HW', 'DHW')
)


def normal(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def spec(x, w, *, strides=1, padding=0, dilation=1, groups=1) -> ConvSpec:
    """Returns the convolution of x (batch, *space, in) with w (*window, in / groups, out)."""
    space = x.ndim - 2
    return ConvSpec(
        batch=x.shape[0],
        input_size=x.shape[1:-1],
        in_features=x.shape[-1],
        window=w.shape[:space],
        out_features=w.shape[-1],
        strides=(strides,) * space,
        padding=((padding, padding),) * space,
        input_dilation=(1,) * space,
        dilation=(dilation,) * space,
        groups=groups,
        dtype='float32',
    )


def _conv(layout, padding='SAME', **options):
    """Returns lax's convolution of (x, w) without strides."""

    def conv(x, w):
        ones = (1,) * (x.ndim - 2)
        return lax.conv_general_dilated(x, w, ones, padding, dimension_numbers=layout, **options)

    return conv


def depthwise_by_channels_first(small):
    channels, size = (8, 6) if small else (512, 124)
    x, w = normal((1, channels, size, size), (channels, 1, 3, 3))

    def expected():
        last, turned = np.moveaxis(x, 1, -1), w.transpose(2, 3, 1, 0)
        y = reference.forward(last, turned, spec(last, turned, padding=1, groups=channels))
        return np.moveaxis(y, -1, 1)

    return Case(
        _conv(('NCHW', 'OIHW', 'NCHW'), feature_group_count=channels),
        (x, w),
        expected,
        torch=lambda torch: (
            lambda: torch.nn.functional.conv2d(
                torch.from_numpy(x), torch.from_numpy(w), padding=1, groups=channels
            )
        ),
    )


def depthwise_with_dilation(small):
    channels, size = (4, 40) if small else (64, 1024)
    x, w = normal((1 if small else 8, size, channels), (3, 1, channels))
    dense = np.eye(channels, dtype='float32') * w  # a dense kernel with the same result
    return Case(
        _conv(LAST_1D, rhs_dilation=(16,), feature_group_count=channels),
        (x, w),
        lambda: reference.forward(x, dense, spec(x, dense, padding=16, dilation=16)),
        baseline=(_conv(LAST_1D, rhs_dilation=(16,)), (x, dense)),
    )


def convolution_in_a_loop(small):
    channels, length = (8, 16) if small else (256, 512)
    x, w = normal((1, channels, length), (channels, channels, 1))
    w /= np.float32(channels**0.5)
    conv = lambda x, w: lax.conv(x, w, (1,), 'VALID')
    return Case(
        lambda x, w: lax.fori_loop(0, 2, lambda _, x: conv(x, w), x),
        (x, w),
        lambda: np.float64(w[:, :, 0]) @ (np.float64(w[:, :, 0]) @ np.float64(x)),
        baseline=(lambda x, w: conv(conv(x, w), w), (x, w)),
    )


def per_example_gradients(small):
    """The gradient of each example's sum of squares, summed over the batch."""
    batch, size, features = (3, 6, 4) if small else (64, 28, 16)
    x, w = normal((batch, size, size, 3), (3, 3, 3, features))
    conv = _conv(LAST_2D, 'VALID')
    loss = lambda w, x: (conv(x, w) ** 2).sum() / 2
    alone = lambda w, x: loss(w, x[None])

    def expected():
        return reference.filter_grad(x, reference.forward(x, w, spec(x, w)), spec(x, w))

    return Case(
        lambda w, x: jax.vmap(jax.grad(alone), (None, 0))(w, x).sum(0),
        (w, x),
        expected,
        baseline=(jax.grad(loss), (w, x)),
    )


def compiling_per_example_gradients(small):
    case = per_example_gradients(small=True)
    (w, x), count = case.operands, 3 if small else 512
    many = np.tile(x, (count // 3, 1, 1, 1))
    each = jax.vmap(jax.grad(lambda w, x: case_loss(w, x)), (None, 0))
    case_loss = lambda w, x: (_conv(LAST_2D, 'VALID')(x[None], w) ** 2).sum() / 2
    return Case(
        lambda w, x: each(w, x).sum(0),
        (w, many),
        lambda: case.expected() * (count // 3),
        baseline=(lambda w, x: each(w, x).sum(0), (w, x)),
    )


def convolve_of_two_images(small):
    size = 12 if small else 150
    (x,) = normal((size, size))
    convolve = lambda x: jax.scipy.signal.convolve(x, x, mode='same')

    def expected():
        spectrum = np.fft.rfft2(np.float64(x), (2 * size, 2 * size))
        start = (size - 1) // 2
        full = np.fft.irfft2(spectrum**2, (2 * size, 2 * size))
        return full[start : start + size, start : start + size]

    fast = lambda x: jax.scipy.signal.fftconvolve(x, x, mode='same')
    return Case(convolve, (x,), expected, baseline=(fast, (x,)), tolerance=1e-4)


def _max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')


def max_pool_beside_a_reshape(small):
    (x,) = normal((1, 4, 6, 3) if small else (16, 128, 128, 32))
    split = lambda x: x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3])
    return Case(
        _max_pool,
        (x,),
        lambda: split(x).max((2, 4)),
        baseline=(lambda x: split(x).max((2, 4)), (x,)),
        ours=lambda x: cnn_jax.max_pool(x, 2),
        torch=lambda torch: (
            lambda: torch.nn.functional.max_pool2d(torch.from_numpy(x).movedim(-1, 1), 2).movedim(
                1, -1
            )
        ),
    )


def max_pool_beside_a_convolution(small):
    size, channels = (9, 2) if small else (501, 16)
    problem = parse(f'max_pool:mb1_ic{channels}ih{size}kh3sh2')
    x, w = normal((1, size, size, channels), (channels, channels, 3, 3))
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return Case(
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'VALID'),
        (x,),
        lambda: pool_reference.forward(x, None, problem),
        ours=lambda x: cnn_jax.max_pool(x, 3, strides=2),
        torch=lambda torch: (
            lambda: torch.nn.functional.max_pool2d(torch.from_numpy(first), 3, 2).movedim(1, -1)
        ),
        torch_baseline=lambda torch: (
            lambda: torch.nn.functional.conv2d(
                torch.from_numpy(first), torch.from_numpy(w), stride=2
            )
        ),
    )


def max_pool_of_resnet(small):
    (x,) = normal((1, 8, 8, 4) if small else (10, 112, 112, 64))
    problem = parse(f'max_pool:mb{x.shape[0]}_ic{x.shape[-1]}ih{x.shape[1]}kh3sh2ph1')
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    pads = [(0, 0), (1, 1), (1, 1), (0, 0)]
    return Case(
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads),
        (x,),
        lambda: pool_reference.forward(x, None, problem),
        ours=lambda x: cnn_jax.max_pool(x, 3, strides=2, padding=1),
        torch=lambda torch: (
            lambda: torch.nn.functional.max_pool2d(torch.from_numpy(first), 3, 2, 1).movedim(1, -1)
        ),
    )


def average_pool_beside_a_convolution(small):
    (x,) = normal((2 if small else 20, 28, 28, 1))
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    one = np.ones((1, 1, 3, 3), 'float32')
    sums = lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), 'VALID')
    return Case(
        lambda x: sums(x) / 9,
        (x,),
        lambda: pool_reference.forward(x, None, parse(f'avg_pool:mb{len(x)}_ic1ih28kh3')),
        ours=lambda x: cnn_jax.avg_pool(x, 3, strides=1),
        torch=lambda torch: (
            lambda: torch.nn.functional.avg_pool2d(torch.from_numpy(first), 3, 1).movedim(1, -1)
        ),
        torch_baseline=lambda torch: (
            lambda: torch.nn.functional.conv2d(torch.from_numpy(first), torch.from_numpy(one))
        ),
    )


def pointwise_in_float16(small):
    size = (1, 4, 5, 16) if small else (1, 176, 320, 16)
    x, w = (a.astype('float16') for a in normal(size, (1, 1, 16, 16)))
    wide = tuple(np.float32(a) for a in (x, w))

    def torch_conv(a, b):
        a, b = a.transpose(0, 3, 1, 2), b.transpose(3, 2, 0, 1)
        return lambda torch: (
            lambda: torch.nn.functional.conv2d(
                *(torch.from_numpy(np.ascontiguousarray(c)) for c in (a, b))
            ).movedim(1, -1)
        )

    return Case(
        _conv(LAST_2D),
        (x, w),
        lambda: np.float64(x) @ np.float64(w[0, 0]),
        baseline=(_conv(LAST_2D), wide),
        torch=torch_conv(x, w),
        torch_baseline=torch_conv(*wide),
    )


def _subnormal(shape, window, features, padding):
    """A convolution with weights below the smallest normal number, beside normal weights."""
    x, w = normal(shape, (window, window, shape[-1], features))
    tiny = w * np.float32(1e-42)

    def torch_conv(w):
        return lambda torch: (
            lambda: torch.nn.functional.conv2d(
                torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))),
                torch.from_numpy(np.ascontiguousarray(w.transpose(3, 2, 0, 1))),
                padding=padding,
            ).movedim(1, -1)
        )

    return Case(
        _conv(LAST_2D),
        (x, tiny),
        # Any result below the smallest normal number is right.
        lambda: np.zeros((*shape[:-1], features)),
        baseline=(_conv(LAST_2D), (x, w)),
        torch=torch_conv(tiny),
        torch_baseline=torch_conv(w),
        tolerance=1e-30,
    )


def subnormal_weights_1x1(small):
    return _subnormal((1, 5, 6, 8) if small else (1, 1000, 15, 64), 1, 8 if small else 128, 0)


def subnormal_weights_3x3(small):
    return _subnormal((1, 5, 6, 8) if small else (1, 56, 56, 64), 3, 8 if small else 64, 1)


def grouped_kernel_gradient(small):
    """PyTorch's kernel gradient with 8 groups, beside one group: 8 times the operations."""
    channels, size, groups = (16, 5, 8) if small else (128, 56, 8)
    x, y = normal((2, size, size, channels), (2, size, size, channels))

    def torch_gradient(groups):
        def prepare(torch):
            a, b = (torch.from_numpy(np.ascontiguousarray(c.transpose(0, 3, 1, 2))) for c in (x, y))
            shape = (channels, channels // groups, 3, 3)
            gradient = torch.nn.grad.conv2d_weight
            return lambda: gradient(a, shape, b, padding=1, groups=groups).permute(2, 3, 1, 0)

        return prepare

    def expected():
        kernel = np.empty((3, 3, channels // groups, channels))
        return reference.filter_grad(x, y, spec(x, kernel, padding=1, groups=groups))

    def gradient(groups):
        conv = _conv(LAST_2D, feature_group_count=groups)
        zero = np.zeros((3, 3, channels // groups, channels), 'float32')
        return lambda x, y: jax.vjp(lambda w: conv(x, w), zero)[1](y)[0]

    return Case(
        gradient(groups),
        (x, y),
        expected,
        baseline=(gradient(1), (x, y)),
        torch=torch_gradient(groups),
        torch_baseline=torch_gradient(1),
    )
