"""The PyTorch side of the comparison of whole networks: `python -P torch_side.py FOLDER`.

Runs in its own process and loads neither JAX nor this package. The networks are written here a
second time, with PyTorch's functions, from their descriptions; only the names of parameters are
shared. `twins` writes the folder and describes it; results go to FOLDER/torch.npz.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
import tqdm


def lecture_cnn(p, x):
    for i in (1, 2):
        x = F.max_pool2d(F.relu(conv(p, f'layers/conv{i}', x, padding='same')), 2)
    x = flatten(x)
    return dense(p, 'layers/logits', F.relu(dense(p, 'layers/dense1', x)))


def vgg16(p, x):
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, count + 1):
            x = conv(p, f'layers/conv{stage}_{i}', x, padding=1)
            if f'layers/bn{stage}_{i}/scale' in p:
                x = batch_norm(p, f'layers/bn{stage}_{i}', x)
            x = F.relu(x)
        x = F.max_pool2d(x, 2)
    return dense(p, 'layers/fc8', x.mean((2, 3)))


def cifar_resnet20(p, x):
    x = F.relu(batch_norm(p, 'layers/bn1', conv(p, 'layers/conv1', x, padding=1)))
    for stage in (1, 2, 3):
        for i in range(3):
            at = f'layers/layer{stage}/block{i}'
            stride = 2 if stage > 1 and i == 0 else 1
            y = conv(p, f'{at}/conv1', x, stride=stride, padding=1)
            y = F.relu(batch_norm(p, f'{at}/bn1', y))
            y = batch_norm(p, f'{at}/bn2', conv(p, f'{at}/conv2', y, padding=1))
            x = x[:, :, ::stride, ::stride]
            x = F.relu(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])))
    return dense(p, 'layers/fc', x.mean((2, 3)))


def m5(p, x):
    for i in range(1, 5):
        if i == 1:
            x = conv(p, 'layers/conv1', same(x, 80, 4), stride=4)
        else:
            x = conv(p, f'layers/conv{i}', x, padding=1)
        x = F.max_pool1d(F.relu(batch_norm(p, f'layers/bn{i}', x)), 4)
    return dense(p, 'layers/fc', x.mean(2))


def textcnn(p, ids):
    x = F.embedding(ids, p['embed/embedding']) * (ids != 0)[..., None]
    x = x.transpose(1, 2)
    pooled = [F.relu(conv(p, f'conv{w}', x)).amax(2) for w in (3, 4, 5)]
    return dense(p, 'logits', torch.cat(pooled, 1))


def autoencoder(p, x):
    for i in (1, 2):
        x = F.relu(conv(p, f'encoder/conv{i}', same(x, 3, 2), stride=2))
    shape = x.shape
    x = F.relu(dense(p, 'encoder/dense', flatten(x)))
    x = dense(p, 'encoder/code', x)
    x = F.relu(dense(p, 'decoder/dense', x))
    x = x.reshape(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
    for i in (1, 2):
        full = F.conv_transpose2d(
            x, p[f'decoder/deconv{i}/kernel'], p[f'decoder/deconv{i}/bias'], stride=2
        )
        x = F.relu(full[:, :, :-1, :-1])  # 'SAME' of stride 2 takes the last row and column off
    return F.conv_transpose2d(
        x, p['decoder/logits/kernel'], p['decoder/logits/bias'], padding=1
    ).permute(0, 2, 3, 1)


NETWORKS = {
    'lecture_cnn': lecture_cnn,
    'vgg16': vgg16,
    'vgg16_bn': vgg16,
    'cifar_resnet20': cifar_resnet20,
    'm5': m5,
    'textcnn': textcnn,
    'autoencoder': autoencoder,
}


def conv(p, name, x, **options):
    function = F.conv1d if x.ndim == 3 else F.conv2d
    return function(x, p[f'{name}/kernel'], p.get(f'{name}/bias'), **options)


def batch_norm(p, name, x):
    return F.batch_norm(
        x, p[f'{name}/mean'], p[f'{name}/var'], p[f'{name}/scale'], p[f'{name}/bias'],
        training=p['training'], momentum=0.1, eps=1e-5,
    )  # fmt: skip


def dense(p, name, x):
    return F.linear(x, p[f'{name}/kernel'], p[f'{name}/bias'])


def flatten(x):
    """In the order of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1)


