"""Defines the configuration of a training run as a dataclass, from which the flags are generated.

Each field defines its type, default, help text and allowed values. Fields marked `identity`
determine the numerical results of a run. Two configurations that differ in such a field describe
different runs, which cannot share a working folder.
"""

import dataclasses
import json
import math
import os
from typing import Any, ClassVar, Self

from cnn_jax import plugins
from cnn_jax.errors import UserError
from cnn_jax.training import durations, mesh
from cnn_jax.training.fields import arguments, check, option, parsed
from cnn_jax.training.optimizer import OPTIMIZERS, SCHEDULES
from cnn_jax.training.tracking import TRACKERS

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The configuration of a run of any task: data, model, length, optimiser and saving.

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    task: ClassVar[str] = ''
    tasks: ClassVar[tuple[str, ...]] = ()  # others, whose configurations have the same fields

    dataset: str = option(
        'digits',
        "data set, by name, with its options if any: 'movie_reviews:fold=3'; or an object of your "
        "own: 'my_data.py:name'",
    )
    data_dir: str = option(
        '',
        'folder of prepared data sets (default: TFDS_DATA_DIR, or the default of TFDS)',
        identity=False,
        is_path=True,
    )
    manual_dir: str = option(
        '',
        "folder of the data set's original files, to prepare it without network access",
        identity=False,
        is_path=True,
    )
    validation: float = option(
        0.0, 'fraction of the training examples held out for validation', at_least=0.0, below=1.0
    )

    model: str = option(
        'lecture_cnn', "model, by name, or a class or function of your own: 'my_model.py:Net'"
    )
    model_options: str = option('', "the model's own options, such as 'hidden=(64,32),window=5'")
    implementation: str = option(
        '', 'kernel for convolutions and pools, by name (default: chosen for the device)'
    )
    plugin: str = option(
        '',
        'your own modules or .py files to import, separated by commas; other flags can use the '
        'names that they register',
        identity=False,
    )
    dtype: str = option(
        'float32',
        'dtype of the layers; parameters, optimiser and sums are always float32',
        choices=('float32', 'bfloat16'),
    )

    epochs: float = option(20.0, 'training length in epochs', at_least=0.0)
    steps: int = option(0, 'training length in steps, instead of epochs', at_least=0)
    examples: float = option(0.0, 'training length in examples, instead of epochs', at_least=0.0)
    batch_size: int = option(64, 'examples per step, over all devices', at_least=1)
    seed: int = option(
        0, 'seed of the initial parameters, the order of examples, and dropout', at_least=0
    )

    optimizer: str = option('adamw', 'optimiser', choices=OPTIMIZERS)
    learning_rate: float = option(1e-3, 'peak learning rate', at_least=0.0)
    momentum: float = option(0.9, 'momentum, for sgd, lars and muon', at_least=0.0, below=1.0)
    beta1: float = option(
        0.9,
        'decay of the average gradient, for adam and adamw',
        at_least=0.0,
        below=1.0,
    )
    nesterov: bool = option(True, 'use Nesterov momentum')
    weight_decay: float = option(1e-4, 'weight decay, on kernels only', at_least=0.0)
    clip_norm: float = option(
        0.0, 'clip the global norm of the gradient to this; 0: no clipping', at_least=0.0
    )
    max_norm: float = option(
        0.0,
        'maximum norm of the incoming weights of a unit of a dense layer; 0: no limit',
        at_least=0.0,
    )
    schedule: str = option(
        'cosine',
        'learning rate schedule after the warm-up',
        choices=SCHEDULES,
    )
    warmup: str = option('0steps', 'duration of the linear warm-up of the learning rate')
    milestones: str = option(
        '0.5,0.75', 'for schedule=step: when to decay the rate, as fractions of the training'
    )
    decay_factor: float = option(
        0.1, 'for schedule=step: factor to multiply the rate by at each milestone'
    )

    log_every: int = option(
        10, 'steps between rows of training metrics', at_least=1, identity=False
    )
    eval_every: str = option('1epoch', 'duration between evaluations', identity=False)
    checkpoint_every: str = option('1epoch', 'duration between checkpoints', identity=False)
    keep_last: int = option(2, 'number of newest checkpoints to keep', at_least=1, identity=False)
    keep_best: int = option(
        1,
        'number of checkpoints with the highest accuracy to keep as well',
        at_least=0,
        identity=False,
    )
    track: str = option(
        '',
        "where to record the metrics as well: 'wandb', 'mlflow', or both, separated by commas",
        identity=False,
    )
    profile_steps: str = option(
        '',
        "steps to profile, 'first,last', after compilation; written to <workdir>/profile",
        identity=False,
    )

    def __post_init__(self):
        check(type(self).__dataclass_fields__['plugin'], self.plugin)
        object.__setattr__(self, 'plugin', plugins.load(self.plugin))  # before names are looked up
        for name in ('dataset', 'model'):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, plugins.absolute(value))
        for field in dataclasses.fields(self):
            if field.type is float and type(getattr(self, field.name)) is int:
                object.__setattr__(self, field.name, float(getattr(self, field.name)))
            check(field, getattr(self, field.name))
        for name in ('warmup', 'eval_every', 'checkpoint_every'):
            parsed(self, name, durations.check)
        for name in ('model_options', 'milestones', 'track', 'profile_steps'):
            parsed(self, name, lambda _: getattr(self, f'read_{name}')())  # noqa: B023
        lengths = [name for name in ('epochs', 'steps', 'examples') if getattr(self, name)]
        if not lengths:
            raise UserError(f'epochs={self.epochs}: must be above 0, or give steps or examples')
        if lengths[-2:] == ['steps', 'examples']:
            raise UserError(f'steps={self.steps} and examples={self.examples}: give one of them')

    def total_steps(self, steps_per_epoch: int) -> int:
        """Returns the length of the training in steps, at least one."""
        if self.steps:
            return self.steps
        epochs = f'{self.epochs}epochs'
        return max(
            1,
            self.in_steps(f'{self.examples}examples' if self.examples else epochs, steps_per_epoch),
        )

    def in_steps(self, duration: str, steps_per_epoch: int) -> int:
        return durations.to_steps(
            duration, batch_size=self.batch_size, steps_per_epoch=steps_per_epoch
        )

    def read_model_options(self) -> dict[str, Any]:
        """Parses `model_options` into a dictionary of Python literals; a bare word is a string."""
        return arguments(self.model_options)

    def read_milestones(self) -> list[float]:
        """Parses `milestones` into increasing numbers between 0 and 1."""
        values = [float(part) for part in self.milestones.split(',')]
        if sorted(set(values)) != values or not 0 < values[0] <= values[-1] < 1:
            raise UserError('must be increasing fractions between 0 and 1, such as 0.5,0.75')
        return values

    def read_track(self) -> list[str]:
        """Parses `track` into names of trackers."""
        names = [name for part in self.track.split(',') if (name := part.strip())]
        for name in names:
            TRACKERS.lookup(name)
        return names

    def read_profile_steps(self) -> tuple[int, int] | None:
        """Returns the first and last step to profile, or None."""
        if not self.profile_steps:
            return None
        first, last = map(int, self.profile_steps.split(','))
        if not 0 < first <= last:
            raise UserError('must be the first and the last step, such as 10,20')
        return first, last

    def to_json(self, task: str = '') -> str:
        """Returns the fields as JSON, with `task` if it is one of `tasks`, or else `self.task`."""
        head = {'schema': SCHEMA, 'task': task if task in self.tasks else self.task}
        return json.dumps(head | dataclasses.asdict(self), indent=2) + '\n'

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads the output of `to_json`; missing fields take their defaults.

        Raises:
            ValueError: `text` is not such a configuration, or has a field unknown to this version.
        """
        values = json.loads(text)
        if not isinstance(values, dict) or values.pop('schema', None) != SCHEMA:
            raise UserError(f'not a training configuration of schema {SCHEMA}')
        task = values.pop('task', TrainConfig.task)
        if task not in (cls.task, *cls.tasks):
            raise UserError(f'a run of {task}, not of {cls.task}')
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise UserError(f'unknown fields: {", ".join(sorted(unknown))}')
        return cls(**values)

    def identity(self) -> dict[str, Any]:
        """Returns the fields that distinguish this run from other runs."""
        values = {}
        for field in dataclasses.fields(self):
            value, rules = getattr(self, field.name), field.metadata
            if not rules['identity'] or (rules['is_new'] and value == field.default):
                continue
            # Earlier versions stored paths without expanding "~".
            values[field.name] = os.path.expanduser(value) if rules['is_path'] else value
        return values

    def differences(self, other: 'RunConfig') -> dict[str, tuple[Any, Any]]:
        """Returns the identity fields in which the two configurations differ, with both values."""
        mine, others = self.identity(), other.identity()
        differing = [n for n in mine | others if mine.get(n) != others.get(n)]
        return {name: (getattr(self, name), getattr(other, name)) for name in differing}


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The configuration of a run that trains one model for the task of its data set."""

    task: ClassVar[str] = 'classification'
    tasks: ClassVar[tuple[str, ...]] = ('multilabel', 'regression', 'segmentation')

    init_from: str = option('', 'folder of a run whose weights to start from', is_path=True)
    pretrained: str = option(
        '',
        "file of initial weights in torchvision's layout (.pth, .pt, .safetensors); images are "
        "then standardised as ImageNet's",
        is_path=True,
    )
    accumulate: int = option(
        1, 'number of parts of a batch, computed one after the other to save memory', at_least=1
    )
    remat: bool = option(False, 'recompute activations in the backward pass, to save memory')
    label_smoothing: float = option(
        0.0, 'fraction of the target spread evenly over all classes', at_least=0.0, below=1.0
    )
    class_weights: str = option(
        '',
        "weights of the classes in the training loss: 'balanced', or one number per class: '1,2.5'",
        is_new=True,
    )
    norm_group: int = option(
        0,
        'examples that share the statistics of batch norm; 0: all of the batch. With the examples '
        'of a device, devices do not communicate in the forward and backward pass',
        at_least=0,
        is_new=True,
    )
    ema: float = option(
        0.0, 'decay of a moving average of the weights; 0: none', at_least=0.0, below=1.0
    )
    ema_warmup: bool = option(
        False,
        'limit the decay of the moving average to (1 + step)/(10 + step), so that it follows '
        'faster at first',
        is_new=True,
    )
    augment: str = option(
        '',
        "augmentation of training images, such as 'crop:4,flip,cutout:8,erase:0.25,mixup:0.2,"
        "cutmix:1' or 'randaugment:2:9' or 'trivial'",
    )
    progressive: str = option(
        '',
        "sides of smaller training images, each up to a fraction of the training: '14:0.4,20:0.7'",
        is_new=True,
    )
    freeze: str = option(
        '',
        "parameters that keep their initial values, by patterns: 'layers/conv1/*,layers/stage1*'",
        is_new=True,
    )
    rate_factors: str = option(
        '',
        "factors of the learning rate of parameters, by patterns: 'layers/fc/*=10,*/bias=2'",
        is_new=True,
    )
    layer_decay: float = option(
        1.0,
        'factor of the learning rate from each layer to the one before it; 1: the same rate',
        at_least=0.0,
        is_new=True,
    )
    early_stopping: int = option(
        0,
        'stop after this many evaluations without a better score on the validation split; 0: never',
        at_least=0,
        is_new=True,
    )
    parallel: str = option(
        'jit',
        'how several devices share a step: jit (batch norm over the whole batch) or pmap (batch '
        'norm per device)',
        choices=('jit', 'pmap'),
        identity=False,
    )
    mesh: str = option(
        '',
        "axes of the mesh of all devices: 'data:4,space:2' divides each batch in 4 parts and the "
        'rows of its images, with their feature maps, in 2 strips (default: data, all devices)',
        identity=False,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise UserError(
                f'accumulate={self.accumulate}: must divide batch_size={self.batch_size}'
            )
        if self.early_stopping and not self.keep_best:
            raise UserError(
                f'keep_best={self.keep_best}: must be at least 1 with '
                f'early_stopping={self.early_stopping}'
            )
        parsed(self, 'mesh', mesh.parse)
        parsed(self, 'rate_factors', lambda _: self.read_rate_factors())
        parsed(self, 'class_weights', lambda _: self.read_class_weights())
        if self.class_weights and self.label_smoothing:
            raise UserError(
                f'class_weights={self.class_weights!r} and label_smoothing={self.label_smoothing}: '
                'give one of them'
            )
        if self.init_from and self.pretrained:
            raise UserError(
                f'init_from={self.init_from!r} and pretrained={self.pretrained!r}: give one of them'
            )

    def read_class_weights(self) -> list[float] | str:
        """Parses `class_weights` into numbers, at least one above 0, or 'balanced' or ''."""
        if self.class_weights in ('', 'balanced'):
            return self.class_weights
        weights = [float(part) for part in self.class_weights.split(',')]
        if not all(0 <= w < math.inf for w in weights) or not any(weights):
            raise UserError('must be balanced, or numbers of at least 0, such as 1,2.5')
        return weights

    def read_freeze(self) -> list[str]:
        """Parses `freeze` into patterns of parameter names."""
        return [pattern for part in self.freeze.split(',') if (pattern := part.strip())]

    def read_rate_factors(self) -> dict[str, float]:
        """Parses `rate_factors` into patterns of parameter names and their factors."""
        factors = {}
        for part in filter(None, self.rate_factors.split(',')):
            pattern, _, text = part.strip().rpartition('=')
            factors[pattern] = float(text) if pattern else math.nan
            if not 0 <= factors[pattern] < math.inf:
                raise UserError(f'{part!r} must be a pattern and a factor, such as layers/fc/*=10')
        return factors


@dataclasses.dataclass(frozen=True)
class FitConfig(TrainConfig):
    """The configuration of a run of `training.fit`.

    What was given as an object is not part of it: `program.json` in the folder identifies it.

    Attributes:
        OWN: the data set, and the beginning of the model, of a run that was given these as objects.
    """

    task: ClassVar[str] = 'fit'
    tasks: ClassVar[tuple[str, ...]] = ()
    OWN: ClassVar[str] = 'own'

    @property
    def has_names(self) -> bool:
        """Whether model and data set can be made from the configuration alone."""
        return self.dataset != self.OWN and not self.model.startswith(f'{self.OWN}:')
