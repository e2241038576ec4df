"""Builds a job from a configuration: data, model, optimiser, and the length of the run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnn_jax import data, models, nn
from cnn_jax.data.order import steps_per_epoch
from cnn_jax.errors import UserError
from cnn_jax.models import pretrained
from cnn_jax.training import augment, augment_masks, parallel, param_groups, progressive, tracking
from cnn_jax.training.config import RunConfig, TrainConfig
from cnn_jax.training.devices import Devices
from cnn_jax.training.evaluation import Evaluator, ObjectiveEvaluator
from cnn_jax.training.objectives import Objective, make_objective
from cnn_jax.training.optimizer import Schedule, learning_rate, make_optimizer
from cnn_jax.training.parallel import Jit
from cnn_jax.training.processes import say
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState, init_state
from cnn_jax.training.step import Step, make_step
from cnn_jax.training.weights import (
    check_torchvision,
    from_torchvision,
    read_weights,
    take_over,
)
from cnn_jax.training.workdir import Workdir, read_config


@dataclasses.dataclass(frozen=True)
class BaseJob:
    """The base class of jobs: the parts of a run, and the methods that `loop.train` calls.

    The subclass for a task adds its networks, `_init`, `step` and `evaluator`.

    Attributes:
        losses: the step metrics that are printed on the terminal.
    """

    config: RunConfig
    dataset: data.Dataset
    schedule: Schedule | None
    optimizer: optax.GradientTransformation
    devices: Devices
    steps_per_epoch: int
    total_steps: int

    losses: ClassVar[Sequence[str]] = ('loss',)

    def _init(self) -> TrainState:
        """Returns the state before the first step; traceable."""
        raise NotImplementedError

    def step(self) -> Step:
        """Returns the function for one training step."""
        raise NotImplementedError

    def stages(self) -> list[tuple[int, Step]]:
        """Returns the stages of the training: the number of steps at its end, and its step."""
        return [(self.total_steps, self.step())]

    def evaluator(self) -> Evaluator:
        """Returns the evaluator of the states of this run."""
        raise NotImplementedError

    @property
    def parallel(self) -> Jit:
        """How the devices share a step."""
        return Jit(self.devices)

    def init(self) -> TrainState:
        """Returns the state before the first step, replicated on all devices."""
        init = jax.jit(self._init, out_shardings=self.devices.replicated)
        # It runs only once: on a CPU, optimised compilation would take longer than the execution.
        fast = {'xla_backend_optimization_level': 0} if self.devices.platform == 'cpu' else None
        return init.lower().compile(compiler_options=fast)()

    def state_like(self) -> Any:
        """Returns the shapes, dtypes and shardings of the state."""
        lie = self.devices.replicated
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=lie),
            jax.eval_shape(self._init),
        )

    @property
    def num_parameters(self) -> dict[str, int]:
        """The number of parameters of each network, by name."""
        raise NotImplementedError

    def draw(self, workdir: Workdir, state: TrainState, result: dict[str, Any]) -> None:
        """Draws the pictures of the finished run."""

    @property
    def patience(self) -> int:
        """The number of evaluations without a better score that end the run; 0 means no limit."""
        return 0

    @property
    def watched(self) -> str | None:
        """The split that is evaluated during training and whose score ranks checkpoints."""
        return next((n for n in ('validation', 'test') if n in self.dataset.splits), None)


@dataclasses.dataclass(frozen=True)
class Job(BaseJob):
    """A job that trains one model; it has been checked, but has not computed anything yet.

    Attributes:
        net: the model.
        objective: what the model is trained for.
        augment: see `step.make_step`.
        mixed_targets: whether `augment` mixes targets.
        factors: factors of the learning rate by parameter name, see `param_groups`.
    """

    config: TrainConfig
    net: FunctionalModel
    objective: Objective
    augment: Callable[..., Any] | None = None
    mixed_targets: bool = False
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def parallel(self) -> Jit:
        return parallel.WAYS[self.config.parallel](self.devices)

    def _init(self) -> TrainState:
        return init_state(self.net, self.optimizer, self.config.seed, ema=self.config.ema > 0)

    def init(self) -> TrainState:
        return self.prepare(super().init())

    def prepare(self, state: TrainState) -> TrainState:
        """Returns an initial state with the values that come from the data or from files."""
        train = self.dataset.splits['train'].inputs
        fixed = models.data_dependent_init(
            self.config.model, lambda n: self.dataset.normalize(jnp.asarray(train[:n]))
        )
        state = state._replace(model_state=state.model_state | self.devices.put(fixed))
        if self.config.init_from:
            source, step = read_weights(self.config.init_from)
            say(f'weights of {self.config.init_from} at step {step}')
            own = take_over(state.params | state.model_state, source)
            return self._with_weights(state, own)
        if self.config.pretrained:
            own = from_torchvision(self.net, state, self.config.pretrained)
            return self._with_weights(state, own)
        return state

    @property
    def patience(self) -> int:
        return self.config.early_stopping

    @property
    def num_parameters(self) -> dict[str, int]:
        return {self.config.model: self.net.num_parameters}

    def draw(self, workdir: Workdir, state: TrainState, result: dict[str, Any]) -> None:
        from cnn_jax.training.report import draw

        draw(workdir, self, state, result)

    def _with_weights(self, state: TrainState, own: Arrays) -> TrainState:
        def placed(values: Arrays) -> Arrays:
            return self.devices.put({name: own[name] for name in values})

        return state._replace(
            params=placed(state.params),
            model_state=placed(state.model_state),
            ema=None if state.ema is None else placed(state.ema),
        )

    def evaluator(self) -> Evaluator:
        return ObjectiveEvaluator(
            self.net, self.objective, self.dataset, self.devices, self.config.batch_size
        )

    def stages(self) -> list[tuple[int, Step]]:
        smaller = [
            (round(stage.end * self.total_steps), self._at(stage).step())
            for stage in progressive.parse(self.config.progressive, self.dataset)
        ]
        return smaller + super().stages()

    def _at(self, stage: progressive.Stage) -> 'Job':
        net, augment = self.net.for_inputs(stage.shape), stage.after(self.augment)
        return dataclasses.replace(self, net=net, augment=augment)

    def step(self) -> Step:
        config = self.config
        return make_step(
            self.net,
            self.optimizer,
            self.schedule,
            self.objective,
            normalize=self.dataset.normalize,
            augment=self.augment,
            mixed_targets=self.mixed_targets,
            place=self.devices.keep_strips,
            ema=config.ema,
            ema_warmup=config.ema_warmup,
            accumulate=config.accumulate,
            unroll=self.devices.platform == 'cpu',
            remat=config.remat,
            frozen=param_groups.frozen(self.factors),
            seed=config.seed,
            axis_name=self.parallel.axis_name,
        )


def load_data(config: RunConfig) -> data.Dataset:
    """Loads the data set of a configuration; see `cnn_jax.data.load`."""
    dataset = data.load(
        config.dataset,
        data_dir=config.data_dir or None,
        manual_dir=config.manual_dir or None,
        validation=config.validation,
    )
    if not getattr(config, 'pretrained', ''):
        return dataset
    if len(dataset.mean) != 3:
        raise UserError(f'pretrained={config.pretrained!r}: {dataset.name} has no colour images')
    return dataclasses.replace(dataset, mean=pretrained.MEAN, std=pretrained.STD)


def make_net(config: TrainConfig, dataset: data.Dataset) -> FunctionalModel:
    """Builds the model of a configuration.

    Raises:
        ValueError: the model does not fit the data set, or the model or kernel does not exist.
    """

    def make(rngs):
        return models.create(
            config.model,
            input_shape=dataset.input_shape,
            num_classes=dataset.num_classes,
            rngs=rngs,
            dtype=jnp.dtype(config.dtype),
            implementation=config.implementation or None,
            kind=dataset.kind,
            norm_group=config.norm_group,
            **dataset.model_options | config.read_model_options(),
        )

    net = FunctionalModel(make)
    if config.norm_group and not _has_groups(net):
        raise UserError(
            f'norm_group={config.norm_group}: model {config.model!r} has no batch norm of '
            '`LayerFactory.batch_norm`'
        )
    return net


def _has_groups(net: FunctionalModel) -> bool:
    return any(isinstance(module, nn.GhostBatchNorm) for _, module in nnx.iter_graph(net.model))


def batch_shapes(dataset: data.Dataset, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a training batch of `size` examples."""
    split = dataset.splits['train']
    columns = {'inputs': split.inputs, 'labels': split.labels}
    return {n: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype) for n, a in columns.items()}


