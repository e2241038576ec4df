"""Times a training step in PyTorch: `python -P torch_side.py`, with a task on stdin.

Task and result are those of `jax_side`, except that `library` is 'torch' or 'torch.compile', and
that the task may have a `device`, 'cpu' or 'cuda'. This process loads neither JAX nor this package.
Networks use channels-last memory where PyTorch supports it; bfloat16 uses autocast.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

COMPARED, FEWEST = 3, 3  # as in `jax_side`


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Join(nn.Module):
    def __init__(self, branches, join):
        super().__init__()
        self.branches, self.join = nn.ModuleList(branches), join

    def forward(self, x):
        return self.join([branch(x) for branch in self.branches])


class Embed(nn.Embedding):
    def forward(self, x):
        return super().forward(x).transpose(1, 2)


def build(layers, shape):
    """Returns a module and its output shape (channels first, without the batch)."""
    made = []
    for kind, *args in layers:
        module, shape = MAKERS[kind](args, shape)
        made.append(module)
    return nn.Sequential(*made), shape


def _conv(args, shape):
    features, window, strides, groups, bias = args
    cls = (nn.Conv1d, nn.Conv2d)[len(window) - 1]
    half = [(k - 1) // 2 for k in window]
    size = [
        (n + 2 * p - k) // s + 1
        for n, p, k, s in zip(shape[1:], half, window, strides, strict=True)
    ]
    layer = cls(shape[0], features, window, strides, half, groups=groups, bias=bias)
    return layer, (features, *size)


def _deconv(args, shape):
    features, window, strides = args
    size = [(n - 1) * s + k - 2 for n, s, k in zip(shape[1:], strides, window, strict=True)]
    return nn.ConvTranspose2d(shape[0], features, window, strides, 1), (features, *size)


def _max_pool(args, shape):
    (window,) = args
    cls = (nn.MaxPool1d, nn.MaxPool2d)[len(window) - 1]
    sizes = [n // k for n, k in zip(shape[1:], window, strict=True)]
    return cls(tuple(window)), (shape[0], *sizes)


def _batch_norm(args, shape):
    cls = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)]
    return cls(shape[0]), shape


def _residual(args, shape):
    made = [build(layers, shape) for layers in args]
    return Join([m for m, _ in made], sum), made[0][1]


def _parallel(args, shape):
    made = [build(layers, shape) for layers in args[0]]
    return Join([m for m, _ in made], lambda parts: torch.cat(parts, 1)), (
        sum(s[0] for _, s in made),
    )


def _model(args, shape):
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from torch_twins import twin

    name, classes, shapes = args
    return twin(name, classes, shapes), (classes,)


def _count(shape):
    return int(np.prod(shape))


def _last(shape):
    """Converts a shape (*size, C) to (C, *size)."""
    return (shape[-1], *shape[:-1])


MAKERS = {
    'conv': _conv,
    'deconv': _deconv,
    'max_pool': _max_pool,
    'batch_norm': _batch_norm,
    'residual': _residual,
    'parallel': _parallel,
    'model': _model,
    'embed': lambda args, shape: (Embed(*args), (args[1], *shape)),
    'dense': lambda args, shape: (nn.Linear(shape[0], args[0]), (args[0],)),
    'relu': lambda args, shape: (nn.ReLU(), shape),
    'global_avg': lambda args, shape: (Apply(lambda x: x.flatten(2).mean(2)), shape[:1]),
    'global_max': lambda args, shape: (Apply(lambda x: x.flatten(2).amax(2)), shape[:1]),
    'flatten': lambda args, shape: (nn.Flatten(), (_count(shape),)),
    'unflatten': lambda args, shape: (nn.Unflatten(1, _last(args[0])), _last(args[0])),
}


def _batch(network):
    rng = np.random.default_rng(0)
    shape, classes = network['inputs'], network['classes']
    if network['tokens']:
        inputs = torch.from_numpy(rng.integers(1, network['tokens'], shape, dtype=np.int32)).long()
    else:
        inputs = torch.from_numpy(rng.standard_normal(shape, np.float32))
        if inputs.ndim > 2:
            inputs = inputs.movedim(-1, 1)  # a view, so memory stays channels-last
            inputs = inputs.contiguous() if inputs.ndim == 3 else inputs
    if classes:
        size = shape[:-1] if network['is_dense'] else shape[0]
        return inputs, torch.from_numpy(rng.integers(0, classes, size, dtype=np.int32)).long()
    return inputs, torch.from_numpy(rng.standard_normal((shape[0], 64, 64, 3), np.float32)).movedim(
        -1, 1
    )


def run(task):
    torch.manual_seed(0)
    network = task['network']
    shape = tuple(network['inputs'][1:])
    is_plain = network['tokens'] or len(shape) == 1
    model, _ = build(network['layers'], shape if is_plain else _last(shape))
    if len(shape) != 2:
        model = model.to(memory_format=torch.channels_last)
    device = task.get('device', 'cpu')
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs, targets = (tensor.to(device) for tensor in _batch(network))

    def loss_of(inputs, targets):
        with torch.autocast(device, torch.bfloat16, enabled=task['dtype'] == 'bfloat16'):
            outputs = model(inputs)
        outputs = outputs.float()
        return (F.cross_entropy if network['classes'] else F.mse_loss)(outputs, targets)

    if task['library'] == 'torch.compile':
        loss_of = torch.compile(loss_of)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(inputs, targets)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    start = time.perf_counter()
    losses = [step()]
    first, times = time.perf_counter() - start, []
    losses += [step() for _ in range(COMPARED - 1)]
    while len(times) < FEWEST or sum(times) < task['seconds']:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    result = {
        'losses': losses,
        'compile_s': first,
        'step_s': times,
        'parameters': sum(p.numel() for p in model.parameters()),
        'memory_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        'device_bytes': torch.cuda.max_memory_allocated() if device == 'cuda' else None,
    }
    if count := task.get('traced_steps'):
        sys.path.insert(0, str(pathlib.Path(__file__).parent))
        from torch_trace import trace

        result['parts_s'] = trace(step, count)
    return result


if __name__ == '__main__':
    json.dump(run(json.load(sys.stdin)), sys.stdout)
