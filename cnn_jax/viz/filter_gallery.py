"""Pictures of fixed filters applied to an image and to a sound, with every kernel."""

import textwrap
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy import ndimage

from cnn_jax import ops
from cnn_jax.errors import UserError
from cnn_jax.ops import filters, patches
from cnn_jax.viz.figures import new_figure, save

MODES = {'reflect': 'mirror', 'replicate': 'nearest', 'circular': 'wrap', 'zeros': 'constant'}


def apply(image, filter, *, implementation=None, **options) -> np.ndarray:
    """Applies `filter` (h, w) to every channel of `image` (H, W, C).

    Borders are mirrored by default. Takes the options of `cnn_jax.conv`, and raises its errors.
    """
    # Treat each channel as a separate image, so that kernels without groups can be used too.
    channels = jnp.moveaxis(jnp.asarray(image, jnp.float32), -1, 0)[..., None]
    options = {'padding_mode': 'reflect'} | options
    kernel = filters.as_kernel(filter, 1)
    y = ops.conv(channels, kernel, implementation=implementation, **options)
    return np.moveaxis(np.asarray(y)[..., 0], 0, -1)


def by_scipy(image, filter, mode: str = 'reflect') -> np.ndarray:
    """Computes the same as `apply` in float64 with scipy.ndimage, one channel at a time."""
    channels = [
        ndimage.correlate(one, np.asarray(filter, np.float64), mode=MODES[mode])
        for one in np.moveaxis(np.asarray(image, np.float64), -1, 0)
    ]
    return np.stack(channels, -1)


def gallery(
    image, names: Sequence[str], kernels: Sequence[str], path=None
) -> tuple[Figure, dict[tuple[str, str], float | str]]:
    """Draws one row per filter: its coefficients, then the image filtered with each kernel.

    Args:
        image: (H, W, C) in [0, 1].
        names: names in `filters.FILTERS`.
        kernels: implementations of `conv`.
        path: where to write the PNG.

    Returns:
        The figure, and (filter, kernel) -> largest difference from scipy's float64 result, or the
        reason why the kernel cannot compute it.
    """
    figure = new_figure(1.35 * (len(kernels) + 1) + 0.4, 1.4 * len(names) + 0.7)
    grid = figure.subplots(len(names), len(kernels) + 1, squeeze=False)
    found: dict[tuple[str, str], float | str] = {}
    for row, name in zip(grid, names, strict=True):
        filter = filters.FILTERS[name]()
        expected = by_scipy(image, filter)
        _draw_filter(row[0], name, filter)
        for axes, kernel in zip(row[1:], kernels, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            try:
                result = apply(image, filter, implementation=kernel)
            except UserError as error:
                reason = str(error).split(f'{kernel!r}: ')[-1]
                found[name, kernel] = reason
                text = '\n'.join(textwrap.wrap(f'cannot: {reason.split(", got")[0]}', 22))
                axes.set_box_aspect(image.shape[0] / image.shape[1])
                axes.text(0.5, 0.5, text, ha='center', va='center', fontsize=5.5)
                continue
            found[name, kernel] = float(np.abs(result - expected).max())
            axes.imshow(shown(result, filter), interpolation='nearest')
            error = f'{found[name, kernel]:.0e}'.removesuffix('e+00')
            axes.set_xlabel(f'error {error}', fontsize=7, labelpad=2)
    grid[0, 0].set_title('filter', fontsize=9)
    for axes, kernel in zip(grid[0, 1:], kernels, strict=True):
        axes.set_title(kernel, fontsize=9)
    figure.suptitle(
        'Filters by every kernel; error: largest difference from float64 (image in [0, 1])',
        fontsize=10,
    )
    return save(figure, path, colours=256), found


def _draw_filter(axes, name, filter):
    limit = np.abs(filter).max()
    axes.imshow(filter, cmap='RdBu_r', vmin=-limit, vmax=limit)
    for (row, column), value in np.ndenumerate(filter):
        text = f'{value:g}' if float(value).is_integer() else f'{value:.2f}'.replace('0.', '.')
        dark = abs(value) > 0.6 * limit
        axes.text(column, row, text, ha='center', va='center', fontsize=6 if len(filter) > 3 else 8,
                  color='white' if dark else 'black')  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylabel(name, fontsize=9)


def shown(result, filter) -> np.ndarray:
    """Clips a filtered image to [0, 1] for display; centres derivatives (sum 0) on mid-grey."""
    is_derivative = abs(float(np.sum(filter))) < 1e-6
    return np.clip(0.5 + result / 2 if is_derivative else result, 0, 1)


def strides_and_paddings(image, path=None) -> Figure:
    """Draws windows for strides and paddings, and their effect on an image (H, W, C)."""
    figure = new_figure(11, 8.2)
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1.15, 1, 1])
    cases = [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1)]
    for axes, (stride, pad) in zip(top.subplots(1, len(cases)), cases, strict=True):
        _draw_windows(axes, 7, 3, stride, pad)
    top.suptitle(
        'A 3x3 window on a 7x7 input: the first window, and the centres of all '
        '(grey: padding); output = floor((n + 2 p - k) / s) + 1',
        fontsize=10,
    )
    strides = (1, 2, 3, 4)
    for axes, stride in zip(middle.subplots(1, len(strides)), strides, strict=True):
        result = apply(image, filters.blur(3), strides=stride)
        axes.imshow(np.clip(result, 0, 1))
        axes.set_title(f'stride {stride}: {result.shape[0]}×{result.shape[1]}', fontsize=9)
    middle.suptitle(
        f'blur of a {image.shape[0]}×{image.shape[1]} image (axes in pixels)', fontsize=10
    )
    crop = np.asarray(image)[:48, :48]
    pad = 16
    for axes, mode in zip(bottom.subplots(1, len(MODES)), MODES, strict=True):
        padded = np.asarray(patches.pad(jnp.asarray(crop, jnp.float32), (pad, pad), mode=mode))
        axes.imshow(padded, extent=(-pad, 48 + pad, 48 + pad, -pad))
        axes.add_patch(Rectangle((0, 0), 48, 48, fill=False, edgecolor='red', linewidth=1.2))
        axes.set_title(f'padding_mode {mode!r}', fontsize=9)
    bottom.suptitle('padding of 16 around a 48×48 image (red frame)', fontsize=10)
    return save(figure, path, colours=256)


