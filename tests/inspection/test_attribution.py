"""Inspection: tables against published counts, gradients against finite differences, patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.image import imread

from cnn_jax import models, nn
from cnn_jax.inspection import attribution, layer_table, pictures
from cnn_jax.models.base import Classifier
from cnn_jax.ops.geometry import ReceptiveField


def abstract(name, shape, classes, **options):
    return nnx.eval_shape(
        lambda: models.create(
            name, input_shape=shape, num_classes=classes, rngs=nnx.Rngs(0), **options
        )
    )


def test_vgg16_has_the_published_counts_and_receptive_fields():
    # Counts: torchvision. Receptive field: Araujo, Norris & Sim 2019, table 1.
    table = layer_table.rows(abstract('vgg16', (224, 224, 3), 1000), (224, 224, 3))
    assert sum(row.layer.parameters for row in table) == 138_357_544
    assert sum(row.layer.macs for row in table) == 15_470_264_320
    fields = {row.layer.name: row.field for row in table}
    assert fields['pool5'].size == 212 and fields['pool5'].stride == 32
    assert fields['fc6'] is None
    first = table[0]
    assert first.padding == ((1, 1), (1, 1)) and first.kernel
    numbers = 224 * 224 * (3 + 64) + first.layer.parameters
    assert first.bytes == 4 * numbers
    assert first.intensity == pytest.approx(2 * 86_704_128 / (4 * numbers))
    text = layer_table.text(table)
    assert '138,357,544' in text and '15,470,264,320' in text
    assert layer_table.as_dicts(table)[0]['receptive_field'] == 3


def test_receptive_field_of_a_residual_network_is_that_of_the_longer_branch():
    shape = (32, 32, 3)
    fields = layer_table.receptive_fields(abstract('cifar_resnet20', shape, 10), shape)
    # One 3x3 convolution, then 6 each at stride 1, 2 and 4; the input of the first of the 6 still
    # has the previous stride:
    # 1 + 2 * (1 + 6 * 1 + 1 + 5 * 2 + 2 + 5 * 4)
    assert max(f.size for f in fields.values()) == 81


def test_receptive_field_of_alexnet_is_as_published():
    # Araujo, Norris & Sim 2019, table 1: alexnet_v2, whose padding differs
    shape = (224, 224, 3)
    fields = layer_table.receptive_fields(abstract('alexnet', shape, 10), shape)
    assert (fields['pool5'].size, fields['pool5'].stride) == (195, 32)


def test_receptive_field_of_parallel_branches_is_that_of_the_largest_windows():
    def largest(name, **options):
        shape = (32, 32, 3)
        fields = layer_table.receptive_fields(abstract(name, shape, 10, **options), shape)
        return max(field.size for field in fields.values())

    # 3 x 3 convolutions: the stem and two blocks at stride 1, five at 2, two at 4; two pools
    assert largest('googlenet', width=0.1) == 1 + 3 * 2 + 2 + 5 * 4 + 2 + 2 * 8
    # the stem and two layers at stride 1, a pool of 2, a layer at stride 2
    assert largest('densenet121', counts=(2, 1), growth=2) == 1 + 3 * 2 + 1 + 4


@pytest.fixture(scope='module')
def model():
    rngs = nnx.Rngs(0)
    layers = {
        'conv1': nn.Conv(1, 3, (3, 3), rngs=rngs),
        'tanh': jnp.tanh,
        'conv2': nn.Conv(3, 4, (3, 3), strides=2, rngs=rngs),
        'flatten': nn.Flatten(),
        'logits': nnx.Linear(64, 5, rngs=rngs),
    }
    return Classifier(nn.Layers(layers), (8, 8, 1), 5)


IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)


def test_the_two_parts_of_a_split_are_the_model(model):
    front, back = attribution.split(model, 'conv1')
    np.testing.assert_allclose(back(front(IMAGES)), model(IMAGES), rtol=1e-6)
    with pytest.raises(ValueError, match="unknown layer 'nope'; must be one of conv1, tanh"):
        attribution.split(model, 'nope')
    assert attribution.spatial_layers(model, IMAGES) == ('conv1', 'tanh', 'conv2')


def test_saliency_is_the_slope_of_the_logit(model):
    classes = np.array([0, 3, 4])
    found = attribution.saliency(model, IMAGES, classes)
    assert found.shape == (3, 8, 8)
    for n, row, column in ((0, 0, 0), (1, 4, 5), (2, 7, 7)):
        step = np.zeros_like(IMAGES)
        step[n, row, column] = 1e-2
        slope = (model(IMAGES + step) - model(IMAGES - step))[n, classes[n]] / 2e-2
        np.testing.assert_allclose(found[n, row, column], abs(slope), rtol=2e-2, atol=1e-4)


def test_grad_cam_by_its_definition(model):
    classes = np.array([1, 2, 0])
    found = attribution.grad_cam(model, IMAGES, classes, 'conv2')
    front, back = attribution.split(model, 'conv2')
    maps = np.asarray(front(IMAGES))
    jacobian = np.asarray(jax.vmap(jax.jacrev(lambda m: back(m[None])[0]))(maps))
    for n, label in enumerate(classes):
        weights = jacobian[n, label].mean((0, 1))
        np.testing.assert_allclose(
            found[n], np.maximum((maps[n] * weights).sum(-1), 0), rtol=1e-4, atol=1e-6
        )
    with pytest.raises(ValueError, match="layer 'flatten' has no spatial axes"):
        attribution.grad_cam(model, IMAGES, classes, 'flatten')


def test_effective_field_lies_in_the_theoretical_one(model):
    field = layer_table.receptive_fields(model, (8, 8, 1))['conv2']
    assert (field.size, field.stride) == (5, 2)
    found = attribution.effective_field(model, IMAGES, 'conv2')
    start = field.start + field.stride * 2  # the middle of 4 x 4 outputs
    inside = np.zeros((8, 8), bool)
    inside[start : start + 5, start : start + 5] = True
    assert found.max() == 1 and (found[~inside] == 0).all() and (found[inside] > 0).all()


def test_best_patches_are_cut_to_the_image():
    maps = np.zeros((3, 4, 4, 2), np.float32)
    maps[2, 0, 0, 1], maps[0, 3, 2, 1], maps[1, 1, 1, 1] = 3, 2, 1
    found = attribution.best_patches(maps, ReceptiveField(5, 2, -2), (8, 8), channels=[1], count=2)
    first, second = found[1]
    assert (first.example, first.position, first.low, first.high) == (2, (0, 0), (0, 0), (3, 3))
    assert (second.example, second.value, second.low, second.high) == (0, 2, (4, 2), (8, 7))


def test_mistakes_are_the_surest_first():
    logits = np.array([[9.0, 0], [0, 1], [3, 0], [0, 5]])
    found = attribution.mistakes(logits, [1, 1, 1, 1], 5)
    assert [(n, c) for n, c, _ in found] == [(0, 0), (2, 0)]
    assert found[0][2] == pytest.approx(1 / (1 + np.exp(-9.0)))


def test_pictures(model, tmp_path):
    saliency = attribution.saliency(model, IMAGES, [0, 1, 2])
    cams = {'conv2': attribution.grad_cam(model, IMAGES, [0, 1, 2], 'conv2')}
    figure = pictures.attention(IMAGES, saliency, cams, list('abc'), tmp_path / 'a.png')
    np.testing.assert_array_equal(figure.axes[4].images[0].get_array(), saliency[1])
    fields = layer_table.receptive_fields(model, (8, 8, 1))
    effective = {n: attribution.effective_field(model, IMAGES, n) for n in fields}
    middle = {'conv1': (4, 4), 'conv2': (2, 2)}
    figure = pictures.receptive_fields(IMAGES[0], fields, effective, middle, tmp_path / 'r.png')
    frame = figure.axes[1].patches[0]
    assert (frame.get_width(), frame.get_x()) == (5, fields['conv2'].start + 4 - 0.5)
    maps = np.asarray(attribution.split(model, 'conv2')[0](IMAGES))
    best = attribution.best_patches(maps, fields['conv2'], (8, 8), channels=[0, 1], count=3)
    pictures.patches(IMAGES, best, tmp_path / 'p.png')
    pictures.examples(list(IMAGES), ['x', 'y', 'z'], tmp_path / 'e.png')
    for name in 'arpe':
        assert imread(tmp_path / f'{name}.png').std() > 0.01


@pytest.mark.skipif(not hasattr(nnx, 'SpectralNorm'), reason='new in flax 0.12')
def test_a_model_with_spectral_norm_can_be_differentiated():
    rngs = nnx.Rngs(0)
    layers = {
        'conv': nnx.SpectralNorm(nn.Conv(1, 4, (3, 3), rngs=rngs), rngs=rngs),
        'pool': nn.GlobalAvgPool(),
        'logits': nnx.Linear(4, 2, rngs=rngs),
    }
    model = Classifier(nn.Layers(layers), (6, 6, 1), 2)
    model.eval()
    x = jax.random.normal(jax.random.key(0), (3, 6, 6, 1))
    expected = nnx.clone(model)(x)
    attribution.unwrap(model, x[:1])
    np.testing.assert_allclose(model(x), expected, rtol=1e-6)
    assert attribution.saliency(model, x, np.array([0, 1, 0])).max() > 0
