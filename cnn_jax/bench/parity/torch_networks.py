"""Reimplements the networks with PyTorch's functions, from their descriptions.

Each function takes the parameters by name, as converted by `to_torch`, and inputs with channels
first. This file imports neither JAX nor this package; only the parameter names are shared.
"""

import numpy as np
import torch
import torch.nn.functional as F


def lecture_cnn(p, x):
    for i in (1, 2):
        x = F.max_pool2d(F.relu(conv(p, f'layers/conv{i}', x, padding='same')), 2)
    x = flatten(x)
    return dense(p, 'layers/logits', F.relu(dense(p, 'layers/dense1', x)))


def vgg16(p, x):
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, count + 1):
            x = conv(p, f'layers/conv{stage}_{i}', x, padding=1)
            if f'layers/bn{stage}_{i}/scale' in p:
                x = batch_norm(p, f'layers/bn{stage}_{i}', x)
            x = F.relu(x)
        x = F.max_pool2d(x, 2)
    return dense(p, 'layers/fc8', x.mean((2, 3)))


def cifar_resnet(p, x):
    x = F.relu(batch_norm(p, 'layers/bn1', conv(p, 'layers/conv1', x, padding=1)))
    for stage in (1, 2, 3):
        for i in count(p, f'layers/layer{stage}/block{{}}/conv1/kernel'):
            at = f'layers/layer{stage}/block{i}'
            stride = 2 if stage > 1 and i == 0 else 1
            y = conv(p, f'{at}/conv1', x, stride=stride, padding=1)
            y = F.relu(batch_norm(p, f'{at}/bn1', y))
            y = batch_norm(p, f'{at}/bn2', conv(p, f'{at}/conv2', y, padding=1))
            x = x[:, :, ::stride, ::stride]
            x = F.relu(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])))
    return dense(p, 'layers/fc', x.mean((2, 3)))


def se_resnet(p, x):
    def unit(x, conv_at, bn_at, stride=1, padding=0):
        return batch_norm(p, bn_at, conv(p, conv_at, x, stride=stride, padding=padding))

    if p['layers/conv1/kernel'].shape[-1] == 7:
        x = F.relu(unit(x, 'layers/conv1', 'layers/bn1', stride=2, padding=3))
        x = F.max_pool2d(x, 3, 2, padding=1)
    else:
        x = F.relu(unit(x, 'layers/conv1', 'layers/bn1', padding=1))
    for stage in (1, 2, 3, 4):
        for i in count(p, f'layers/layer{stage}/block{{}}/conv1/kernel'):
            at = f'layers/layer{stage}/block{i}'
            stride = 2 if stage > 1 and i == 0 else 1
            y = F.relu(unit(x, f'{at}/conv1', f'{at}/bn1', stride))
            y = F.relu(unit(y, f'{at}/conv2', f'{at}/bn2', padding=1))
            y = unit(y, f'{at}/conv3', f'{at}/bn3')
            hidden = F.relu(dense(p, f'{at}/se/fc1', y.mean((2, 3))))
            y = y * torch.sigmoid(dense(p, f'{at}/se/fc2', hidden))[:, :, None, None]
            if f'{at}/shortcut/conv/kernel' in p:
                x = unit(x, f'{at}/shortcut/conv', f'{at}/shortcut/bn', stride)
            x = F.relu(y + x)
    return dense(p, 'layers/fc', x.mean((2, 3)))


def wide_resnet(p, x):
    x = conv(p, 'layers/conv1', x, padding=1)
    for stage in (1, 2, 3):
        at, stride = f'layers/layer{stage}/block0', 1 if stage == 1 else 2
        x = F.relu(batch_norm(p, f'{at}/bn1', x))
        y = conv(p, f'{at}/residual/conv1', x, stride=stride, padding=1)
        y = F.relu(batch_norm(p, f'{at}/residual/bn2', y))
        y = conv(p, f'{at}/residual/conv2', y, padding=1)
        x = y + conv(p, f'{at}/residual/shortcut/conv', x, stride=stride)
    return dense(p, 'layers/fc', F.relu(batch_norm(p, 'layers/bn', x)).mean((2, 3)))


def mobilenet(p, x):
    def unit(x, at, stride=1, groups=1):
        side = p[f'{at}/conv/kernel'].shape[-1]
        x = conv(p, f'{at}/conv', x, stride=stride, padding=side // 2, groups=groups)
        return F.relu(batch_norm(p, f'{at}/bn', x))

    x = unit(x, 'layers/stem')
    for i, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), start=1):
        x = unit(x, f'layers/block{i}/depthwise', stride, groups=x.shape[1])
        x = unit(x, f'layers/block{i}/pointwise')
    return dense(p, 'layers/fc', x.mean((2, 3)))


