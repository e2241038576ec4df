"""MobileNetV2 and V3, EfficientNet and ConvNeXt of any width in PyTorch, for comparison.

The names and the order of the modules follow the documented layout of torchvision. Modules for
dropout and stochastic depth are there, but do nothing.
"""

import math

import torch
from torch import nn


class Network(nn.Module):
    def __init__(self, features, classifier, flatten=True):
        super().__init__()
        self.flatten = flatten
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(*classifier)

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1) if self.flatten else x)


class Block(nn.Module):
    """The layers in a module named `inside`, and perhaps a shortcut."""

    def __init__(self, inside, layers, shortcut):
        super().__init__()
        self.inside, self.shortcut = inside, shortcut
        setattr(self, inside, nn.Sequential(*layers))
        self.stochastic_depth = nn.Identity()

    def forward(self, x):
        y = getattr(self, self.inside)(x)
        return x + self.stochastic_depth(y) if self.shortcut else y


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, hidden, act, gate):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.act, self.gate = act, gate

    def forward(self, x):
        return x * self.gate(self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))))


def mobilenet_v2(width, num_classes):
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]
    rows += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    inputs = eights(32 * width)
    features = [conv_bn(3, inputs, 3, 2, act=nn.ReLU6)]
    for factor, outputs, count, stride in rows:
        outputs = eights(outputs * width)
        for _ in range(count):
            hidden = factor * inputs
            layers = [conv_bn(inputs, hidden, 1, act=nn.ReLU6)] if factor > 1 else []
            layers.append(conv_bn(hidden, hidden, 3, stride, hidden, nn.ReLU6))
            layers += [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            features.append(Block('conv', layers, stride == 1 and inputs == outputs))
            inputs, stride = outputs, 1
    last = max(1280, eights(1280 * width))
    features.append(conv_bn(inputs, last, 1, act=nn.ReLU6))
    return Network(features, [nn.Dropout(0), nn.Linear(last, num_classes)])


def mobilenet_v3_small(width, num_classes):
    # window, expanded, outputs, squeeze-and-excitation, hard swish, stride
    rows = [(3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2)]
    rows += [(5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1)]
    rows += [(5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2)] + 2 * [(5, 576, 96, 1, 1, 1)]
    norm = {'eps': 0.001, 'momentum': 0.01}
    inputs = eights(16 * width)
    features = [conv_bn(3, inputs, 3, 2, act=nn.Hardswish, **norm)]
    for window, hidden, outputs, squeeze, swish, stride in rows:
        act = nn.Hardswish if swish else nn.ReLU
        hidden, outputs = eights(hidden * width), eights(outputs * width)
        layers = [conv_bn(inputs, hidden, 1, act=act, **norm)] if hidden != inputs else []
        layers.append(conv_bn(hidden, hidden, window, stride, hidden, act, **norm))
        if squeeze:
            few = eights(hidden // 4)
            layers.append(SqueezeExcitation(hidden, few, nn.ReLU(), nn.Hardsigmoid()))
        layers.append(conv_bn(hidden, outputs, 1, **norm))
        features.append(Block('block', layers, stride == 1 and inputs == outputs))
        inputs = outputs
    last, hidden = 6 * inputs, eights(1024 * width)
    features.append(conv_bn(inputs, last, 1, act=nn.Hardswish, **norm))
    head = [nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0), nn.Linear(hidden, num_classes)]
    return Network(features, head)


def efficientnet(width, depth, num_classes):
    rows = [(1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)]
    rows += [(6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)]
    inputs = eights(32 * width)
    features = [conv_bn(3, inputs, 3, 2, act=nn.SiLU)]
    for factor, window, stride, outputs, count in rows:
        outputs, stage = eights(outputs * width), []
        for _ in range(math.ceil(count * depth)):
            hidden = factor * inputs
            layers = [conv_bn(inputs, hidden, 1, act=nn.SiLU)] if factor > 1 else []
            layers.append(conv_bn(hidden, hidden, window, stride, hidden, nn.SiLU))
            layers.append(SqueezeExcitation(hidden, inputs // 4, nn.SiLU(), nn.Sigmoid()))
            layers.append(conv_bn(hidden, outputs, 1))
            stage.append(Block('block', layers, stride == 1 and inputs == outputs))
            inputs, stride = outputs, 1
        features.append(nn.Sequential(*stage))
    features.append(conv_bn(inputs, 4 * inputs, 1, act=nn.SiLU))
    return Network(features, [nn.Dropout(0), nn.Linear(4 * inputs, num_classes)])


class LayerNorm2d(nn.LayerNorm):
    """Normalises the channels, the second axis."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Move(nn.Module):
    def __init__(self, source, destination):
        super().__init__()
        self.axes = source, destination

    def forward(self, x):
        return x.movedim(*self.axes)


class ConvNeXtBlock(Block):
    def __init__(self, width):
        layers = [
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            Move(1, -1),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            Move(-1, 1),
        ]
        super().__init__('block', layers, shortcut=True)
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, x):
        return x + self.stochastic_depth(self.layer_scale * self.block(x))


def convnext(depths, width, num_classes):
    features = [nn.Sequential(nn.Conv2d(3, width, 4, 4), LayerNorm2d(width, eps=1e-6))]
    for stage, count in enumerate(depths):
        if stage > 0:
            norm = LayerNorm2d(width, eps=1e-6)
            features.append(nn.Sequential(norm, nn.Conv2d(width, 2 * width, 2, 2)))
            width *= 2
        features.append(nn.Sequential(*(ConvNeXtBlock(width) for _ in range(count))))
    head = [LayerNorm2d(width, eps=1e-6), nn.Flatten(1), nn.Linear(width, num_classes)]
    return Network(features, head, flatten=False)


def conv_bn(inputs, outputs, window, stride=1, groups=1, act=None, **norm):
    layers = [
        nn.Conv2d(inputs, outputs, window, stride, window // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, **norm),
    ]
    return nn.Sequential(*layers, *([] if act is None else [act()]))


def eights(channels):
    """The nearest multiple of 8, or the next one if that would lose more than 10 %."""
    count = max(1, math.floor(channels / 8 + 0.5))
    return 8 * count if 8 * count >= 0.9 * channels else 8 * count + 8
