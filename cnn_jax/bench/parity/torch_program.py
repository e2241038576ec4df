"""Trains a network with PyTorch alone, as a whole program: see `whole`, which runs and times it.

    python -P torch_program.py FOLDER SEED eager|compile

Data are in memory, batches are indexed by a permutation, images are channels-last, and the
optimiser is fused. As in experiments/train.py, an evaluation on the test examples and a checkpoint
follow each epoch. Prints the result of the last evaluation as JSON.
"""

import json
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from torch_networks import NETWORKS, to_torch  # noqa: E402
from torch_side import loss_of, optimizer_for  # noqa: E402

EVALUATED = 1000  # test examples per batch


def ready(task, inputs):
    """Returns all inputs as a tensor whose slices are channels-last in memory where PyTorch can."""
    if task['kind'] == 'text':
        return torch.from_numpy(inputs.astype(np.int64))
    x = torch.from_numpy(inputs).movedim(-1, 1)
    return x if x.ndim == 4 else x.contiguous()


def parameters(weights):
    """Returns the parameters by name; kernels of images are channels-last."""
    p = {name: torch.from_numpy(to_torch(name, array)) for name, array in weights.items()}
    p = {n: a.to(memory_format=torch.channels_last) if a.ndim == 4 else a for n, a in p.items()}
    for name, value in p.items():
        value.requires_grad_(not name.endswith(('/mean', '/var')))
    return p


def main(folder, number, mode):
    torch.manual_seed(number)
    task = json.loads((folder / 'task.json').read_text())
    data, config = np.load(folder / 'data.npz'), task['config']
    inputs, test_inputs = (ready(task, data[f'{split}_inputs']) for split in ('train', 'test'))
    labels, test_labels = (
        torch.from_numpy(data[f'{split}_labels'].astype(np.int64)) for split in ('train', 'test')
    )
    p = parameters(np.load(folder / f'weights_{number}.npz'))
    trained = {name: value for name, value in p.items() if value.requires_grad}
    optimizer = optimizer_for(config, trained, fused=True)
    network = NETWORKS[config['model']]

    def loss(x, y):
        return loss_of(task, network(p | {'training': True}, x), y)

    def predicted(x):
        return network(p | {'training': False}, x).argmax(1)

    if mode == 'compile':
        loss, predicted = torch.compile(loss), torch.compile(predicted)

    size, rates = config['batch_size'], task['learning_rates']
    per_epoch, accuracy = len(labels) // size, None
    for step, rate in enumerate(rates):
        place = step % per_epoch
        if place == 0:
            order, total = torch.randperm(len(labels)), 0.0
        rows = order[place * size : (place + 1) * size]
        for group in optimizer.param_groups:
            group['lr'] = rate
        optimizer.zero_grad()
        value = loss(inputs[rows], labels[rows])
        value.backward()
        optimizer.step()
        total += value.item()
        if place + 1 == per_epoch or step + 1 == len(rates):
            with torch.inference_mode():
                right = sum(
                    (predicted(x) == y).sum().item()
                    for x, y in zip(
                        test_inputs.split(EVALUATED), test_labels.split(EVALUATED), strict=True
                    )
                )
            accuracy = right / len(test_labels)
            saved = {'step': step + 1, 'parameters': p, 'optimizer': optimizer.state_dict()}
            torch.save(saved, folder / f'{mode}_{number}.pt')
            print(f'train loss {total / (place + 1):.4f}  test {accuracy:.4f}', file=sys.stderr)
    print(json.dumps({'test': accuracy}))


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
