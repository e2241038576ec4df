"""Trains a user's own model, data, loss, metrics and optimiser: `fit`."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from cnn_jax import data as data_
from cnn_jax.data import Dataset
from cnn_jax.data.own import as_inputs
from cnn_jax.errors import UserError
from cnn_jax.models.own import build
from cnn_jax.training import job as jobs
from cnn_jax.training import loop, param_groups, program
from cnn_jax.training.config import FitConfig
from cnn_jax.training.objectives import Objective, OwnLoss, make_objective
from cnn_jax.training.objectives.own import Function
from cnn_jax.training.optimizer import Schedule
from cnn_jax.training.prediction import in_batches
from cnn_jax.training.processes import say
from cnn_jax.training.state import FunctionalModel, TrainState
from cnn_jax.training.tasks import TASKS
from cnn_jax.training.workdir import Workdir, read_metrics


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A finished run of `fit`.

    Attributes:
        state: the final `TrainState`.
        metrics: the content of `result.json`: the metrics of every evaluated split, by name.
        workdir: the folder of the run.
        job: what was trained: model, data set, objective, optimiser.
    """

    state: TrainState
    metrics: dict[str, Any]
    workdir: Workdir
    job: jobs.Job

    @property
    def model(self) -> nnx.Module:
        """The trained model, in evaluation mode."""
        model = self.job.net.merge(self.state.params, self.state.model_state)
        model.eval()
        return model

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`."""
        return read_metrics(self.workdir.path)

    def predict(self, inputs: Any) -> np.ndarray:
        """Returns what the objective reports for raw inputs (N, ...), such as probabilities.

        See `Objective.predictions`.

        Raises:
            UserError: the inputs do not have the shape or the dtype of the training inputs.
        """
        job, state = self.job, self.state
        rows = as_inputs(np.asarray(inputs), 'inputs')
        known = job.dataset.splits['train'].inputs
        if rows.shape[1:] != known.shape[1:] or rows.dtype != known.dtype or not len(rows):
            wanted = ', '.join(map(str, ('N', *known.shape[1:])))
            raise UserError(
                f'inputs: {rows.dtype} of shape {rows.shape}; must be {known.dtype} of shape '
                f'({wanted})'
            )

        @jax.jit
        def run(part):
            outputs = job.net.predict(state.params, state.model_state, job.dataset.normalize(part))
            return job.objective.predictions(outputs)

        return in_batches(run, rows)


def fit(
    model: str | nnx.Module | Callable[..., nnx.Module],
    data: Any,
    *,
    workdir: str | os.PathLike,
    loss: Function | Objective | None = None,
    metrics: Mapping[str, Function] | None = None,
    best: str | None = None,
    optimizer: str | optax.GradientTransformation = 'adamw',
    learning_rate: float | Schedule = 1e-3,
    augment: str | Callable[..., tuple[jax.Array, jax.Array]] = '',
    **options: Any,
) -> Fitted:
    """Trains a model; run again, it resumes where it stopped, or returns the finished run.

        run = training.fit(Net, (images, labels), workdir='runs/mine', epochs=5)
        run.metrics['test']['accuracy'], run.model, run.predict(images)

    The state is checkpointed as in every run. A run that was interrupted and resumed ends with the
    same bits as an uninterrupted one. A folder that was made with another model, loss, optimiser,
    augmentation or other data is refused.

    Args:
        model: a class or function that makes the model, which is called with those of the arguments
            `rngs`, `input_shape` and `num_classes` that it has; or a model, whose arrays are the
            initial ones; or the name of a model. A model maps inputs (N, ...) to outputs. It is
            switched between training and evaluation by `train()` and `eval()`.
        data: see `data.as_dataset`, or the name of a data set. Metrics are computed on its splits
            'validation' and 'test'.
        workdir: the folder of the run.
        loss: function of (outputs, labels) that returns a scalar or one value per example; or an
            `Objective`. By default the loss of the data set's task.
        metrics: further metrics by name, each a function like `loss`.
        best: the metric that ranks checkpoints: one of `metrics` or of the task (higher is better),
            or 'loss' (lower is better). By default 'loss' if `loss` is given, and that of the task
            otherwise.
        optimizer: an optax optimiser for a dictionary {name: parameter}, which has its own learning
            rate; or the name of an optimiser.
        learning_rate: the learning rate, or a function from step to learning rate. With an
            optimiser of your own, the function is only logged.
        augment: augmentations by name, as for --augment; or a function (key, inputs, targets) ->
            (inputs, targets) of a batch of normalised inputs, which is traced.
        **options: other fields of `TrainConfig`, such as epochs, batch_size, seed, ema, eval_every.

    Returns:
        The finished run.

    Raises:
        UserError: an argument is invalid or the folder belongs to another run; nothing has been
            computed or written.
        Interrupted, NotFiniteError: see `loop.train`.
    """
    config = _config(model, data, optimizer, learning_rate, augment, options)
    folder = Workdir(workdir, config)
    dataset = _dataset(data, config)
    job = _job(config, model, dataset, loss, metrics or {}, best, optimizer, learning_rate, augment)
    folder.check_dataset(dataset)
    program.check(folder, job)
    result = folder.result()
    if result is not None:
        say(f'already finished at step {result["step"]}: {folder.path}')
        state = loop.load_state(job, folder)
        return Fitted(state, result, folder, job)
    with folder.hold():
        folder.describe(dataset)
        program.write(folder, job)
        from cnn_jax.training.report import complete  # needs Matplotlib

        state, result = complete(job, folder)
    say(f'{TASKS.lookup(config.task).summary(result)}, written to {folder.path}')
    return Fitted(state, result, folder, job)


def _config(model, data, optimizer, learning_rate, augment, options) -> FitConfig:
    """Returns the configuration; objects are named by their type."""
    fields = {field.name for field in dataclasses.fields(FitConfig)}
    taken = {'model', 'dataset', 'optimizer', 'learning_rate', 'augment', 'init_from', 'pretrained'}
    if unknown := set(options) - (fields - taken):
        name = sorted(unknown)[0]
        raise UserError(f'{name}: fit has no such argument; see TrainConfig for the others')
    named: dict[str, Any] = {
        'model': _name(model),
        'dataset': data if _is_name(data) else FitConfig.OWN,
    }
    if isinstance(optimizer, str):
        named['optimizer'] = optimizer
    if not callable(learning_rate):
        named['learning_rate'] = float(learning_rate)
    if isinstance(augment, str):
        named['augment'] = augment
    return FitConfig(**named, **options)


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _name(model: Any) -> str:
    if isinstance(model, str):
        return model
    kind = model if hasattr(model, '__qualname__') else type(model)
    return f'{FitConfig.OWN}:{kind.__qualname__.rpartition(".")[2]}'


def _dataset(data: Any, config: FitConfig) -> Dataset:
    if _is_name(data):
        return jobs.load_data(config)
    return data_.as_dataset(data, validation=config.validation)


def _job(
    config, model, dataset, loss, metrics, best, optimizer, learning_rate, augment
) -> jobs.Job:
    if _is_name(model):
        net = jobs.make_net(config, dataset)
    else:
        net = FunctionalModel(_maker(model, dataset))
    devices = jobs.make_devices(config)
    schedule = learning_rate if callable(learning_rate) else None
    factors = param_groups.rate_factors(config, net, jobs.normalized_example(dataset))
    parts = jobs.common_parts(config, dataset, devices, schedule, factors) | {'factors': factors}
    if not isinstance(optimizer, str):
        if factors:
            raise UserError(
                'freeze, rate_factors and layer_decay: apply to optimisers by name; with your own, '
                'use optax.partition'
            )
        parts['optimizer'], parts['schedule'] = _optimizer(optimizer), schedule
    objective = _objective(config, dataset, net, loss, metrics, best)
    parts |= jobs.task_parts(config, dataset, net, objective)
    if not isinstance(augment, str):
        parts |= {'augment': augment, 'mixed_targets': True}
        _check_augment(augment, dataset, objective)
    return jobs.Job(**parts)


def _maker(model: Any, dataset: Dataset) -> Callable[[nnx.Rngs], nnx.Module]:
    if isinstance(model, nnx.Module):
        return lambda rngs: model
    shapes = {'input_shape': dataset.input_shape, 'num_classes': dataset.num_classes}
    return lambda rngs: build(_name(model), model, {**shapes, 'rngs': rngs}, {})


def _optimizer(optimizer: Any) -> optax.GradientTransformation:
    if not (hasattr(optimizer, 'init') and hasattr(optimizer, 'update')):
        raise UserError(
            f'optimizer: got {type(optimizer).__name__}; must be an optax.GradientTransformation, '
            'or a name'
        )
    return optimizer


def _objective(config, dataset, net, loss, metrics, best) -> Objective:
    if isinstance(loss, Objective):
        if metrics or best:
            raise UserError('metrics, best: an Objective has its own')
        return loss
    task: Objective | None = make_objective(config, dataset)
    if loss is None and not metrics and not best:
        return task
    if loss is not None:
        for name in ('label_smoothing', 'class_weights'):
            if value := getattr(config, name):
                raise UserError(f'{name}={value!r}: does not apply to a loss of your own')
        try:
            jobs.check_fit(net, task, dataset)
        except UserError:
            task = None  # an output of another form, for which the metrics of the task do not exist
    objective = OwnLoss(loss, dict(metrics), task, best or ('loss' if loss else task.metric))
    if best:
        known = jobs.check_fit(net, objective, dataset)
        if best not in known:
            raise UserError(f'best={best!r}: must be one of {", ".join(known)}')
    return objective


def _check_augment(augment: Callable, dataset: Dataset, objective: Objective) -> None:
    """Raises UserError unless `augment` returns inputs and targets of the shapes it gets."""
    split = dataset.splits['train']

    def both(key, inputs, labels):
        before = dataset.normalize(inputs), objective.targets(labels, mixed=True)
        return before, augment(key, *before)

    rows = [jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype) for a in (split.inputs, split.labels)]
    before, after = jax.eval_shape(both, jax.random.key(0), *rows)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (before, after)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f'augment: returns arrays of shape {", ".join(map(str, shapes[1]))} for inputs and '
            f'targets of shape {", ".join(map(str, shapes[0]))}; must return the same shapes'
        )
