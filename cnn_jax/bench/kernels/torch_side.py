"""Times convolution problems in PyTorch, in a separate process that never loads JAX.

    echo '[...jobs...]' | python -P cnn_jax/bench/kernels/torch_side.py cpu 5

Two thread pools in one process would slow each other down. `times` starts the process.
"""

import json
import pathlib
import statistics
import sys
import time
from typing import Any


def times(
    jobs: list[dict], *, device: str = 'cpu', rounds: int = 5, evict: int = 0
) -> list[float | str]:
    """Returns the seconds per call of each job, or an error message if the job failed.

    Args:
        jobs: dicts with `op` ('conv' or 'conv_transpose'), `direction`, `dtype`, `x_shape`,
            `w_shape`, `y_shape` (channels last, as in ConvSpec), `strides`, `padding` ((lo, hi) per
            axis), `dilation`, `groups`, `output_padding`; see `job`.
        device: 'cpu' or 'cuda'.
        rounds: number of samples; the median is used.
        evict: bytes to read and write before each call, to empty the caches; not timed.

    Raises:
        ImportError: PyTorch is not installed.
        RuntimeError: the process failed.
    """
    from cnn_jax.bench.process import run_python  # the script itself runs without cnn_jax

    command = ['-P', str(pathlib.Path(__file__).resolve()), device, str(rounds), str(evict)]
    return json.loads(run_python(command, what='PyTorch', given=json.dumps(jobs)))


def job(problem: Any, direction: str, dtype: str) -> dict | None:
    """Converts a `Problem` to a job for `times`; returns None for a pool and for int8.

    PyTorch's convolution of int8 returns int8.
    """
    if problem.op.endswith('pool') or dtype == 'int8':
        return None
    return {
        'op': problem.op,
        'direction': direction,
        'dtype': dtype,
        'x_shape': (problem.batch, *problem.input_size, problem.in_features),
        'w_shape': problem.spec().kernel_shape,
        'y_shape': (problem.batch, *problem.output_size, problem.out_features),
        'strides': problem.strides,
        'padding': problem.padding,
        'dilation': problem.dilation,
        'groups': problem.groups,
        'output_padding': problem.output_padding,
    }


def _main(device: str, rounds: int, evict: int = 0) -> None:
    import torch

    torch.manual_seed(0)
    buffer = torch.zeros(evict // 4, device=device) if evict else None
    results = []
    for job in json.load(sys.stdin):
        try:
            results.append(seconds(call(job, torch, device), torch, device, rounds, buffer))
        except Exception as error:  # shown in PyTorch's column
            results.append(f'{type(error).__name__}: {str(error).splitlines()[0]}')
    json.dump(results, sys.stdout)


def call(job, torch, device, arrays=None):
    """Returns a function without arguments that runs the job once, in channels-last memory.

    Args:
        arrays: NumPy arrays of float32 or float64 by their names 'x', 'w' and 'y', in the shapes of
            the job, to use instead of random numbers.
    """
    dtype = getattr(torch, job['dtype'])
    ndim = len(job['strides'])
    transposed = job['op'] == 'conv_transpose'
    last = {2: torch.channels_last, 3: torch.channels_last_3d}.get(ndim, torch.contiguous_format)

    def tensor(name):
        shape = job[f'{name}_shape']
        values = torch.from_numpy(arrays[name]) if arrays else torch.randn(tuple(shape))
        first = (-1, -2, *range(len(shape) - 2)) if name == 'w' else (0, -1, *range(1, ndim + 1))
        return values.permute(first).to(device=device, dtype=dtype, memory_format=last)

    x, y = tensor('x'), tensor('y')
    padding = [lo for lo, _ in job['padding']]
    prepare, crop = (lambda x: x), (lambda dx: dx)
    if any(lo != hi for lo, hi in job['padding']):
        # PyTorch pads both sides equally; unequal padding needs a separate pad beforehand.
        if transposed:
            raise ValueError('PyTorch crops both sides equally')
        flat = [side for pair in reversed(job['padding']) for side in pair]
        sizes = zip(job['padding'], job['x_shape'][1:-1], strict=True)
        cut = tuple(slice(lo, lo + n) for (lo, _), n in sizes)
        padding = [0] * ndim
        prepare = lambda x: torch.nn.functional.pad(x, flat)  # noqa: E731
        crop = lambda dx: dx[(slice(None), slice(None), *cut)]  # noqa: E731
    w = tensor('w')
    rest = (
        job['strides'],
        padding,
        job['dilation'],
        transposed,
        job['output_padding'],
        job['groups'],
    )
    if job['direction'] == 'forward':
        return lambda: torch.ops.aten.convolution(prepare(x), w, None, *rest)
    mask = [job['direction'] == 'input_grad', job['direction'] == 'filter_grad', False]
    padded = prepare(x)
    backward = torch.ops.aten.convolution_backward
    if mask[0]:
        return lambda: crop(backward(y, padded, w, None, *rest, mask)[0])
    return lambda: backward(y, prepare(x), w, None, *rest, mask)


def seconds(function, torch, device, rounds, buffer=None):
    """Returns the median seconds per call of `rounds` samples.

    Args:
        buffer: a tensor larger than the caches, which is written before each call to empty them.
    """

    def wait():
        if device == 'cuda':
            torch.cuda.synchronize()

    def timed(count):
        start = time.perf_counter()
        for _ in range(count):
            function()
        wait()
        return time.perf_counter() - start

    def run(count):
        if buffer is None:
            return timed(count) / count
        total = 0.0
        for _ in range(count):
            buffer.add_(1)
            wait()
            total += timed(1)
        return total / count

    with torch.no_grad():
        run(1)
        count = max(1, round(0.01 / max(run(1), 1e-9)))
        return statistics.median(run(count) for _ in range(rounds))


if __name__ == '__main__':
    _main(sys.argv[1], *map(int, sys.argv[2:]))