def same(x, window, stride):
    """XLA's 'SAME' padding: the odd element after."""
    flat = []
    for n in reversed(x.shape[2:]):
        total = max((-(-n // stride) - 1) * stride + window - n, 0)
        flat += [total // 2, total - total // 2]
    return F.pad(x, flat)


def is_transposed(name):
    return 'deconv' in name or name == 'decoder/logits/kernel'


def to_torch(name, array):
    """(*window, in, out) to PyTorch's (out, in, *window); of a transposed one (in, out, ...)."""
    if name.endswith('kernel'):
        n = array.ndim
        lead = (n - 2, n - 1) if is_transposed(name) else (n - 1, n - 2)
        array = array.transpose(*lead, *range(n - 2))
    return np.ascontiguousarray(array)


def from_torch(name, array):
    if name.endswith('kernel'):
        lead = (0, 1) if is_transposed(name) else (1, 0)
        array = array.transpose(*range(2, array.ndim), *lead)
    return array


def inputs_for(task, array, dtype):
    if task['kind'] == 'text':
        return torch.from_numpy(array.astype(np.int64))
    x = torch.from_numpy(array).to(dtype)
    return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1)).contiguous()


def loss_of(task, logits, labels):
    if task['loss'] == 'pixels':
        return F.binary_cross_entropy_with_logits(logits, labels)
    return F.cross_entropy(logits, labels)


def optimizer_for(config, trained):
    """The optimiser of a recipe; weight decay on kernels only."""
    kernels = [p for n, p in trained.items() if n.endswith('/kernel')]
    others = [p for n, p in trained.items() if not n.endswith('/kernel')]
    groups = [
        {'params': kernels, 'weight_decay': config['weight_decay']},
        {'params': others, 'weight_decay': 0.0},
    ]
    if config['optimizer'] == 'sgd':
        nesterov = config['nesterov'] and config['momentum'] > 0
        return torch.optim.SGD(groups, lr=0.0, momentum=config['momentum'], nesterov=nesterov)
    adam = {'adam': torch.optim.Adam, 'adamw': torch.optim.AdamW}[config['optimizer']]
    return adam(groups, lr=0.0, betas=(config['beta1'], 0.999))


class Run:
    """One training from one set of initial weights."""

    def __init__(self, task, data, weights, dtype):
        self.task, self.data, self.dtype = task, data, dtype
        self.network = NETWORKS[task['config']['model']]
        self.p = {n: torch.tensor(to_torch(n, a)).to(dtype) for n, a in weights.items()}
        self.trained = [n for n in self.p if not n.endswith(('/mean', '/var'))]
        for name in self.trained:
            self.p[name].requires_grad_(True)
        self.p['training'] = True
        self.optimizer = optimizer_for(task['config'], {n: self.p[n] for n in self.trained})
        self.rates = iter(task['learning_rates'])

    def batch(self, rows, inputs=None, split='train'):
        """What the step takes; `inputs` where they are not those of the data."""
        x = self.data[f'{split}_inputs'][rows] if inputs is None else np.array(inputs)
        if self.task['loss'] == 'pixels':
            return inputs_for(self.task, x, self.dtype), torch.from_numpy(x).to(self.dtype)
        labels = torch.from_numpy(self.data[f'{split}_labels'][rows].astype(np.int64))
        return inputs_for(self.task, x, self.dtype), labels

    def step(self, rows, inputs=None, update=True):
        x, labels = self.batch(rows, inputs)
        self.optimizer.zero_grad()
        logits = self.network(self.p, x)
        loss = loss_of(self.task, logits, labels)
        loss.backward()
        if update:
            rate = next(self.rates)
            for group in self.optimizer.param_groups:
                group['lr'] = rate
            self.optimizer.step()
        return logits, float(loss)

    def arrays(self, what=lambda p: p):
        return {n: from_torch(n, what(self.p[n]).detach().numpy().copy()) for n in self.trained}

    def test(self):
        """Accuracy, or for pixels the loss."""
        self.p['training'] = False
        total, size = 0.0, len(self.data['test_inputs'])
        with torch.no_grad():
            for start in range(0, size, 250):
                x, labels = self.batch(slice(start, start + 250), split='test')
                logits = self.network(self.p, x)
                if self.task['loss'] == 'pixels':
                    total += float(loss_of(self.task, logits, labels)) * len(labels)
                else:
                    total += float((logits.argmax(1) == labels).sum())
        return total / size


def batches_of(folder, order, number):
    """(rows, inputs) of every step of a training; inputs: None, or what augmentation made."""
    path, steps = folder / f'augmented_{number}.npy', order[number]
    inputs = np.load(path, mmap_mode='r') if path.exists() else [None] * len(steps)
    return list(zip(steps, inputs, strict=True))


def main(folder):
    folder = pathlib.Path(folder)
    task = json.loads((folder / 'task.json').read_text())
    data = dict(np.load(folder / 'data.npz'))
    first = batches_of(folder, data['order'], 0)
    results = {}
    for dtype in ('float32', 'float64'):
        run = Run(task, data, np.load(folder / 'weights_0.npz'), getattr(torch, dtype))
        logits, _ = run.step(*first[0], update=False)
        results[f'{dtype}/logits'] = logits.detach().numpy()
        for name, value in run.arrays(lambda p: p.grad).items():
            results[f'{dtype}/gradient/{name}'] = value
        run = Run(task, data, np.load(folder / 'weights_0.npz'), getattr(torch, dtype))
        losses = []
        for step in range(task['compared_steps']):
            losses.append(run.step(*first[step])[1])
            if step + 1 in task['kept_steps']:
                for name, value in run.arrays().items():
                    results[f'{dtype}/step/{step + 1}/{name}'] = value
        results[f'{dtype}/losses'] = np.array(losses)
    for seed in range(task['seeds']):
        weights = np.load(folder / f'weights_{seed}.npz')
        run = Run(task, data, weights, torch.float32)
        losses, times = [], []
        batches = batches_of(folder, data['order'], seed)
        for batch in tqdm.tqdm(batches, f'PyTorch, seed {seed}', file=sys.stdout, disable=None):
            start = time.perf_counter()
            losses.append(run.step(*batch)[1])
            times.append(time.perf_counter() - start)
        results[f'train/{seed}/losses'] = np.array(losses)
        results[f'train/{seed}/seconds'] = np.array(times)
        results[f'train/{seed}/test'] = np.array(run.test())
    results['memory'] = np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    np.savez(folder / 'torch.npz', **results)


if __name__ == '__main__':
    main(sys.argv[1])
