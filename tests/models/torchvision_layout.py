"""VGG, AlexNet, ResNet, DenseNet and GoogLeNet of any width in PyTorch, for comparison.

The names and the order of the modules follow the documented layout of torchvision.
"""

import torch
from torch import nn


def vgg(stages, features, hidden, num_classes, batch_norm):
    layers, channels = [], 3
    for count, width in zip(stages, features, strict=True):
        for _ in range(count):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return VGG(
        nn.Sequential(*layers),
        nn.Sequential(
            nn.Linear(channels * 7 * 7, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, num_classes),
        ),
    )


class VGG(nn.Module):
    """Also AlexNet, with `side` 6."""

    def __init__(self, features, classifier, side=7):
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((side, side))
        self.classifier = classifier

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def alexnet(channels, hidden, num_classes):
    a, b, c, d, e = channels
    return VGG(
        nn.Sequential(
            nn.Conv2d(3, a, 11, 4, 2),
            nn.ReLU(True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(a, b, 5, padding=2),
            nn.ReLU(True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(True),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(True),
            nn.Conv2d(d, e, 3, padding=1),
            nn.ReLU(True),
            nn.MaxPool2d(3, 2),
        ),
        nn.Sequential(
            nn.Dropout(),
            nn.Linear(e * 6 * 6, hidden),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(True),
            nn.Linear(hidden, num_classes),
        ),
        side=6,
    )


class Block(nn.Module):
    """BasicBlock (windows 3, 3) or Bottleneck (windows 1, 3, 1), depending on `convolutions`."""

    def __init__(self, convolutions, downsample, dilation=1):
        super().__init__()
        self.count = len(convolutions)
        for i, (inputs, outputs, window, stride, *groups) in enumerate(convolutions, start=1):
            taps = {'padding': window // 2 * dilation, 'dilation': dilation if window > 1 else 1}
            if groups:
                taps['groups'] = groups[0]
            conv = nn.Conv2d(inputs, outputs, window, stride, bias=False, **taps)
            setattr(self, f'conv{i}', conv)
            setattr(self, f'bn{i}', nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(y))
            if i < self.count:
                y = self.relu(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """With `groups` of `group_width` channels in the first stage: ResNeXt.

    `dilated`: whether the last two stages replace their stride by dilation, as for FCN.
    """

    def __init__(
        self, counts, bottleneck, width, num_classes, groups=1, group_width=None, dilated=False
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        dilation = 1
        for stage, count in enumerate(counts):
            before = dilation
            if dilated and stage > 1:
                dilation *= 2
            inner = groups * (group_width or width) * 2**stage
            outputs = width * 2**stage * (4 if bottleneck else 1)
            blocks = []
            for i in range(count):
                stride = 2 if stage and i == 0 and dilation == 1 else 1
                if bottleneck:
                    convolutions = [(inputs, inner, 1, 1), (inner, inner, 3, stride, groups)]
                    convolutions.append((inner, outputs, 1, 1))
                else:
                    convolutions = [(inputs, inner, 3, stride), (inner, outputs, 3, 1)]
                downsample = None
                if stride > 1 or inputs != outputs:
                    downsample = nn.Sequential(
                        nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                    )
                blocks.append(Block(convolutions, downsample, dilation if i else before))
                inputs = outputs
            setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, num_classes)

    def features(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x):
        return self.fc(torch.flatten(self.avgpool(self.features(x)), 1))


class FCN(nn.Module):
    """With the tensors of an auxiliary classifier, which evaluation does not use."""

    def __init__(self, counts, width, num_classes):
        super().__init__()
        self.backbone = ResNet(counts, True, width, num_classes, dilated=True)
        channels = self.backbone.fc.in_features
        del self.backbone.avgpool, self.backbone.fc
        self.classifier = self.head(channels, num_classes)
        self.aux_classifier = self.head(channels // 2, num_classes)

    @staticmethod
    def head(channels, num_classes):
        return nn.Sequential(
            nn.Conv2d(channels, channels // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels // 4),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(channels // 4, num_classes, 1),
        )

    def forward(self, x):
        logits = self.classifier(self.backbone.features(x))
        return nn.functional.interpolate(logits, size=x.shape[-2:], mode='bilinear')


class DenseLayer(nn.Sequential):
    def __init__(self, inputs, growth):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)


class DenseBlock(nn.Module):
    def __init__(self, count, inputs, growth):
        super().__init__()
        for i in range(count):
            self.add_module(f'denselayer{i + 1}', DenseLayer(inputs + i * growth, growth))

    def forward(self, x):
        for layer in self.children():
            x = torch.cat([x, layer(x.clone())], 1)
        return x


class DenseNet(nn.Module):
    def __init__(self, counts, growth, num_classes):
        super().__init__()
        channels = 2 * growth
        self.features = nn.Sequential()
        add = self.features.add_module
        add('conv0', nn.Conv2d(3, channels, 7, 2, 3, bias=False))
        add('norm0', nn.BatchNorm2d(channels))
        add('relu0', nn.ReLU(inplace=True))
        add('pool0', nn.MaxPool2d(3, 2, 1))
        for i, count in enumerate(counts, start=1):
            add(f'denseblock{i}', DenseBlock(count, channels, growth))
            channels += count * growth
            if i < len(counts):
                transition = nn.Sequential()
                transition.add_module('norm', nn.BatchNorm2d(channels))
                transition.add_module('relu', nn.ReLU(inplace=True))
                transition.add_module('conv', nn.Conv2d(channels, channels // 2, 1, bias=False))
                transition.add_module('pool', nn.AvgPool2d(2, 2))
                add(f'transition{i}', transition)
                channels //= 2
        add('norm5', nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x):
        return self.classifier(torch.relu(self.features(x)).mean((2, 3)))


class ConvUnit(nn.Module):
    def __init__(self, inputs, outputs, window, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, window, stride, window // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, inputs, one, reduce2, three2, reduce3, three3, project):
        super().__init__()
        self.branch1 = ConvUnit(inputs, one, 1)
        self.branch2 = nn.Sequential(ConvUnit(inputs, reduce2, 1), ConvUnit(reduce2, three2, 3))
        self.branch3 = nn.Sequential(ConvUnit(inputs, reduce3, 1), ConvUnit(reduce3, three3, 3))
        pool = nn.MaxPool2d(3, 1, 1, ceil_mode=True)
        self.branch4 = nn.Sequential(pool, ConvUnit(inputs, project, 1))

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


class GoogLeNet(nn.Module):
    """With the tensors of an auxiliary classifier, which evaluation does not use.

    Args:
        blocks: channels of each block by name, in order.
        transform_input: see `cnn_jax.models.googlenet`.
    """

    def __init__(self, stem, blocks, num_classes, transform_input):
        super().__init__()
        before, channels = stem
        self.transform_input = transform_input
        self.conv1 = ConvUnit(3, before, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvUnit(before, before, 1)
        self.conv3 = ConvUnit(before, channels, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.order = ['conv1', 'maxpool1', 'conv2', 'conv3', 'maxpool2']
        for name, features in blocks.items():
            if name == '4a':
                self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
                self.order.append('maxpool3')
            if name == '5a':
                self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
                self.order.append('maxpool4')
            self.add_module(f'inception{name}', Inception(channels, *features))
            self.order.append(f'inception{name}')
            one, _, three2, _, three3, project = features
            channels = one + three2 + three3 + project
        self.aux1 = ConvUnit(3, 2, 1)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        if self.transform_input:
            mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[
                ..., None, None
            ]
            x = (x * std + mean - 0.5) / 0.5
        for name in self.order:
            x = getattr(self, name)(x)
        return self.fc(self.dropout(torch.flatten(self.avgpool(x), 1)))


def randomize(model, seed):
    """Sets all weights to random values and returns the model.

    This includes the parameters and averages of batch norm, which would have no effect with their
    initial values.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith('num_batches_tracked'):
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        elif name.endswith('running_var') or name.endswith('weight'):
            tensor.copy_(1 + 0.2 * noise.abs())
        else:
            tensor.copy_(0.2 * noise)
    return model


def assert_loads(network, tensors):
    """Asserts that `network` takes these arrays as its state and that they equal it already."""
    own = {
        key: tensor
        for key, tensor in network.state_dict().items()
        if not key.startswith('aux') and not key.endswith('num_batches_tracked')
    }
    assert tensors.keys() == own.keys()
    for key, tensor in own.items():
        assert torch.equal(torch.tensor(tensors[key]), tensor), key