def _draw_windows(axes, size, window, stride, pad):
    for row in range(-pad, size + pad):
        for column in range(-pad, size + pad):
            inside = 0 <= row < size and 0 <= column < size
            axes.add_patch(
                Rectangle(
                    (column, row), 1, 1, facecolor='white' if inside else '0.8', edgecolor='0.5'
                )
            )
    axes.add_patch(Rectangle((-pad, -pad), window, window, facecolor='tab:orange', alpha=0.5))
    starts = np.arange(-pad, size + pad - window + 1, stride)
    centres = starts + window / 2
    columns, rows = np.meshgrid(centres, centres)
    axes.plot(columns.ravel(), rows.ravel(), 'o', color='tab:blue', markersize=4)
    axes.set_xlim(-1.2, size + 1.2)
    axes.set_ylim(size + 1.2, -1.2)
    axes.set_aspect('equal')
    axes.set_axis_off()
    axes.set_title(f'stride {stride}, padding {pad}\n→ {len(starts)}×{len(starts)}', fontsize=9)


def separable(image, names: Sequence[str], path=None) -> tuple[Figure, dict[str, float]]:
    """Draws each filter applied at once, and as a column followed by a row.

    Both give the same image; the second needs fewer multiplications.

    Returns:
        The figure, and name -> largest difference.
    """
    figure = new_figure(9.6, 1.95 * len(names) + 0.5)
    grid = figure.subplots(len(names), 4, squeeze=False)
    differences = {}
    for row, name in zip(grid, names, strict=True):
        filter = filters.FILTERS[name]()
        column, line = filters.separate(filter)
        at_once = apply(image, filter)
        half = apply(image, column)
        in_two = apply(half, line)
        differences[name] = float(np.abs(at_once - in_two).max())
        height, width = filter.shape
        texts = (
            f'{height}×{width} at once\n{height * width} multiplications',
            f'column {height}×1',
            f'then row 1×{width}\n{height + width} multiplications',
            f'|difference|\nat most {differences[name]:.1e}',
        )
        pictures = (
            shown(at_once, filter),
            shown(half / max(abs(float(column.sum())), 1e-6), column),
            shown(in_two, filter),
            np.abs(at_once - in_two).max(-1),
        )
        for axes, picture, text in zip(row, pictures, texts, strict=True):
            drawn = axes.imshow(picture, cmap='magma', interpolation='nearest')
            axes.set_title(text, fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
        bar = figure.colorbar(drawn, ax=row[-1], shrink=0.9, format='%.1e')
        bar.locator = MaxNLocator(4)
        bar.ax.tick_params(labelsize=7)
        row[0].set_ylabel(name)
    figure.suptitle('Separable filters', fontsize=11)
    return save(figure, path, colours=256), differences


def audio_filters(width: int) -> dict[str, np.ndarray]:
    """Returns 1-D filters: a low-pass and a high-pass of `width` taps (odd), and a difference."""
    low = filters.gaussian(width, width / 6).sum(0)
    high = -low
    high[width // 2] += 1
    return {
        f'low-pass (Gaussian, {width} taps)': low,
        f'high-pass (identity - Gaussian, {width} taps)': high,
        'difference (-1, 0, 1)': np.float32([-1, 0, 1]),
    }


def audio(
    signal, rate: float, path=None, *, width: int = 31, kernels: Sequence[str] = ('lax', 'scan')
) -> tuple[Figure, Mapping[str, float]]:
    """Draws spectrograms of a sound before and after 1-D filters.

    Args:
        signal: (N,) samples in [-1, 1].
        rate: samples per second.
        path: where to write the PNG.
        width: number of taps of the filters, odd.
        kernels: implementations of `conv` to compare.

    Returns:
        The figure, and kernel -> largest difference from NumPy's float64 result.
    """
    signal = np.asarray(signal, np.float32)
    results, errors = {'input': signal}, dict.fromkeys(kernels, 0.0)
    for name, filter in audio_filters(width).items():
        expected = np.convolve(signal.astype(np.float64), filter[::-1].astype(np.float64), 'same')
        for kernel in kernels:
            y = ops.conv(signal[:, None], filters.as_kernel(filter, 1), implementation=kernel)
            results[name] = np.asarray(y)[:, 0]
            errors[kernel] = max(errors[kernel], float(np.abs(results[name] - expected).max()))
    figure = new_figure(10, 1.9 * len(results) + 0.5)
    grid = figure.subplots(len(results), 2, sharex=True, squeeze=False)
    seconds = np.arange(len(signal)) / rate
    for (left, right), (name, values) in zip(grid, results.items(), strict=True):
        left.plot(seconds, values, linewidth=0.4)
        left.set_ylabel('amplitude')
        left.set_title(name, fontsize=9)
        power, frequencies, times = _spectrogram(values, rate)
        drawn = right.pcolormesh(times, frequencies / 1e3, power, vmin=-80, vmax=0, shading='auto')
        right.set_ylabel('frequency (kHz)')
        right.set_title(name, fontsize=9)
        figure.colorbar(drawn, ax=right).set_label('dB')
    for axes in grid[-1]:
        axes.set_xlabel('time (s)')
    figure.suptitle('1-D convolution of a sound: wave and spectrogram', fontsize=11)
    return save(figure, path), errors


def _spectrogram(signal, rate, window: int = 256):
    """Returns power in dB relative to the loudest possible tone, and its frequencies and times."""
    count = max(1, (len(signal) - window) // (window // 2) + 1)
    frames = np.stack([signal[i * window // 2 :][:window] for i in range(count)])
    frames = np.pad(frames, [(0, 0), (0, window - frames.shape[1])]) * np.hanning(window)
    power = np.abs(np.fft.rfft(frames)).T / (window / 4)
    times = (np.arange(count) * window / 2 + window / 2) / rate
    return 20 * np.log10(power + 1e-6), np.fft.rfftfreq(window, 1 / rate), times
