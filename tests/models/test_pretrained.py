"""Import of torchvision-layout weights, checked layer by layer against PyTorch."""

import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models, nn
from cnn_jax.models import Classifier, Counterpart, pretrained
from cnn_jax.models.googlenet import BLOCKS

torch = pytest.importorskip('torch', reason='the compare extra is not installed')

_spec = importlib.util.spec_from_file_location(
    'torchvision_layout', pathlib.Path(__file__).with_name('torchvision_layout.py')
)
layout = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(layout)


def pair(name, seed=0, num_classes=7):
    """Returns (arguments of `create`, the PyTorch model) for one narrow architecture."""
    if name.startswith('vgg'):
        stages = {'vgg11': (1, 1, 2, 2, 2), 'vgg16': (2, 2, 3, 3, 3)}[name.removesuffix('_bn')]
        width = 1 / 16
        theirs = layout.vgg(
            stages, (4, 8, 16, 32, 32), 256, num_classes, batch_norm=name.endswith('_bn')
        )
        arguments = {'input_shape': (64, 64, 3), 'width': width}
    elif name == 'alexnet':
        theirs = layout.alexnet((4, 12, 24, 16, 16), 256, num_classes)
        arguments = {'input_shape': (64, 64, 3), 'width': 1 / 16}
    elif name == 'densenet121':
        theirs = layout.DenseNet((2, 1, 2), 4, num_classes)
        arguments = {'input_shape': (32, 40, 3), 'counts': (2, 1, 2), 'growth': 4, 'stem': 'large'}
    elif name == 'googlenet':
        blocks = {n: [round(c / 8) for c in block] for n, block in BLOCKS.items()}
        theirs = layout.GoogLeNet((8, 24), blocks, num_classes, transform_input=True)
        arguments = {'input_shape': (64, 70, 3), 'width': 1 / 8, 'transform_input': True}
    elif name == 'resnext50_32x4d':
        theirs = layout.ResNet((2, 2, 2, 2), True, 4, num_classes, groups=3, group_width=2)
        arguments = {'input_shape': (64, 64, 3), 'width': 4, 'groups': 3, 'group_width': 2}
        arguments['depth'] = 26
    elif name == 'fcn_resnet50':
        theirs = layout.FCN((2, 2, 2, 2), 4, num_classes)
        arguments = {'input_shape': (64, 72, 3), 'width': 4, 'depth': 26}
    else:
        bottleneck = name == 'resnet50'
        counts = (3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)
        theirs = layout.ResNet(counts, bottleneck, 4, num_classes)
        arguments = {'input_shape': (64, 64, 3), 'width': 4}
    arguments |= {'name': name, 'num_classes': num_classes}
    return arguments, layout.randomize(theirs, seed)


def abstract(arguments):
    return nnx.eval_shape(lambda: models.create(**arguments, rngs=nnx.Rngs(0)))


def create(arguments):
    """A model with all weights zero, so that weights that are not imported are noticed."""
    graph, state = nnx.split(abstract(arguments))
    return nnx.merge(graph, jax.tree.map(zeros, state))


