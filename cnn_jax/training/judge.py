"""What a run is judged by while it trains and at its end."""

from typing import Any, NamedTuple, Protocol

from cnn_jax.data import Dataset
from cnn_jax.training.devices import Devices
from cnn_jax.training.evaluation import Evaluator
from cnn_jax.training.metrics import summary
from cnn_jax.training.state import Net, State


class Verdict(NamedTuple):
    """metrics: names with their split ('test_loss'). line: the same for a user. score: higher is
    better, None where checkpoints are not ranked."""

    metrics: dict[str, float]
    line: str
    score: float | None


class Judge(Protocol):
    """Evaluates states of one run."""

    def watch(self, state: State, step: int, split: str) -> Verdict:
        """While the run goes on: `step` steps are done."""

    def final(self, state: State, step: int) -> dict[str, Any]:
        """At the end: what `result.json` is to hold."""


class ClassifierJudge:
    """Loss and accuracy on every split but the training's, of the averaged weights too."""

    def __init__(self, net: Net, dataset: Dataset, devices: Devices, batch_size: int):
        self._evaluators = {
            name: Evaluator(net, dataset, split, devices, batch_size)
            for name, split in dataset.splits.items()
            if name != 'train'
        }

    def watch(self, state: State, step: int, split: str) -> Verdict:
        del step
        found = summary(self._evaluators[split](state['params'], state['rest']))
        metrics = {f'{split}_{name}': value for name, value in found.items()}
        line = f'{split} loss {found["loss"]:.4f}  accuracy {found["accuracy"]:.4f}'
        score = found['accuracy']
        if 'ema' in state:
            average = summary(self._evaluators[split](state['ema'], state['rest']))
            metrics |= {f'{split}_ema_{name}': value for name, value in average.items()}
            line += f' ({average["accuracy"]:.4f} averaged)'
            score = average['accuracy']
        return Verdict(metrics, line, score)

    def final(self, state: State, step: int) -> dict[str, Any]:
        result: dict[str, Any] = {'step': step}
        for name, evaluator in self._evaluators.items():
            for prefix, key in (('', 'params'), ('ema_', 'ema')):
                if key in state:
                    sums = evaluator(state[key], state['rest'])
                    result[prefix + name] = summary(sums)
                    result[prefix + name]['confusion'] = sums['confusion'].tolist()
        return result