def check_fit(net: FunctionalModel, objective: Objective, dataset: data.Dataset) -> list[str]:
    """Checks that the model accepts the inputs of a data set and that its outputs fit.

    Returns:
        The names of the metrics.

    Raises:
        UserError: the outputs do not fit the objective.
    """
    batch = batch_shapes(dataset, 2)
    outputs = jax.eval_shape(
        lambda params, model_state, x: net.predict(params, model_state, dataset.normalize(x)),
        net.params,
        net.model_state,
        batch['inputs'],
    )
    objective.check(outputs, batch['labels'])
    weights = jax.ShapeDtypeStruct((2,), jnp.float32)
    sums = jax.eval_shape(objective.sums, outputs, batch['labels'], weights)
    ones = {name: np.ones(s.shape, s.dtype) for name, s in sums.items()}
    return list(objective.summary(ones))


def make_devices(config: TrainConfig, devices: Devices | None = None) -> Devices:
    """Returns `devices`, or else the mesh of a configuration, and checks that a batch fits it.

    Raises:
        UserError: the mesh does not fit the devices, the batch, or the way of parallelism.
    """
    devices = devices or Devices.all(mesh=config.mesh)
    devices.check_batch(config.batch_size, config.accumulate)
    parallel.WAYS[config.parallel](devices).check()
    together = config.batch_size // config.accumulate
    if config.parallel == 'pmap':
        together //= devices.count
    if config.norm_group and together % config.norm_group:
        raise UserError(
            f'norm_group={config.norm_group}: must divide the {together} examples that are '
            'computed together'
        )
    return devices