def zeros(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.zeros(leaf.shape, leaf.dtype)


@pytest.mark.parametrize(
    ('name', 'suffix'),
    [
        ('vgg16', '.pth'),
        ('vgg11_bn', '.safetensors'),
        ('alexnet', '.pth'),
        ('resnet18', '.pth'),
        ('resnext50_32x4d', '.safetensors'),
        ('densenet121', '.pth'),
        ('googlenet', '.pth'),
        ('fcn_resnet50', '.pth'),
    ],
)
def test_every_layer_agrees_with_torch(name, suffix, tmp_path):
    arguments, theirs = pair(name)
    path = tmp_path / f'weights{suffix}'
    if suffix == '.pth':
        torch.save(theirs.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(theirs.state_dict(), path)
    model = create(arguments)
    pretrained.load_torchvision(model, path)
    shape = (2, *arguments['input_shape'])
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    rows = pretrained.compare_layers(model, theirs, images)
    compared = {row.torch_name for row in rows}
    keys = [key for key in theirs.state_dict() if not key.startswith('aux')]
    with_weights = {key.rpartition('.')[0] for key in keys}
    assert with_weights <= compared and rows[-1].shape[-1] == 7
    for row in rows:
        assert row.scale > 1e-3, row  # outputs of zeros would agree trivially
        assert row.max_abs <= 2e-5 * row.scale, row
    layout.assert_loads(theirs, pretrained.torchvision_tensors(model))


def test_resnet50_has_torchvisions_names_and_shapes():
    arguments, theirs = pair('resnet50')
    shapes = pretrained.torchvision_shapes(abstract(arguments))
    assert shapes == {
        key: tuple(tensor.shape)
        for key, tensor in theirs.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }


def test_older_files_of_densenet_have_other_names():
    """As in torchvision's own file, where norm1 is norm.1, and so on."""
    arguments, theirs = pair('densenet121')
    shapes = pretrained.torchvision_shapes(abstract(arguments))
    assert 'features.denseblock3.denselayer2.norm1.running_var' in shapes
    tensors = {
        re.sub(r'(denselayer\d+\.\w+)([12])\.', r'\1.\2.', key): tensor.numpy()
        for key, tensor in theirs.state_dict().items()
    }
    assert 'features.denseblock3.denselayer2.norm.1.running_var' in tensors
    assert pretrained.fitting(abstract(arguments), tensors).keys() == shapes.keys()


def test_every_misfit_is_listed_and_nothing_is_changed():
    arguments, theirs = pair('vgg11')
    tensors = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    tensors['classifier.6.weight'] = np.zeros((9, 256), np.float32)
    tensors['classifier.6.bias'] = np.zeros((9,), np.float32)
    del tensors['features.0.weight']
    tensors['features.99.weight'] = np.zeros((1,), np.float32)
    model = create(arguments)
    before = model.layers.conv1_1.bias[...]
    with pytest.raises(ValueError) as error:
        pretrained.put_torchvision(model, tensors)
    lines = str(error.value).splitlines()
    assert 'do not fit the model in 4 places' in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        'features.0.weight (4, 3, 3, 3): missing from the file',
        'classifier.6.weight: the file has (9, 256), the model needs (7, 256)',
        'classifier.6.bias: the file has (9,), the model needs (7,)',
        'features.99.weight (1,): not in the model',
    ]
    np.testing.assert_array_equal(model.layers.conv1_1.bias[...], before)


def test_another_number_of_classes_can_keep_its_own_head():
    arguments, theirs = pair('vgg11')
    tensors = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    model = create(arguments | {'num_classes': 3})
    with pytest.raises(ValueError, match='2 places'):
        pretrained.put_torchvision(model, tensors)
    head = model.layers.fc8.kernel[...] = jnp.ones((256, 3))
    pretrained.put_torchvision(model, tensors, head=False)
    np.testing.assert_array_equal(model.layers.fc8.kernel[...], head)
    np.testing.assert_array_equal(model.layers.fc7.kernel[...], tensors['classifier.3.weight'].T)


def test_the_model_does_not_share_memory_with_the_tensors():
    arguments, theirs = pair('vgg11_bn')
    model = create(arguments)
    state = theirs.state_dict()
    pretrained.put_torchvision(model, {key: tensor.numpy() for key, tensor in state.items()})
    before = jax.tree.map(np.array, nnx.state(model, (nnx.Param, nnx.BatchStat)))
    for tensor in state.values():
        tensor += 1
    after = nnx.state(model, (nnx.Param, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_a_1x1_convolution_becomes_a_dense_layer():
    layers = nn.Layers(
        {
            'conv': nnx.Conv(3, 4, (1, 1), rngs=nnx.Rngs(0)),
            'se': nn.SqueezeExcitation(4, 2, rngs=nnx.Rngs(0)),
            'pool': nn.GlobalAvgPool(),
            'fc': nnx.Linear(4, 5, rngs=nnx.Rngs(0)),
        }
    )
    model = Classifier(layers, (2, 2, 3), 5, torchvision=Counterpart(same_names))
    shapes = pretrained.torchvision_shapes(model)
    assert shapes['se.fc1.weight'] == (2, 4) and shapes['conv.weight'] == (4, 3, 1, 1)
    rng = np.random.default_rng(0)
    tensors = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    tensors['se.fc1.weight'] = tensors['se.fc1.weight'][:, :, None, None]
    pretrained.put_torchvision(model, tensors)
    expected = tensors['se.fc1.weight'][:, :, 0, 0].T.astype(np.float32)
    np.testing.assert_array_equal(model.layers.se.fc1.kernel[...], expected)
    tensors['fc.weight'] = np.zeros((5, 4, 1, 3))
    with pytest.raises(ValueError, match=r'has \(5, 4, 1, 3\), the model needs \(5, 4\)'):
        pretrained.put_torchvision(model, tensors)


def same_names(layers):
    return {name: name for name in layers}


def test_models_without_a_counterpart_are_refused():
    arguments = {'name': 'lecture_cnn', 'input_shape': (8, 8, 1), 'num_classes': 2}
    model = abstract(arguments)
    with pytest.raises(ValueError, match='no counterpart in torchvision'):
        pretrained.put_torchvision(model, {})


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such weights file'):
        pretrained.read(tmp_path / 'absent.pth')
    with pytest.raises(ValueError, match=r'in \.pth, \.pt, \.pth\.tar, \.bin, \.safetensors'):
        pretrained.read(tmp_path / 'weights.h5')
    for suffix in ('.pth', '.safetensors'):
        path = tmp_path / f'damaged{suffix}'
        path.write_bytes(b'not weights at all')
        with pytest.raises(ValueError, match='cannot be read as weights'):
            pretrained.read(path)
    path = tmp_path / 'optimizer.pth'
    torch.save({'epoch': 3}, path)
    with pytest.raises(ValueError, match='does not hold a state dict'):
        pretrained.read(path)


def test_files_as_people_have_them(tmp_path):
    """Reads files as users have them.

    The variants are a name prefix of data parallelism, a checkpoint around the state dict, other
    suffixes, and no head.
    """
    torch = pytest.importorskip('torch', reason='the compare extra is not installed')
    rng = np.random.default_rng(0)
    tensors = {'features.0.weight': torch.from_numpy(rng.normal(size=(2, 3, 3, 3)))}
    prefixed = {f'module.{name}': tensor for name, tensor in tensors.items()}
    for name, content in {
        'a.pth': tensors,
        'b.pth.tar': {'epoch': 3, 'state_dict': prefixed},
        'c.bin': {'model': tensors},
        'd.pt': prefixed,
    }.items():
        torch.save(content, tmp_path / name)
        found = pretrained.read(tmp_path / name)
        assert list(found) == ['features.0.weight']
        np.testing.assert_array_equal(
            found['features.0.weight'], tensors['features.0.weight'].float()
        )
    with pytest.raises(ValueError, match='end in .pth, .pt, .pth.tar, .bin, .safetensors'):
        pretrained.read(tmp_path / 'e.ckpt')


class _Runs:
    def __reduce__(self):
        return (open, ('/tmp/cnn_jax_test_must_not_exist', 'w'))


def test_a_pickle_that_runs_code_is_refused_in_our_own_words(tmp_path):
    torch = pytest.importorskip('torch', reason='the compare extra is not installed')
    torch.save({'weight': _Runs()}, tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='bad.pth .*could run code; save the state_dict') as error:
        pretrained.read(tmp_path / 'bad.pth')
    assert 'weights_only' not in str(error.value)
