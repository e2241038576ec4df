"""Models by name: the one table, and `create`.

    model = create('lecture_cnn', input_shape=(28, 28, 1), num_classes=10, rngs=nnx.Rngs(0))
    logits = model(images)

A model file holds functions `build(make, input_shape, num_classes, *, options...) -> Model`; the
options are what can be overridden by name.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.models import (
    airbench,
    autoencoder,
    dcgan,
    keras_mnist,
    lecture_cnn,
    lenet,
    mnist1d,
    mobilenet,
    nin,
    raw_audio,
    resnet,
    small_cnn,
    textcnn,
    vgg,
    wide_resnet,
)
from cnn_jax.models.base import AXES, Maker, Model
from cnn_jax.ops.dispatch import implementations

__all__ = ['Model', 'create', 'names', 'options', 'data_dependent_init']


SET_FROM = 5000  # training inputs, as Jordan 2024 takes for airbench


@dataclasses.dataclass(frozen=True)
class _Entry:
    build: Callable[..., Model]
    kinds: tuple[str, ...] = ('image',)
    task: str = 'classification'
    data_dependent_init: Callable[[jax.Array], dict[str, jax.Array]] | None = None


def _preset(build: Callable[..., Model], **fixed: Any) -> Callable[..., Model]:
    return functools.partial(build, **fixed)


_MODELS: dict[str, _Entry] = {
    'lecture_cnn': _Entry(lecture_cnn.lecture_cnn),
    'lenet5': _Entry(lenet.lenet5),
    'lenet5_1998': _Entry(lenet.lenet5_1998),
    'keras_mnist': _Entry(keras_mnist.keras_mnist),
    'small_cnn': _Entry(small_cnn.small_cnn),
    'vgg11': _Entry(_preset(vgg.vgg, depth=11)),
    'vgg13': _Entry(_preset(vgg.vgg, depth=13)),
    'vgg16': _Entry(_preset(vgg.vgg, depth=16)),
    'vgg19': _Entry(_preset(vgg.vgg, depth=19)),
    'vgg11_bn': _Entry(_preset(vgg.vgg, depth=11, batch_norm=True)),
    'vgg13_bn': _Entry(_preset(vgg.vgg, depth=13, batch_norm=True)),
    'vgg16_bn': _Entry(_preset(vgg.vgg, depth=16, batch_norm=True)),
    'vgg19_bn': _Entry(_preset(vgg.vgg, depth=19, batch_norm=True)),
    'nin': _Entry(nin.nin),
    'resnet18': _Entry(_preset(resnet.resnet, depth=18)),
    'resnet34': _Entry(_preset(resnet.resnet, depth=34)),
    'resnet50': _Entry(_preset(resnet.resnet, depth=50)),
    'cifar_resnet20': _Entry(_preset(resnet.cifar_resnet, depth=20)),
    'wrn28_10': _Entry(_preset(wide_resnet.wide_resnet, depth=28, widen=10)),
    'wrn16_4': _Entry(_preset(wide_resnet.wide_resnet, depth=16, widen=4)),
    'mobilenet': _Entry(mobilenet.mobilenet),
    'airbench': _Entry(airbench.airbench, data_dependent_init=airbench.whitening),
    'm3': _Entry(_preset(raw_audio.raw_audio, depth=3), ('audio',)),
    'm5': _Entry(_preset(raw_audio.raw_audio, depth=5), ('audio',)),
    'm11': _Entry(_preset(raw_audio.raw_audio, depth=11), ('audio',)),
    'm18': _Entry(_preset(raw_audio.raw_audio, depth=18), ('audio',)),
    'mnist1d_cnn': _Entry(mnist1d.cnn, ('audio',)),
    'mlp': _Entry(mnist1d.mlp, ('image', 'audio')),
    'logistic': _Entry(mnist1d.logistic, ('image', 'audio')),
    'textcnn': _Entry(textcnn.textcnn, ('text',)),
    'autoencoder': _Entry(autoencoder.autoencoder, task='autoencoder'),
    'vae': _Entry(_preset(autoencoder.autoencoder, variational=True), task='autoencoder'),
    'dcgan_generator': _Entry(dcgan.generator, task='generator'),
    'dcgan_discriminator': _Entry(dcgan.discriminator, task='discriminator'),
}


def names(task: str | None = None) -> tuple[str, ...]:
    """All models, or those of one task.

    The tasks are 'classification', 'autoencoder', 'generator' and 'discriminator'.
    """
    return tuple(name for name, entry in _MODELS.items() if task in (None, entry.task))


def options(name: str) -> dict[str, Any]:
    """What can be overridden in model `name`, with the defaults."""
    parameters = inspect.signature(_entry(name).build).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def data_dependent_init(name: str, inputs: Callable[[int], jax.Array]) -> dict[str, jax.Array]:
    """What model `name` has its fixed weights set to before the training, by name; mostly nothing.

    Args:
        inputs: n -> the first n training inputs, or as many as there are, normalised.
    """
    compute = _entry(name).data_dependent_init
    return compute(inputs(SET_FROM)) if compute else {}


def create(
    name: str,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    rngs: nnx.Rngs,
    dtype: Any = jnp.float32,
    implementation: Any = None,
    kind: str | None = None,
    **overrides: Any,
) -> Model:
    """Makes a model, with initial parameters in float32.

    Args:
        name: one of `names()`.
        input_shape: one example: image (height, width, channels), audio (time, channels),
            text (length,).
        num_classes: number of logits.
        rngs: source of initial parameters and of dropout's masks.
        dtype: what the layers compute in; logits are float32 in any case.
        implementation: a kernel's name, or several in order of preference; convolutions and pools
            each heed the names that they have, and choose for themselves if there is none.
        kind: what the data are ('image', 'audio', 'text'), to be checked against the model.
        **overrides: the model's own options, see `options`.

    Raises:
        ValueError: an unknown name, option or kernel; data of another kind than the model is for;
            an input that is too small (the message names the smallest that works).
    """
    entry = _entry(name)
    input_shape = _check_shape(name, entry, tuple(input_shape), kind)
    if num_classes < 1:
        raise UserError(f'num_classes={num_classes} must be at least 1')
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f'dtype={dtype} must be floating point')
    known = options(name)
    if unknown := set(overrides) - set(known):
        raise UserError(
            f'model {name} has no option {", ".join(sorted(unknown))}; it has '
            f'{", ".join(known) or "none"}'
        )
    for option, value in overrides.items():
        _check_option(name, option, value, known[option])
    make = Maker(rngs, dtype, _check_kernels(implementation))
    try:
        return entry.build(make, input_shape, num_classes, **overrides)
    except UserError as error:
        raise UserError(f'model {name}: {error}') from error


def _entry(name: str) -> _Entry:
    if name not in _MODELS:
        raise UserError(f'unknown model {name!r}; there are {", ".join(_MODELS)}')
    return _MODELS[name]


def _check_option(name: str, option: str, value: Any, default: Any) -> None:
    """Raises UserTypeError unless `value` has the type of the default, where that has one."""
    kind = type(default)
    allowed = {type(None): object, float: (int, float), tuple: (tuple, list)}.get(kind, kind)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind in (int, float)):
        raise UserTypeError(
            f'model {name}: {option}={value!r} must be of type {kind.__name__}, like its default '
            f'{default!r}'
        )


def _check_kernels(implementation: Any) -> tuple[str, ...]:
    names = (implementation,) if isinstance(implementation, str) else tuple(implementation or ())
    known = sorted(set().union(*implementations().values()))
    for name in names:
        if name not in known:
            raise UserError(f'unknown implementation {name!r}; there are {", ".join(known)}')
    return names


def _check_shape(
    name: str, entry: _Entry, shape: tuple[int, ...], kind: str | None
) -> tuple[int, ...]:
    if kind is not None and kind not in entry.kinds:
        raise UserError(f'model {name} is for {" or ".join(entry.kinds)} data, not for {kind}')
    wanted = [AXES[k] for k in ((kind,) if kind else entry.kinds)]
    if len(shape) not in map(len, wanted):
        forms = ' or '.join(f'({", ".join(axes)})' for axes in wanted)
        raise UserError(
            f'model {name} is for {" or ".join(entry.kinds)} data of shape {forms}, '
            f'got input_shape={shape}'
        )
    if min(shape) < 1:
        raise UserError(f'input_shape={shape} must be positive')
    return shape
