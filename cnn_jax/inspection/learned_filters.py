"""Learned first layers of signal and text models: spectra of filters, n-grams they respond to.

Every drawing function writes a PNG if `path` is given, and returns the Figure.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax.errors import optional_packages

with optional_packages('viz'):
    from matplotlib.figure import Figure

from cnn_jax.errors import UserError
from cnn_jax.viz.figures import new_figure, save

BINS = 512  # length of the transform; gives a smooth curve even for short windows


def spectra(kernel: np.ndarray, rate: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Computes how strongly each filter responds to each frequency.

    Args:
        kernel: (window, channels, filters).
        rate: samples per second; 1 gives frequencies in cycles per sample.

    Returns:
        Frequencies, float64 (BINS // 2 + 1,), and the magnitude of the Fourier transform of every
        filter, float64 (filters, BINS // 2 + 1). Channels are combined by summing their power.
    """
    size = max(BINS, len(kernel))
    transformed = np.fft.rfft(np.asarray(kernel, np.float64), size, axis=0)
    power = (np.abs(transformed) ** 2).sum(axis=1)
    return np.fft.rfftfreq(size, 1 / rate), np.sqrt(power).T


def draw_spectra(
    kernel: np.ndarray, rate: float | None, path=None, *, title: str = '', count: int = 12
) -> Figure:
    """Draws all spectra as an image, ordered by strongest frequency, and some filters as curves.

    Args:
        kernel: (window, channels, filters); curves show the first channel.
        rate: samples per second; None if unknown.
        path: where to write the PNG.
        title: text above the picture.
        count: number of filters drawn as curves, evenly spaced in that order.
    """
    frequencies, magnitudes = spectra(kernel, rate or 1.0)
    units = ('frequency (Hz)', 'time (ms)') if rate else ('cycles per sample', 'time (samples)')
    order = np.argsort(frequencies[magnitudes.argmax(1)], kind='stable')
    share = magnitudes / np.maximum(magnitudes.max(1, keepdims=True), 1e-30)
    chosen = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    columns = 3
    rows = -(-len(chosen) // columns)
    figure = new_figure(13, 1.15 * rows + 1.2)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2.6])

    axes = left.subplots()
    edges = (0, frequencies[-1], len(order) - 0.5, -0.5)
    drawn = axes.imshow(share[order], aspect='auto', cmap='magma', vmin=0, vmax=1, extent=edges)
    axes.set_xlabel(units[0])
    axes.set_ylabel('filter, by its strongest frequency')
    axes.set_title(f'spectra of all {len(order)} filters', fontsize=10)
    left.colorbar(drawn, ax=axes, location='bottom', shrink=0.8).set_label('share of its maximum')

    grid = right.subplots(rows, 2 * columns, squeeze=False)
    time = np.arange(len(kernel)) * (1000 / rate if rate else 1)
    for place in range(rows * columns):
        wave, spectrum = grid[place // columns, 2 * (place % columns) :][:2]
        if place >= len(chosen):
            wave.set_axis_off()
            spectrum.set_axis_off()
            continue
        number = order[chosen[place]]
        wave.plot(time, kernel[:, 0, number], linewidth=0.9, color='tab:blue')
        wave.axhline(0, linewidth=0.4, color='grey')
        wave.set_yticks([])
        spectrum.fill_between(frequencies, share[number], linewidth=0.8, color='tab:orange')
        spectrum.set_ylim(0, 1.05)
        spectrum.set_yticks([])
        peak = frequencies[magnitudes[number].argmax()]
        wave.set_title(f'filter {number}', fontsize=8, pad=2)
        spectrum.set_title(f'{peak:.0f} Hz' if rate else f'{peak:.2f}', fontsize=8, pad=2)
        last = place + columns >= len(chosen)
        for axes, label in ((wave, units[1]), (spectrum, units[0])):
            axes.tick_params(labelsize=7, labelbottom=last)
            if last:
                axes.set_xlabel(label, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return save(figure, path, colours=128)


@dataclasses.dataclass(frozen=True)
class NGram:
    """A sequence of words, and the greatest response of a filter to it."""

    words: tuple[str, ...]
    value: float


def best_ngrams(
    responses: np.ndarray, ids: np.ndarray, words: Sequence[str], window: int, count: int = 3
) -> list[list[NGram]]:
    """Returns the distinct n-grams that each filter responds to most, strongest first.

    Args:
        responses: (N, positions, filters) output of a convolution without padding and with
            stride 1.
        ids: int (N, positions + window - 1), the texts.
        words: the vocabulary.
        window: number of words that a filter sees.
        count: n-grams per filter; fewer if the filter responds (above 0) to fewer.

    Raises:
        ValueError: the shapes do not match.
    """
    n, positions, filters = responses.shape
    if ids.shape != (n, positions + window - 1):
        raise UserError(
            f'ids {ids.shape} must be {(n, positions + window - 1)} for responses '
            f'{responses.shape} of window {window}'
        )
    grams = np.lib.stride_tricks.sliding_window_view(ids, window, axis=1).reshape(-1, window)
    grams, of = np.unique(grams, axis=0, return_inverse=True)
    values = np.zeros((len(grams), filters), responses.dtype)
    np.maximum.at(values, of.reshape(-1), responses.reshape(-1, filters))
    found = []
    for column in values.T:
        top = np.argsort(-column, kind='stable')[:count]
        found.append(
            [
                NGram(tuple(words[i] for i in grams[row]), float(column[row]))
                for row in top
                if column[row] > 0
            ]
        )
    return found


@dataclasses.dataclass(frozen=True)
class Voter:
    """A filter that contributes to the logit of a class.

    Attributes:
        name: name of the filter, for example 'conv3[17]'.
        weight: weight of the filter's maximum in the logit of the class.
        ngrams: see `best_ngrams`.
    """

    name: str
    weight: float
    ngrams: Sequence[NGram]


def voters(
    ngrams: Mapping[str, Sequence[Sequence[NGram]]], kernel: np.ndarray, count: int = 4
) -> list[list[Voter]]:
    """Returns, for every class, the filters that can raise its logit most, by weight x response.

    Args:
        ngrams: layer -> filter -> n-grams, in the order of the dense layer's inputs.
        kernel: (all filters, classes), the kernel of the dense layer applied to their maxima.
        count: number of filters per class.
    """
    names = [(layer, i) for layer, filters in ngrams.items() for i in range(len(filters))]
    found = [ngrams[layer][i] for layer, i in names]
    strongest = np.array([some[0].value if some else 0.0 for some in found])
    score = kernel * strongest[:, None]
    result = []
    for label in range(kernel.shape[1]):
        best = np.argsort(-score[:, label], kind='stable')[:count]
        result.append(
            [
                Voter(f'{names[row][0]}[{names[row][1]}]', float(kernel[row, label]), found[row])
                for row in best
            ]
        )
    return result


def draw_ngrams(
    found: Sequence[Sequence[Voter]], class_names: Sequence[str], path=None, *, title: str = ''
) -> Figure:
    """Draws one block per class: its filters, and the n-grams that each responds to most.

    A stronger response has a darker background.

    Args:
        found: see `voters`.
        class_names: one name per class.
        path: where to write the PNG.
        title: text above the picture.
    """
    lines = sum(map(len, found)) + len(found)
    columns = max(len(voter.ngrams) for some in found for voter in some)
    figure = new_figure(2.2 + 3.2 * columns, 0.24 * lines + 0.8)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 2.2 + 3.2 * columns)
    axes.set_ylim(lines, -0.6)
    greatest = max((g.value for some in found for v in some for g in v.ngrams), default=1.0)
    line = 0
    for name, some in zip(class_names, found, strict=True):
        axes.text(0.05, line, name, fontsize=10, fontweight='bold', va='center')
        line += 1
        for voter in some:
            label = f'{voter.name}  weight {voter.weight:+.2f}'
            axes.text(0.15, line, label, fontsize=8, va='center', family='monospace')
            for column, gram in enumerate(voter.ngrams):
                shown = ' '.join(gram.words)
                strength = gram.value / greatest
                axes.text(
                    2.45 + 3.2 * column,
                    line,
                    f'{gram.value:.1f}  {shown if len(shown) <= 42 else shown[:41] + "…"}',
                    fontsize=8,
                    va='center',
                    bbox={'facecolor': (1, 0.6, 0.2, 0.8 * strength), 'pad': 1.5, 'linewidth': 0},
                )
            line += 1
    axes.set_title(title, fontsize=11)
    return save(figure, path, colours=128)