def lenet5(p, x):
    x = F.avg_pool2d(torch.tanh(conv(p, 'layers/c1', x, padding=2)), 2)
    x = F.avg_pool2d(torch.tanh(conv(p, 'layers/c3', x)), 2)
    x = torch.tanh(dense(p, 'layers/c5', flatten(x)))
    return dense(p, 'layers/logits', torch.tanh(dense(p, 'layers/f6', x)))


def nin(p, x):
    for stage, side in ((1, 5), (2, 5), (3, 3)):
        x = F.relu(conv(p, f'layers/conv{stage}', x, padding=side // 2))
        for i in (1, 2):
            x = F.relu(conv(p, f'layers/mlp{i}_{stage}', x))
        if stage == 1:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        if stage == 2:
            x = F.avg_pool2d(x, 3, 2, ceil_mode=True)
    return x.mean((2, 3))


def airbench(p, x):
    x = F.gelu(conv(p, 'layers/whiten', x))
    for i in (1, 2, 3):
        at = f'layers/group{i}'
        x = F.max_pool2d(conv(p, f'{at}/conv1', x, padding=1), 2)
        x = F.gelu(batch_norm(p, f'{at}/norm1', x, 1e-12))
        x = conv(p, f'{at}/conv2', x, padding=1)
        x = F.gelu(batch_norm(p, f'{at}/norm2', x, 1e-12))
    return dense(p, 'layers/fc', flatten(F.max_pool2d(x, 3))) / 9


def mnist1d_cnn(p, x):
    for i in (1, 2, 3):
        x = F.relu(conv(p, f'layers/conv{i}', x, stride=2, padding=1))
    return dense(p, 'layers/logits', flatten(x))


def m5(p, x):
    for i in range(1, 5):
        if i == 1:
            x = conv(p, 'layers/conv1', same(x, 80, 4), stride=4)
        else:
            x = conv(p, f'layers/conv{i}', x, padding=1)
        x = F.max_pool1d(F.relu(batch_norm(p, f'layers/bn{i}', x)), 4)
    return dense(p, 'layers/fc', x.mean(2))


def textcnn(p, ids):
    x = F.embedding(ids, p['embed/embedding']) * (ids != 0)[..., None]
    x = x.transpose(1, 2)
    windows = [w for w in range(2, 9) if f'conv{w}/kernel' in p]
    pooled = [F.relu(conv(p, f'conv{w}', x)).amax(2) for w in windows]
    return dense(p, 'logits', torch.cat(pooled, 1))


def autoencoder(p, x):
    for i in (1, 2):
        x = F.relu(conv(p, f'encoder/conv{i}', same(x, 3, 2), stride=2))
    shape = x.shape
    x = F.relu(dense(p, 'encoder/dense', flatten(x)))
    x = dense(p, 'encoder/code', x)
    x = F.relu(dense(p, 'decoder/dense', x))
    x = x.reshape(shape[0], shape[2], shape[3], shape[1]).permute(0, 3, 1, 2)
    for i in (1, 2):
        full = F.conv_transpose2d(
            x, p[f'decoder/deconv{i}/kernel'], p[f'decoder/deconv{i}/bias'], stride=2
        )
        x = F.relu(full[:, :, :-1, :-1])  # 'SAME' with stride 2 crops the last row and column
    return F.conv_transpose2d(
        x, p['decoder/logits/kernel'], p['decoder/logits/bias'], padding=1
    ).permute(0, 2, 3, 1)


def dcgan_generator(p, z):
    x = z[:, :, None, None]
    for i, options in enumerate(({}, {'stride': 2, 'padding': 1})):
        x = F.conv_transpose2d(x, p[f'layers/deconv{i}/kernel'], **options)
        x = F.relu(batch_norm(p, f'layers/bn{i}', x))
    return torch.tanh(F.conv_transpose2d(x, p['layers/image/kernel'], stride=2, padding=1))


def unet(p, x, padding=1):
    def two(x, at):
        for i in (1, 2):
            x = conv(p, f'{at}/conv{i}', x, padding=padding)
            if f'{at}/bn{i}/scale' in p:
                x = batch_norm(p, f'{at}/bn{i}', x)
            x = F.relu(x)
        return x

    levels = list(count(p, 'down{}/conv1/kernel', start=1))
    skips = []
    for level in levels:
        skips.append(two(x, f'down{level}'))
        x = F.max_pool2d(skips[-1], 2)
    x = two(x, 'bottom')
    for level in reversed(levels):
        at = f'upsample{level}'
        x = F.conv_transpose2d(x, p[f'{at}/kernel'], p[f'{at}/bias'], stride=2)
        skip = skips.pop()
        top, left = ((a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
        skip = skip[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        x = two(torch.cat([skip, x], 1), f'up{level}')
    return conv(p, 'logits', x)


def fcn_resnet(p, images):
    """ResNet with the large stem, its last two stages dilated; dropout is not applied."""
    x = F.relu(batch_norm(p, 'layers/bn1', conv(p, 'layers/conv1', images, stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    dilations = {1: (1, 1), 2: (1, 1), 3: (1, 2), 4: (2, 4)}  # of the first block, of the others
    for stage, (first, others) in dilations.items():
        for i in count(p, f'layers/layer{stage}/block{{}}/conv1/kernel'):
            at = f'layers/layer{stage}/block{i}'
            y, stride = x, 2 if stage == 2 and i == 0 else 1
            dilation = others if i else first
            convolutions = list(count(p, f'{at}/conv{{}}/kernel', start=1))
            for n in convolutions:
                options = {}
                if p[f'{at}/conv{n}/kernel'].shape[-1] == 3:
                    # A bottleneck has its stride here; otherwise the first convolution has it.
                    own = stride if n == 1 or len(convolutions) == 3 else 1
                    options = {'stride': own, 'padding': dilation, 'dilation': dilation}
                y = batch_norm(p, f'{at}/bn{n}', conv(p, f'{at}/conv{n}', y, **options))
                if n < len(convolutions):
                    y = F.relu(y)
            if f'{at}/shortcut/conv/kernel' in p:
                x = conv(p, f'{at}/shortcut/conv', x, stride=stride)
                x = batch_norm(p, f'{at}/shortcut/bn', x)
            x = F.relu(x + y)
    at = 'layers/classifier'
    x = F.relu(batch_norm(p, f'{at}/bn', conv(p, f'{at}/conv', x, padding=1)))
    return F.interpolate(conv(p, f'{at}/logits', x), images.shape[2:], mode='bilinear')


NETWORKS = {
    'airbench': airbench,
    'autoencoder': autoencoder,
    'cifar_resnet20': cifar_resnet,
    'dcgan_generator': dcgan_generator,
    'fcn_resnet18': fcn_resnet,
    'fcn_resnet50': fcn_resnet,
    'lecture_cnn': lecture_cnn,
    'lenet5': lenet5,
    'm5': m5,
    'mnist1d_cnn': mnist1d_cnn,
    'mobilenet': mobilenet,
    'nin': nin,
    'se_resnet50': se_resnet,
    'textcnn': textcnn,
    'unet': unet,
    'vgg16': vgg16,
    'vgg16_bn': vgg16,
    'wrn28_10': wide_resnet,
}


def count(p, pattern, start=0):
    """Yields start, start + 1, ... while a parameter of that name exists."""
    i = start
    while pattern.format(i) in p:
        yield i
        i += 1


def conv(p, name, x, **options):
    function = F.conv1d if x.ndim == 3 else F.conv2d
    return function(x, p[f'{name}/kernel'], p.get(f'{name}/bias'), **options)


def batch_norm(p, name, x, epsilon=1e-5):
    return F.batch_norm(
        x, p[f'{name}/mean'], p[f'{name}/var'], p.get(f'{name}/scale'), p[f'{name}/bias'],
        training=p['training'], momentum=0.1, eps=epsilon,
    )  # fmt: skip


def dense(p, name, x):
    return F.linear(x, p[f'{name}/kernel'], p.get(f'{name}/bias'))


def flatten(x):
    """Flattens each example in channels-last order."""
    return x.movedim(1, -1).flatten(1)


def same(x, window, stride):
    """Pads as XLA's 'SAME' does: if the total is odd, the extra element comes last."""
    flat = []
    for n in reversed(x.shape[2:]):
        total = max((-(-n // stride) - 1) * stride + window - n, 0)
        flat += [total // 2, total - total // 2]
    return F.pad(x, flat)


def is_transposed(name):
    return (
        'deconv' in name
        or 'upsample' in name
        or name in ('decoder/logits/kernel', 'layers/image/kernel')
    )


def to_torch(name, array):
    """Converts a kernel (*window, in, out) to (out, in, *window), or transposed (in, out, *)."""
    array = np.asarray(array)
    if name.endswith('kernel'):
        n = array.ndim
        lead = (n - 2, n - 1) if is_transposed(name) else (n - 1, n - 2)
        array = array.transpose(*lead, *range(n - 2))
    return np.ascontiguousarray(array)


def from_torch(name, array):
    """Undoes `to_torch`."""
    if name.endswith('kernel'):
        lead = (0, 1) if is_transposed(name) else (1, 0)
        array = array.transpose(*range(2, array.ndim), *lead)
    return array
