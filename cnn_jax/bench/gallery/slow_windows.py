"""Speed claims about transposed convolutions, long windows and compilation, as in `slow`."""

import jax.numpy as jnp
import numpy as np
from jax import lax

import cnn_jax
from cnn_jax.bench.gallery.entry import Case
from cnn_jax.bench.gallery.slow import LAST_1D, LAST_2D, LAST_3D, normal, spec
from cnn_jax.bench.kernels import reference


def _transposed(x, w, y_size, strides):
    """Returns lax.conv_transpose of x with w, without padding, in float64.

    It is the input gradient of the convolution with the reversed kernel.
    """
    space = x.ndim - 2
    reverse = w[(slice(None, None, -1),) * space].swapaxes(-1, -2)
    y = np.empty((x.shape[0], *(y_size,) * space, w.shape[-1]))
    return reference.input_grad(x, reverse, spec(y, reverse, strides=strides))


def transposed_3d_to_one_channel(small):
    """Each 1x1x1 input becomes a whole picture, which is one matrix product."""
    batch, size, features = (2, 3, 4) if small else (20, 28, 50)
    x, w = normal((batch, 1, 1, 1, features), (size, size, 1, features, 1))
    spread = lambda x, w: lax.conv_transpose(x, w, (1, 1, 1), 'VALID', dimension_numbers=LAST_3D)
    product = lambda x, w: jnp.einsum('ndhwc,ijkco->nijko', x, w)
    return Case(
        spread,
        (x, w),
        # lax.conv_transpose does not reverse the window, so the picture is reversed.
        lambda: np.einsum('ndhwc,ijkco->nijko', np.float64(x), w[::-1, ::-1]),
        baseline=(product, (x, w)),
        torch=lambda torch: (
            lambda: torch.nn.functional.conv_transpose3d(
                torch.from_numpy(x.reshape(batch, features, 1, 1, 1)),
                torch.from_numpy(np.ascontiguousarray(w[::-1, ::-1].transpose(3, 4, 0, 1, 2))),
            ).movedim(1, -1)
        ),
    )


def _transposed_3d(small, strides):
    size, channels = (3, 2) if small else (32, 16)
    x, w = normal((1, size, size, size, channels), (3, 3, 3, channels, channels))
    expected = lambda: _transposed(x, w, (size - 1) * strides + 3, strides)
    conv = lambda x, w: lax.conv_transpose(x, w, (strides,) * 3, 'VALID', dimension_numbers=LAST_3D)
    return x, w, conv, expected


def transposed_3d_by_channels_first(small):
    x, w, conv, expected = _transposed_3d(small, 1)
    first, turned = np.moveaxis(x, -1, 1), w.transpose(4, 3, 0, 1, 2)
    layout = ('NCDHW', 'OIDHW', 'NCDHW')
    return Case(
        lambda x, w: lax.conv_transpose(x, w, (1, 1, 1), 'VALID', dimension_numbers=layout),
        (np.ascontiguousarray(first), np.ascontiguousarray(turned)),
        lambda: np.moveaxis(expected(), -1, 1),
        baseline=(conv, (x, w)),
    )


def transposed_3d_beside_a_convolution(small):
    """With stride 2, beside the convolution of its result with as many products."""
    x, w, conv, expected = _transposed_3d(small, 2)
    (y,) = normal((1, *[2 * x.shape[1] + 1] * 3, x.shape[-1]), seed=1)
    forward = lambda y, w: lax.conv_general_dilated(
        y, w, (2, 2, 2), 'VALID', dimension_numbers=LAST_3D
    )
    reverse = np.ascontiguousarray(w[::-1, ::-1, ::-1].transpose(3, 4, 0, 1, 2))
    return Case(
        conv,
        (x, w),
        expected,
        baseline=(forward, (y, w)),
        torch=lambda torch: (
            lambda: torch.nn.functional.conv_transpose3d(
                torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))),
                torch.from_numpy(reverse),
                stride=2,
            ).movedim(1, -1)
        ),
    )


