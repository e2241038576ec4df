"""Models by name: `create` makes a model, and `register` adds a new one.

model = create('lecture_cnn', input_shape=(28, 28, 1), num_classes=10, rngs=nnx.Rngs(0))
logits = model(images)
"""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import plugins
from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.models import (
    airbench,
    alexnet,
    autoencoder,
    convnext,
    dcgan,
    densenet,
    efficientnet,
    fcn,
    googlenet,
    keras_mnist,
    lecture_cnn,
    lenet,
    mnist1d,
    mobilenet,
    mobilenet_v2,
    mobilenet_v3,
    nin,
    own,
    raw_audio,
    resnet,
    small_cnn,
    textcnn,
    unet,
    vgg,
    wide_resnet,
)
from cnn_jax.models.base import AXES, Classifier, Counterpart, LayerFactory, Model, flat_features
from cnn_jax.ops.dispatch import implementations
from cnn_jax.ops.types import DTypeLike
from cnn_jax.registry import Registry

__all__ = [
    'Classifier',
    'Counterpart',
    'LayerFactory',
    'Model',
    'create',
    'data_dependent_init',
    'flat_features',
    'names',
    'options',
    'register',
]


INIT_EXAMPLES = 5000  # as Jordan 2024 uses for airbench


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered model.

    Attributes:
        build: see `register`.
        kinds: kinds of data that the model accepts: 'image', 'audio' or 'text'.
        task: 'classification', 'segmentation', 'autoencoder', 'generator' or 'discriminator'.
        data_dependent_init: function that maps normalised training inputs to the values that
            replace initial ones, by name; None means that no values are replaced.
    """

    build: Callable[..., Model]
    kinds: tuple[str, ...] = ('image',)
    task: str = 'classification'
    data_dependent_init: Callable[[jax.Array], dict[str, jax.Array]] | None = None


MODELS: Registry[Entry] = Registry('model')


def register(
    name: str,
    build: Callable[..., Model] | None = None,
    *,
    kinds: Sequence[str] = ('image',),
    task: str = 'classification',
    data_dependent_init: Callable[[jax.Array], dict[str, jax.Array]] | None = None,
    replace: bool = False,
) -> Callable[..., Any]:
    """Registers a model under a name; without `build`, returns a decorator that does so.

        @models.register('tiny')
        def tiny(make, input_shape, num_classes, *, width: int = 8):
            layers = {
                'conv': make.conv(input_shape[-1], width, (3, 3)),
                'relu': nnx.relu,
                'pool': nn.GlobalAvgPool(),
                'logits': make.linear(width, num_classes),
            }
            return Classifier(nn.Layers(layers), input_shape, num_classes)

    Args:
        name: the name that `create` and --model take.
        build: function that makes the model from a `LayerFactory`, the shape of one example and
            the number of classes. Its keyword-only arguments are the model's options.
        kinds, task, data_dependent_init: see `Entry`.
        replace: see `Registry.register`.

    Raises:
        UserError: the name is already registered.
    """
    if build is None:
        return lambda decorated: register(
            name,
            decorated,
            kinds=kinds,
            task=task,
            data_dependent_init=data_dependent_init,
            replace=replace,
        )
    entry = Entry(build, tuple(kinds), task, data_dependent_init)
    MODELS.register(name, entry, replace=replace)
    return build


register('lecture_cnn', lecture_cnn.lecture_cnn)
register('lenet5', lenet.lenet5)
register('lenet5_1998', lenet.lenet5_1998)
register('keras_mnist', keras_mnist.keras_mnist)
register('small_cnn', small_cnn.small_cnn)
register('vgg11', partial(vgg.vgg, depth=11))
register('vgg13', partial(vgg.vgg, depth=13))
register('vgg16', partial(vgg.vgg, depth=16))
register('vgg19', partial(vgg.vgg, depth=19))
register('vgg11_bn', partial(vgg.vgg, depth=11, batch_norm=True))
register('vgg13_bn', partial(vgg.vgg, depth=13, batch_norm=True))
register('vgg16_bn', partial(vgg.vgg, depth=16, batch_norm=True))
register('vgg19_bn', partial(vgg.vgg, depth=19, batch_norm=True))
register('nin', nin.nin)
register('alexnet', alexnet.alexnet)
register('googlenet', googlenet.googlenet)
register('resnet18', partial(resnet.resnet, depth=18))
register('resnet34', partial(resnet.resnet, depth=34))
register('resnet50', partial(resnet.resnet, depth=50))
register('resnet101', partial(resnet.resnet, depth=101))
register('resnet152', partial(resnet.resnet, depth=152))
register('resnext50_32x4d', partial(resnet.resnet, depth=50, groups=32, group_width=4))
register('resnext101_32x8d', partial(resnet.resnet, depth=101, groups=32, group_width=8))
register('se_resnet50', partial(resnet.resnet, depth=50, reduction=16, stride_window=1))
register('densenet121', densenet.densenet)
register('cifar_resnet20', partial(resnet.cifar_resnet, depth=20))
register('wrn28_10', partial(wide_resnet.wide_resnet, depth=28, widen=10))
register('wrn16_4', partial(wide_resnet.wide_resnet, depth=16, widen=4))
register('mobilenet', mobilenet.mobilenet)
register('mobilenet_v2', mobilenet_v2.mobilenet_v2)
register('mobilenet_v3_large', partial(mobilenet_v3.mobilenet_v3, size='large'))
register('mobilenet_v3_small', partial(mobilenet_v3.mobilenet_v3, size='small'))
register('efficientnet_b0', efficientnet.efficientnet)
register('convnext_tiny', convnext.convnext)
register('convnext_small', partial(convnext.convnext, depths=(3, 3, 27, 3), drop_rate=0.4))
register(
    'convnext_base', partial(convnext.convnext, depths=(3, 3, 27, 3), width=128, drop_rate=0.5)
)
register('airbench', airbench.airbench, data_dependent_init=airbench.whitening)
register('m3', partial(raw_audio.raw_audio, depth=3), kinds=('audio',))
register('m5', partial(raw_audio.raw_audio, depth=5), kinds=('audio',))
register('m11', partial(raw_audio.raw_audio, depth=11), kinds=('audio',))
register('m18', partial(raw_audio.raw_audio, depth=18), kinds=('audio',))
register('mnist1d_cnn', mnist1d.cnn, kinds=('audio',))
register('mlp', mnist1d.mlp, kinds=('image', 'audio'))
register('logistic', mnist1d.logistic, kinds=('image', 'audio'))
register('textcnn', textcnn.textcnn, kinds=('text',))
register('unet', unet.unet, task='segmentation')
register('fcn_resnet18', partial(fcn.fcn, depth=18), task='segmentation')
register('fcn_resnet50', partial(fcn.fcn, depth=50), task='segmentation')
register('autoencoder', autoencoder.autoencoder, task='autoencoder')
register('vae', partial(autoencoder.autoencoder, variational=True), task='autoencoder')
register('dcgan_generator', dcgan.generator, task='generator')
register('dcgan_discriminator', dcgan.discriminator, task='discriminator')


def names(task: str | None = None) -> tuple[str, ...]:
    """Returns the names of all models, or of those for one task.

    The tasks are 'classification', 'segmentation', 'autoencoder', 'generator' and
    'discriminator'.
    """
    return tuple(name for name, entry in MODELS.items() if task in (None, entry.task))


def options(name: str) -> dict[str, Any]:
    """Returns the options of model `name` with their defaults."""
    parameters = inspect.signature(MODELS.lookup(name).build).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def data_dependent_init(name: str, inputs: Callable[[int], jax.Array]) -> dict[str, jax.Array]:
    """Computes the weights of model `name` that are set from data before training, by name.

    The result is empty for most models.

    Args:
        inputs: function that returns the first n training inputs, normalised, or all of them if
            there are fewer.
    """
    entry = MODELS.get(name)  # a user's own model has none
    compute = entry.data_dependent_init if entry else None
    return compute(inputs(INIT_EXAMPLES)) if compute else {}


def create(
    name: str,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    rngs: nnx.Rngs,
    dtype: DTypeLike = jnp.float32,
    implementation: str | Sequence[str] | None = None,
    kind: str | None = None,
    norm_group: int = 0,
    **overrides: Any,
) -> Any:
    """Makes a model with initial parameters in float32: a `Model`, or a user's `nnx.Module`.

    Args:
        name: one of `names()`, or a class or function in a file, 'path/file.py:name' (see
            docs/own_model.md).
        input_shape: shape of one example: image (height, width, channels), audio (time, channels),
            text (length,).
        num_classes: number of logits.
        rngs: source of the initial parameters and the dropout masks.
        dtype: dtype of the layers' computations; logits are always float32.
        implementation: a kernel's name, or several in order of preference. Each operation uses
            those that it implements, and its default if it implements none of them.
        kind: the kind of data ('image', 'audio' or 'text'), which is checked against the model.
        norm_group: number of examples that share the statistics of batch norm in training, see
            `nn.GhostBatchNorm`; 0: all of the batch.
        **overrides: values for the model's options; see `options`.

    Raises:
        ValueError: the name, an option or a kernel is unknown; the model does not accept this kind
            of data; or the input is too small (the message names the smallest size that works).
    """
    if num_classes < 1:
        raise UserError(f'num_classes={num_classes} must be at least 1')
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f'dtype={dtype} must be floating point')
    make = LayerFactory(rngs, dtype, _check_kernels(implementation), norm_group)
    if plugins.is_object(name):
        return own.create(name, make, input_shape, num_classes, overrides)
    entry = MODELS.lookup(name)
    input_shape = _check_shape(name, entry, tuple(input_shape), kind)
    known = options(name)
    if unknown := set(overrides) - set(known):
        raise UserError(
            f'model {name} has no option {", ".join(sorted(unknown))}; it has '
            f'{", ".join(known) or "none"}'
        )
    for option, value in overrides.items():
        _check_option(name, option, value, known[option])
    try:
        return entry.build(make, input_shape, num_classes, **overrides)
    except UserError as error:
        raise UserError(f'model {name}: {error}') from error


def _check_option(name: str, option: str, value: Any, default: Any) -> None:
    """Raises UserTypeError unless `value` has the type of the default, if that is not None."""
    kind = type(default)
    others: dict[type, Any] = {type(None): object, float: (int, float), tuple: (tuple, list)}
    allowed = others.get(kind, kind)
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind in (int, float)):
        raise UserTypeError(
            f'model {name}: {option}={value!r} must be of type {kind.__name__}, like its default '
            f'{default!r}'
        )


def _check_kernels(implementation: str | Sequence[str] | None) -> tuple[str, ...]:
    names = (implementation,) if isinstance(implementation, str) else tuple(implementation or ())
    known = sorted(set().union(*implementations().values()))
    for name in names:
        if name not in known:
            raise UserError(f'unknown implementation {name!r}; must be one of {", ".join(known)}')
    return names


def _check_shape(
    name: str, entry: Entry, shape: tuple[int, ...], kind: str | None
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


def set_from_inputs(name: str, inputs: Callable[[int], jax.Array]) -> dict[str, jax.Array]:
    """Deprecated name of `data_dependent_init`."""
    warnings.warn(
        'cnn_jax.models.set_from_inputs is now data_dependent_init',
        DeprecationWarning,
        stacklevel=2,
    )
    return data_dependent_init(name, inputs)
