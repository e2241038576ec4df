"""VGG and ResNet of any width in PyTorch, for comparison.

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
    def __init__(self, features, classifier):
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = classifier

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Block(nn.Module):
    """BasicBlock (windows 3, 3) or Bottleneck (windows 1, 3, 1), depending on `convolutions`."""

    def __init__(self, convolutions, downsample):
        super().__init__()
        self.count = len(convolutions)
        for i, (inputs, outputs, window, stride) in enumerate(convolutions, start=1):
            conv = nn.Conv2d(inputs, outputs, window, stride, window // 2, bias=False)
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
    def __init__(self, counts, bottleneck, width, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, count in enumerate(counts):
            inner = width * 2**stage
            outputs = inner * (4 if bottleneck else 1)
            blocks = []
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                if bottleneck:
                    convolutions = [(inputs, inner, 1, 1), (inner, inner, 3, stride)]
                    convolutions.append((inner, outputs, 1, 1))
                else:
                    convolutions = [(inputs, inner, 3, stride), (inner, outputs, 3, 1)]
                downsample = None
                if stride > 1 or inputs != outputs:
                    downsample = nn.Sequential(
                        nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                    )
                blocks.append(Block(convolutions, downsample))
                inputs = outputs
            setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


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