def _long(batch, length, window, features):
    """A long window, beside the same by FFT, in JAX and in PyTorch."""
    x, w = normal((batch, length, features), (window, features, features))
    count = length - window + 1

    def by_fft(x, w):
        a, b = jnp.fft.rfft(x, length, 1), jnp.fft.rfft(w, length, 0)
        spectrum = jnp.einsum('nfc,fco->nfo', a, b.conj())
        return jnp.fft.irfft(spectrum, length, 1)[:, :count]

    def in_torch(torch):
        a, b = torch.from_numpy(x.transpose(0, 2, 1).copy()), torch.from_numpy(w.transpose(2, 1, 0))
        return a, b.contiguous()

    def torch_direct(torch):
        a, b = in_torch(torch)
        return lambda: torch.nn.functional.conv1d(a, b).movedim(1, -1)

    def torch_fft(torch):
        a, b = in_torch(torch)

        def run():
            spectrum = torch.einsum(
                'ncf,ocf->nof', torch.fft.rfft(a, length), torch.fft.rfft(b, length).conj()
            )
            return torch.fft.irfft(spectrum, length)[..., :count].movedim(1, -1)

        return run

    def expected():
        a = np.fft.rfft(np.float64(x), length, 1)
        b = np.fft.rfft(np.float64(w), length, 0)
        spectrum = np.einsum('nfc,fco->nfo', a, b.conj(), optimize=True)
        return np.fft.irfft(spectrum, length, 1)[:, :count]

    return Case(
        lambda x, w: lax.conv_general_dilated(x, w, (1,), 'VALID', dimension_numbers=LAST_1D),
        (x, w),
        expected,
        baseline=(by_fft, (x, w)),
        torch=torch_direct,
        torch_baseline=torch_fft,
        tolerance=1e-4,
    )


def window_of_1024(small):
    return _long(1, 64, 16, 2) if small else _long(1, 8000, 1024, 8)


def impulse_response(small):
    return _long(1, 50, 24, 1) if small else _long(1, 48000, 16000, 1)


def compiling_an_average_pool(small):
    """Averages without the padding, so that the counts are a large constant."""
    (x,) = normal((2, 4, 4, 3) if small else (4, 64, 64, 16))
    n = x.shape[1]

    def sums(x, padding):
        return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), padding)

    def expected():
        both = np.stack([np.float64(x), np.ones(x.shape)])
        both = np.pad(both, [(0, 0), (0, 0), (0, 1), (0, 1), (0, 0)])
        total, count = sum(both[:, :, i : i + n : 2, j : j + n : 2] for i, j in np.ndindex(3, 3))
        return total / count

    return Case(
        lambda x: sums(x, 'SAME') / sums(jnp.ones_like(x), 'SAME'),
        (x,),
        expected,
        baseline=(lambda x: sums(x, 'VALID') / 9, (x,)),
        ours=lambda x: cnn_jax.avg_pool(x, 3, strides=2, padding='SAME', count_include_pad=False),
    )


def compiling_a_transposed_convolution(small):
    window, strides, size, features = (4, 2, 3, 2) if small else (32, 16, 8, 64)
    x, w = normal((1, size, size, features), (window, window, features, features // 2))
    expected = lambda: _transposed(x, w, (size - 1) * strides + window, strides)
    plain = lambda x, w: lax.conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=LAST_2D)
    return Case(
        lambda x, w: lax.conv_transpose(
            x, w, (strides, strides), 'VALID', dimension_numbers=LAST_2D
        ),
        (x, w),
        expected,
        baseline=(plain, (x, w[:3, :3])),
    )


def dilated_beside_dense(small):
    """A 3x3 window with dilation 2, beside one without."""
    x, w = normal((1, 7, 7, 2) if small else (4, 56, 56, 32), (3, 3, 2 if small else 32, 4))

    def conv(dilation):
        return lambda x, w: lax.conv_general_dilated(
            x, w, (1, 1), [(dilation, dilation)] * 2, None, (dilation,) * 2, LAST_2D
        )

    return Case(
        conv(2),
        (x, w),
        lambda: reference.forward(x, w, spec(x, w, padding=2, dilation=2)),
        baseline=(conv(1), (x, w)),
    )
