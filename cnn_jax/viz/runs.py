"""Pictures of a training run: learning curves, confusion matrix, filters, feature maps.

Every function takes arrays, writes a PNG if `path` is given, and returns the Figure, so that a test
or a notebook can inspect what was drawn. Only matplotlib's object interface is used: there is
no current figure, no backend to choose, and nothing to close.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from cnn_jax.errors import UserError
from cnn_jax.viz.figures import log_ticks, new_figure, plain, save
from cnn_jax.viz.tiles import feature_maps, filters

__all__ = ['confusion_matrix', 'feature_maps', 'filters', 'learning_curves']

COLOURS = {'train': 'tab:blue', 'validation': 'tab:green', 'test': 'tab:orange'}
MAX_COUNTS = 25  # with more classes, counts in the cells would be too small to read


def learning_curves(
    rows: Sequence[Mapping], path=None, *, title: str = '', metric: str = 'accuracy'
) -> Figure:
    """Draws the loss and another metric against the training step.

    Args:
        rows: metrics in order, one mapping per line of metrics.jsonl: `step`, optionally `epoch`,
            and any of `{train,validation,test}_{loss,<metric>}`. A row need not have every key.
            Losses are in nats (or the unit of the loss), and accuracies are fractions.
        path: where to write the PNG.
        title: text above the panels.
        metric: the metric beside the loss; an accuracy is drawn in per cent.

    Raises:
        ValueError: no row has a step and one of the two.
    """
    series = {
        (split, quantity): _series(rows, f'{split}_{quantity}')
        for quantity in dict.fromkeys(('loss', metric))
        for split in COLOURS
    }
    series = {key: points for key, points in series.items() if len(points[0])}
    quantities = [q for q in ('loss', metric) if any(key[1] == q for key in series)]
    quantities = list(dict.fromkeys(quantities))
    if not quantities:
        raise UserError(
            f'rows: none of the {len(rows)} rows has a step and a loss or {metric}; expected keys '
            f'like step, epoch, train_loss, test_{metric}'
        )
    figure = new_figure(5.2 * len(quantities), 3.8)
    for axes, quantity in zip(
        np.ravel(figure.subplots(1, len(quantities))), quantities, strict=True
    ):
        for split, colour in COLOURS.items():
            if (split, quantity) not in series:
                continue
            steps, values = series[split, quantity]
            if quantity == 'accuracy':
                values = 100 * values
            dense = len(steps) > 100
            axes.plot(
                steps,
                values,
                color=colour,
                label=None if dense else split,
                marker=None if len(steps) > 30 else 'o',
                markersize=3.5,
                linewidth=0.6 if dense else 1.5,
                alpha=0.35 if dense else 1.0,
            )
            if dense:
                axes.plot(*_block_means(steps, values), color=colour, label=split, linewidth=1.6)
        _finish_curves(axes, quantity, rows)
    if title:
        figure.suptitle(plain(title))
    return save(figure, path)


def _series(rows, name):
    points = [
        (row['step'], row[name]) for row in rows if 'step' in row and row.get(name) is not None
    ]
    array = np.asarray(points, np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _block_means(steps, values, blocks=50):
    """Averages over consecutive blocks, which shows the trend of a noisy curve without a lag."""
    edges = np.linspace(0, len(steps), blocks + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(steps)))
    return np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts


def _finish_curves(axes, quantity, rows):
    lines = np.concatenate([line.get_ydata() for line in axes.lines])
    finite = lines[np.isfinite(lines)]
    if quantity == 'loss':
        axes.set_title('Loss')
        axes.set_ylabel('loss (mean per example)')
        if len(finite) and finite.min() > 0 and finite.max() > 10 * finite.min():
            axes.set_yscale('log')
            log_ticks(axes.yaxis)
    else:
        name = plain(quantity.replace('_', ' '))
        axes.set_title(name[:1].upper() + name[1:])
        axes.set_ylabel(f'{name} (%)' if quantity == 'accuracy' else name)
    axes.set_xlabel('training step')
    axes.grid(alpha=0.3, which='both')
    axes.legend()
    per_epoch = [row['step'] / row['epoch'] for row in rows if row.get('epoch') and row.get('step')]
    if per_epoch:
        # Rows are written during or at the end of an epoch. The last row is exact to one step.
        ratio = per_epoch[-1]
        above = axes.secondary_xaxis('top', functions=(lambda s: s / ratio, lambda e: e * ratio))
        above.set_xlabel('epoch')


def confusion_matrix(matrix, class_names: Sequence[str], path=None, *, title: str = '') -> Figure:
    """Draws counts of (true class, predicted class), coloured by the share of the true class.

    Args:
        matrix: (K, K) counts; rows are the true classes, columns the predicted ones.
        class_names: K names.
        path: where to write the PNG.
        title: text above the picture; the overall accuracy is always shown.

    Raises:
        ValueError: `matrix` is not square or contains negative or non-finite numbers, or the
            number of names differs.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise UserError(f'matrix: expected (K, K) counts, got shape {matrix.shape}')
    if not np.all(np.isfinite(matrix)) or np.any(matrix < 0):
        raise UserError('matrix: counts must be finite and >= 0')
    if len(class_names) != len(matrix):
        raise UserError(f'class_names: expected {len(matrix)} names, got {len(class_names)}')
    count = len(matrix)
    totals = matrix.sum(axis=1)
    share = matrix / np.maximum(totals, 1)[:, None]
    recall = np.where(totals > 0, 100 * np.diag(share), np.nan)
    side = min(max(4.2, 0.42 * count + 2.0), 14.0)
    figure = new_figure(side + 2.0, side)
    left, right = figure.subplots(1, 2, width_ratios=[5, 1], sharey=True)

    picture = left.imshow(share, cmap='Blues', vmin=0, vmax=1, aspect='auto')
    size = 9 if count <= 12 else 7 if count <= MAX_COUNTS else 5
    if count <= MAX_COUNTS:
        for (row, column), value in np.ndenumerate(matrix):
            if value:
                left.text(
                    column,
                    row,
                    f'{value:g}',
                    ha='center',
                    va='center',
                    fontsize=size if value < 1000 else size - 1.5,
                    color='white' if share[row, column] > 0.5 else 'black',
                )
    names = [plain(str(name)) for name in class_names]
    turned = max(map(len, names)) > 2
    left.set_xticks(range(count), names, rotation=90 if turned else 0, fontsize=size)
    left.set_yticks(range(count), names, fontsize=size)
    left.set_xlabel('predicted class')
    left.set_ylabel('true class')
    accuracy = np.trace(matrix) / max(matrix.sum(), 1)
    text = f'accuracy {100 * accuracy:.2f} % of {matrix.sum():g} examples'
    left.set_title(f'{plain(title)}\n{text}' if title else text, fontsize=10)
    bar = figure.colorbar(picture, ax=[left, right], shrink=0.6)
    bar.set_label('share of the true class')

    right.barh(range(count), np.nan_to_num(recall), color='tab:blue', height=0.8)
    for row, value in enumerate(recall):
        right.text(
            3,
            row,
            'no examples' if np.isnan(value) else f'{value:.1f}',
            va='center',
            fontsize=size,
            color='white' if value > 50 else 'black',
        )
    right.set_xlim(0, 100)
    right.set_xlabel('recall (%)')
    right.tick_params(axis='y', labelleft=False, left=False)
    return save(figure, path)