def make_job(config: TrainConfig, devices: Devices | None = None) -> Job:
    """Builds the job of a configuration for `devices`, by default all.

    Raises:
        ValueError, TypeError, OSError: the configuration is invalid; nothing has run yet.
    """
    devices = make_devices(config, devices)
    if config.init_from:
        read_config(config.init_from)
    dataset = load_data(config)
    net = make_net(config, dataset)
    if config.pretrained:
        check_torchvision(net, config.pretrained)
    factors = param_groups.rate_factors(config, net, normalized_example(dataset))
    return Job(
        **task_parts(config, dataset, net),
        **common_parts(config, dataset, devices, factors=factors),
        factors=factors,
    )


def normalized_example(dataset: data.Dataset) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of a batch of one normalised example."""
    return jax.eval_shape(dataset.normalize, batch_shapes(dataset, 1)['inputs'])


def task_parts(
    config: TrainConfig,
    dataset: data.Dataset,
    net: FunctionalModel,
    objective: Objective | None = None,
) -> dict[str, Any]:
    """Returns the fields of `Job` that `common_parts` does not return.

    `objective`: by default that of the data set's task.

    Raises:
        UserError: the model's output, the augmentation or the stages of progressive resizing do not
            fit the data set, or there is no validation split for early stopping.
    """
    if config.early_stopping and 'validation' not in dataset.splits:
        raise UserError(
            f'early_stopping={config.early_stopping}: {dataset.name} has no validation split to '
            'watch; validation=0.1 holds out a tenth of the training examples'
        )
    objective = objective or make_objective(config, dataset)
    try:
        check_fit(net, objective, dataset)
    except UserError as error:
        raise UserError(f'model={config.model!r}: {error}') from error
    progressive.check(config.progressive, dataset, net, objective)
    chosen = augment.parse(config.augment, dataset.kind)
    if config.class_weights and augment.mixes(chosen):
        raise UserError(
            f'class_weights={config.class_weights!r} and augment={config.augment!r}: mixed targets '
            'have no class; give one of them'
        )
    if not chosen:
        change = None
    elif objective.dense:
        change = augment_masks.make_augment(config)
    else:
        change = augment.make_augment(config, dataset.kind, mean=dataset.mean, std=dataset.std)
    return {
        'net': net,
        'objective': objective,
        'augment': change,
        'mixed_targets': augment.mixes(chosen),
    }


def common_parts(
    config: RunConfig,
    dataset: data.Dataset,
    devices: Devices,
    schedule: Schedule | None = None,
    factors: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Returns the fields of `BaseJob`.

    `schedule`: by default that of the configuration. `factors`: see `make_optimizer`.

    Raises:
        ValueError: the durations or the devices do not fit the data.
        MissingPackageError: the package of a tracker is not installed.
    """
    tracking.check(config.read_track())
    devices.check_strips(dataset.input_shape)
    per_epoch = steps_per_epoch(len(dataset.splits['train']), config.batch_size)
    total = config.total_steps(per_epoch)
    if schedule is None:
        schedule = learning_rate(config, total, config.in_steps(config.warmup, per_epoch))
    return {
        'config': config,
        'dataset': dataset,
        'schedule': schedule,
        'optimizer': make_optimizer(config, schedule, factors),
        'devices': devices,
        'steps_per_epoch': per_epoch,
        'total_steps': total,
    }
