"""Describes networks as data, so that every framework builds the same ones.

A layer is a tuple: its kind, then its arguments. Windows and strides are lists, one number per
axis. By default, convolutions and pools pad (window - 1) // 2 on both sides.

    conv FEATURES WINDOW STRIDES GROUPS BIAS      deconv FEATURES WINDOW STRIDES (pads 1 per side)
    max_pool WINDOW (strides of the window, no padding)      batch_norm    relu
    global_avg    global_max    flatten    unflatten SHAPE    dense FEATURES
    embed TOKENS FEATURES
    residual BRANCH SHORTCUT: the sum of the outputs of two lists of layers
    parallel LISTS: the outputs of several lists of layers, concatenated along the last axis
    model NAME CLASSES SHAPES: a registered model; see `torch_twins.twin`
"""

from typing import Any, NamedTuple

from cnn_jax.registry import Registry

Layers = list[Any]


class Network(NamedTuple):
    """A network.

    Attributes:
        title: its name in tables and figures.
        inputs: shape of a batch.
        classes: number of classes; 0 if the target is an image.
        layers: see above.
        tokens: vocabulary size of a text; 0 if the inputs are numbers.
        is_dense: whether every pixel has a class.
    """

    title: str
    inputs: tuple[int, ...]
    classes: int
    layers: Layers
    tokens: int = 0
    is_dense: bool = False


def _conv(features: int, window: list, strides: list | None = None, groups=1, bias=True) -> tuple:
    return ('conv', features, window, strides or [1] * len(window), groups, bias)


def _conv_bn(*args: Any) -> Layers:
    return [_conv(*args, bias=False), ('batch_norm',), ('relu',)]


def _small_vgg() -> Layers:
    first = [_conv(32, [3, 3]), ('relu',), _conv(64, [3, 3]), ('relu',), ('max_pool', [2, 2])]
    second = [_conv(128, [3, 3]), ('relu',), ('max_pool', [2, 2])]
    return [*first, *second, ('flatten',), ('dense', 256), ('relu',), ('dense', 10)]


def _vgg16() -> Layers:
    layers: Layers = []
    for features, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += _conv_bn(features, [3, 3])
        layers.append(('max_pool', [2, 2]))
    return [*layers, ('flatten',), ('dense', 10)]


def _resnet18() -> Layers:
    layers, before = _conv_bn(64, [3, 3]), 64
    for features in (64, 128, 256, 512):
        for place in range(2):
            stride = 2 if place == 0 and features > 64 else 1
            branch = [
                *_conv_bn(features, [3, 3], [stride] * 2),
                _conv(features, [3, 3], bias=False),
                ('batch_norm',),
            ]
            same = stride == 1 and before == features
            to_same = [_conv(features, [1, 1], [stride] * 2, bias=False), ('batch_norm',)]
            layers += [('residual', branch, [] if same else to_same), ('relu',)]
            before = features
    return [*layers, ('global_avg',), ('dense', 10)]


def _mobilenet() -> Layers:
    layers, before = _conv_bn(32, [3, 3]), 32
    for features, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)):
        layers += _conv_bn(before, [3, 3], [stride] * 2, before) + _conv_bn(features, [1, 1])
        before = features
    return [*layers, ('global_avg',), ('dense', 10)]


def _m5() -> Layers:
    layers = [*_conv_bn(64, [80], [4]), ('max_pool', [4])]
    for features in (64, 128, 128):
        layers += [*_conv_bn(features, [3]), ('max_pool', [4])]
    return [*layers, ('global_avg',), ('dense', 10)]


def _textcnn() -> Layers:
    windows = [[_conv(100, [n]), ('relu',), ('global_max',)] for n in (3, 4, 5)]
    return [('embed', 19300, 300), ('parallel', windows), ('dense', 2)]


def _generator() -> Layers:
    layers: Layers = [('dense', 8 * 8 * 256), ('unflatten', [8, 8, 256])]
    for features in (128, 64):
        layers += [('deconv', features, [4, 4], [2, 2]), ('batch_norm',), ('relu',)]
    return [*layers, ('deconv', 3, [4, 4], [2, 2])]


NETWORKS: Registry[Network] = Registry('network')
for name, network in {
    'small_vgg': Network('small VGG-like, 28x28', (128, 28, 28, 1), 10, _small_vgg()),
    'vgg16': Network('VGG-16, 32x32', (128, 32, 32, 3), 10, _vgg16()),
    'resnet18': Network('ResNet-18, 32x32', (128, 32, 32, 3), 10, _resnet18()),
    'mobilenet': Network('depthwise separable, 32x32', (64, 32, 32, 3), 10, _mobilenet()),
    'm5': Network('M5, 8000 audio samples', (64, 8000, 1), 10, _m5()),
    'textcnn': Network('TextCNN, 64 words', (50, 64), 2, _textcnn(), tokens=19300),
    'generator': Network('generator, to 64x64', (32, 100), 0, _generator()),
}.items():
    NETWORKS.register(name, network)
