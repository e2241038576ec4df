"""A loss and metrics of a user's own."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError
from cnn_jax.training.objectives.base import Objective

# (outputs, labels) -> a scalar, or one value per example (N,)
Function = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class OwnLoss(Objective):
    """A loss or metrics given as functions, beside the metrics of the task if they apply.

    A function maps outputs and labels to one value per example (N,), or to a scalar. Over a whole
    split, the values of all examples are averaged. A function that returns a scalar is therefore
    called with one example at a time in evaluations.

    Attributes:
        function: the loss; None means that of the task.
        metrics: further metrics by name.
        task: the objective whose metrics are reported as well, or None.
    """

    function: Function | None
    metrics: Mapping[str, Function] = dataclasses.field(default_factory=dict)
    task: Objective | None = None
    metric: str = 'loss'

    @property
    def dense(self) -> bool:  # type: ignore[override]
        return self.task is not None and self.task.dense

    def check(self, outputs: Any, labels: Any) -> None:
        """Checks the results of the functions.

        Raises:
            UserError: a result is neither a scalar nor one value per example, or not floating
                point; the message names the function.
        """
        if self.task is not None:
            self.task.check(outputs, labels)
        n = labels.shape[0]
        for name, function in self._functions.items():
            found = jax.eval_shape(function, outputs, labels)
            shape = getattr(found, 'shape', None)
            if shape not in ((), (n,)):
                was = type(found).__name__ if shape is None else f'an array of shape {shape}'
                raise UserError(
                    f'{name}: returns {was} for {n} examples; must be a scalar, or one value per '
                    f'example, ({n},)'
                )
            if name == 'loss' and not jnp.issubdtype(found.dtype, jnp.floating):
                raise UserError(f'loss: returns dtype {found.dtype}; must be floating point')

    def targets(self, labels: jax.Array, *, mixed: bool = False) -> jax.Array:
        if self.function is not None or self.task is None:
            return labels
        return self.task.targets(labels, mixed=mixed)

    def loss(self, outputs: Any, targets: jax.Array) -> jax.Array:
        if self.function is None:
            assert self.task is not None
            return self.task.loss(outputs, targets)
        return jnp.mean(self.function(outputs, targets))

    def step_metrics(self, outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
        found = self.task.step_metrics(outputs, labels) if self.task else {}
        own = {n: jnp.mean(f(outputs, labels), dtype='float32') for n, f in self.metrics.items()}
        return found | own

    def sums(self, outputs: Any, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        counted = weights > 0
        sums = {'examples': counted.sum(dtype=jnp.int32)}
        for name, function in self._functions.items():
            each = _per_example(function, outputs, labels).astype(jnp.float32)
            sums[name] = jnp.where(counted, each * weights, 0.0).sum()
        task = self.task.sums(outputs, labels, weights) if self.task else {}
        return sums | {f'task_{name}': value for name, value in task.items()}

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        count = max(int(sums['examples']), 1)
        task = self.task.summary(_of_the_task(sums)) if self.task else {}
        return task | {name: float(sums[name]) / count for name in self._functions}

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return self.task.details(_of_the_task(sums)) if self.task else {}

    def table(self, sums: Mapping[str, Any], names: Sequence[str]) -> str:
        return self.task.table(_of_the_task(sums), names) if self.task else ''

    def predictions(self, outputs: Any) -> Any:
        return self.task.predictions(outputs) if self.task else outputs

    @property
    def _functions(self) -> dict[str, Function]:
        own = {} if self.function is None else {'loss': self.function}
        return {**own, **self.metrics}


def _of_the_task(sums: Mapping[str, Any]) -> dict[str, Any]:
    return {n.removeprefix('task_'): v for n, v in sums.items() if n.startswith('task_')}


def _per_example(function: Function, outputs: Any, labels: jax.Array) -> jax.Array:
    found = function(outputs, labels)
    if found.ndim == 1:
        return found
    one = lambda *each: function(*jax.tree.map(lambda a: a[None], each))  # noqa: E731
    return jax.vmap(one)(outputs, labels)
