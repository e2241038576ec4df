"""Measures one side of a comparison with a framework's `Run`, and writes its results.

This file imports neither JAX nor PyTorch. `jax_side` and `torch_side` each run it in a separate
process, so that speed and memory of both are measured in the same way.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np
import tqdm


def batches_of(folder, order, number):
    """Returns (rows, inputs) of every training step; inputs are None without augmentation."""
    path, steps = folder / f'augmented_{number}.npy', order[number]
    inputs = np.load(path, mmap_mode='r') if path.exists() else [None] * len(steps)
    return list(zip(steps, inputs, strict=True))


def mean_iou(labels, predicted, classes):
    """Returns the mean intersection over union of the classes that occur in either mask."""
    found = []
    for c in range(classes):
        union = np.count_nonzero((labels == c) | (predicted == c))
        if union:
            found.append(np.count_nonzero((labels == c) & (predicted == c)) / union)
    return float(np.mean(found))


def measure(folder, side, run_class):
    """Runs the task in a folder (see `compare`) and writes FOLDER/<side>.npz.

    Args:
        folder: folder of the task.
        side: 'jax' or 'torch'.
        run_class: `run_class(task, data, weights, dtype)` is one training, with the methods
            `gradient(rows, inputs)` -> logits and gradients by name, `step(rows, inputs)` -> loss,
            `parameters()` -> arrays by name, and `test()` -> the result on the test examples.
    """
    folder = pathlib.Path(folder)
    task = json.loads((folder / 'task.json').read_text())
    data = dict(np.load(folder / 'data.npz'))
    first = batches_of(folder, data['order'], 0)
    results = {}
    for dtype in ('float32', 'float64'):
        run = run_class(task, data, np.load(folder / 'weights_0.npz'), dtype)
        logits, gradients = run.gradient(*first[0])
        results[f'{dtype}/logits'] = logits
        results |= {f'{dtype}/gradient/{name}': value for name, value in gradients.items()}
        run = run_class(task, data, np.load(folder / 'weights_0.npz'), dtype)
        losses = []
        for step in range(task['compared_steps']):
            losses.append(run.step(*first[step]))
            if step + 1 in task['kept_steps']:
                kept = run.parameters()
                results |= {f'{dtype}/step/{step + 1}/{name}': kept[name] for name in kept}
        results[f'{dtype}/losses'] = np.array(losses)
    for seed in range(task['seeds']):
        run = run_class(task, data, np.load(folder / f'weights_{seed}.npz'), 'float32')
        losses, times = [], []
        batches = batches_of(folder, data['order'], seed)
        for batch in tqdm.tqdm(batches, f'{side}, seed {seed}', file=sys.stdout, disable=None):
            start = time.perf_counter()
            losses.append(run.step(*batch))
            times.append(time.perf_counter() - start)
        results[f'train/{seed}/losses'] = np.array(losses)
        results[f'train/{seed}/seconds'] = np.array(times)
        results[f'train/{seed}/test'] = np.array(run.test())
    results['memory'] = np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    np.savez(folder / f'{side}.npz', **results)
