"""Runs the PyTorch side of the comparison: `python -P torch_side.py FOLDER`.

It runs in a separate process and loads neither JAX nor this package. `compare` writes the folder
and documents its content. The results are written to FOLDER/torch.npz.
"""

import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from measure import mean_iou, measure  # noqa: E402
from torch_networks import NETWORKS, from_torch, to_torch  # noqa: E402


def inputs_for(task, array, dtype):
    if task['kind'] == 'text':
        return torch.from_numpy(array.astype(np.int64))
    x = torch.from_numpy(array).to(dtype)
    return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1)).contiguous()


def loss_of(task, logits, labels):
    if task['loss'] == 'pixels':
        return F.binary_cross_entropy_with_logits(logits, labels)
    return F.cross_entropy(logits, labels)


def optimizer_for(config, trained, fused=None):
    """Returns the optimiser of a recipe, with weight decay on kernels only."""
    kernels = [p for n, p in trained.items() if n.endswith('/kernel')]
    others = [p for n, p in trained.items() if not n.endswith('/kernel')]
    groups = [
        {'params': kernels, 'weight_decay': config['weight_decay']},
        {'params': others, 'weight_decay': 0.0},
    ]
    if config['optimizer'] == 'sgd':
        nesterov = config['nesterov'] and config['momentum'] > 0
        momentum = config['momentum']
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov, fused=fused)
    adam = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[config['optimizer']]
    return adam(groups, lr=0.0, betas=(config['beta1'], 0.999), fused=fused)


class Run:
    """One training from one set of initial weights."""

    def __init__(self, task, data, weights, dtype):
        self.task, self.data, self.dtype = task, data, getattr(torch, dtype)
        self.network = NETWORKS[task['config']['model']]
        self.p = {n: torch.tensor(to_torch(n, a)).to(self.dtype) for n, a in weights.items()}
        self.trained = [n for n in self.p if not n.endswith(('/mean', '/var'))]
        for name in self.trained:
            self.p[name].requires_grad_(True)
        self.p['training'] = True
        self.optimizer = optimizer_for(task['config'], {n: self.p[n] for n in self.trained})
        self.rates = iter(task['learning_rates'])

    def batch(self, rows, inputs=None, split='train'):
        """Returns the arguments of a step; `inputs`, if given, replace those of the data."""
        x = self.data[f'{split}_inputs'][rows] if inputs is None else np.array(inputs)
        if self.task['loss'] == 'pixels':
            return inputs_for(self.task, x, self.dtype), torch.from_numpy(x).to(self.dtype)
        labels = torch.from_numpy(self.data[f'{split}_labels'][rows].astype(np.int64))
        return inputs_for(self.task, x, self.dtype), labels

    def gradient(self, rows, inputs=None):
        logits, _ = self._backward(rows, inputs)
        if self.data['train_labels'].ndim > 1:
            logits = logits.movedim(1, -1)  # of every pixel, channels last as in JAX
        return logits.detach().numpy(), self._arrays(lambda p: p.grad)

    def step(self, rows, inputs=None):
        _, loss = self._backward(rows, inputs)
        rate = next(self.rates)
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        self.optimizer.step()
        return float(loss)

    def parameters(self):
        return self._arrays(lambda p: p)

    def _backward(self, rows, inputs):
        x, labels = self.batch(rows, inputs)
        self.optimizer.zero_grad()
        logits = self.network(self.p, x)
        loss = loss_of(self.task, logits, labels)
        loss.backward()
        return logits, loss

    def _arrays(self, what):
        return {n: from_torch(n, what(self.p[n]).detach().numpy().copy()) for n in self.trained}

    def test(self):
        """Returns the test accuracy, the test loss for pixels, or the mean IoU for masks."""
        self.p['training'] = False
        total, size, predicted = 0.0, len(self.data['test_inputs']), []
        with torch.no_grad():
            for start in range(0, size, 250):
                x, labels = self.batch(slice(start, start + 250), split='test')
                logits = self.network(self.p, x)
                if self.task['loss'] == 'pixels':
                    total += float(loss_of(self.task, logits, labels)) * len(labels)
                elif labels.ndim > 1:
                    predicted.append(logits.argmax(1).numpy())
                else:
                    total += float((logits.argmax(1) == labels).sum())
        if predicted:
            masks = self.data['test_labels']
            return mean_iou(masks, np.concatenate(predicted), self.task['num_classes'])
        return total / size


if __name__ == '__main__':
    measure(sys.argv[1], 'torch', Run)
