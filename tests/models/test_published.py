"""Compares parameters and multiply-adds of every model with published figures.

No arrays are allocated.
"""

import math

import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.inspection import flops

IMAGENET = {'input_shape': (224, 224, 3), 'num_classes': 1000}
CIFAR = {'input_shape': (32, 32, 3), 'num_classes': 10}
MNIST = {'input_shape': (28, 28, 1), 'num_classes': 10}
SCALED_B1 = {'input_shape': (240, 240, 3), 'num_classes': 1000, 'depth': 1.1}
SECONDS_4 = {'input_shape': (32000, 1), 'num_classes': 10}

# Model, arguments, trainable parameters, and multiply-adds as (printed figure, tolerance) or None.
# The comment above each block names the source of its figures.
EXACT = [
    # torchvision, the models' weights tables (num_params, GFLOPS)
    ('vgg11', IMAGENET, 132_863_336, (7.609e9, 0.5e6)),
    ('vgg11_bn', IMAGENET, 132_868_840, (7.609e9, 0.5e6)),
    ('vgg13', IMAGENET, 133_047_848, (11.308e9, 0.5e6)),
    ('vgg13_bn', IMAGENET, 133_053_736, (11.308e9, 0.5e6)),
    ('vgg16', IMAGENET, 138_357_544, (15.470e9, 0.5e6)),
    ('vgg16_bn', IMAGENET, 138_365_992, (15.470e9, 0.5e6)),
    ('vgg19', IMAGENET, 143_667_240, (19.632e9, 0.5e6)),
    ('vgg19_bn', IMAGENET, 143_678_248, (19.632e9, 0.5e6)),
    ('resnet18', IMAGENET, 11_689_512, (1.814e9, 0.5e6)),
    ('resnet34', IMAGENET, 21_797_672, (3.664e9, 0.5e6)),
    ('resnet50', IMAGENET, 25_557_032, (4.089e9, 0.5e6)),
    ('resnet101', IMAGENET, 44_549_160, (7.801e9, 0.5e6)),
    ('resnext50_32x4d', IMAGENET, 25_028_904, (4.230e9, 0.5e6)),
    ('alexnet', IMAGENET, 61_100_840, (0.714e9, 0.5e6)),
    ('densenet121', IMAGENET, 7_978_856, (2.834e9, 0.5e6)),
    ('googlenet', IMAGENET, 6_624_904, (1.498e9, 0.5e6)),
    # kuangliu/pytorch-cifar, as counted by its users
    ('vgg16_bn', CIFAR, 14_728_266, None),
    ('resnet18', CIFAR, 11_173_962, None),
    # He et al. 2015, table 6 (0.27 M); the exact count of option A is widely published
    ('cifar_resnet20', CIFAR, 269_722, None),
    # osmr/imgclsmob, table of CIFAR-10 models; its counts include some cheap operations
    ('nin', CIFAR, 966_986, (222.97e6, 0.003 * 223e6)),
    ('wrn28_10', CIFAR, 36_479_194, (5246.98e6, 0.001 * 5247e6)),
    # Howard et al. 2017, table 4 (569 M); Keras's summary (trainable)
    ('mobilenet', IMAGENET, 4_231_976, (569e6, 0.5e6)),
    # torchvision, the models' weights tables (num_params, GFLOPS to three places)
    ('mobilenet_v2', IMAGENET, 3_504_872, (0.301e9, 0.5e6)),
    ('mobilenet_v3_large', IMAGENET, 5_483_032, (0.217e9, 0.5e6)),
    ('mobilenet_v3_small', IMAGENET, 2_542_856, (0.057e9, 0.5e6)),
    ('efficientnet_b0', IMAGENET, 5_288_548, (0.386e9, 0.5e6)),
    ('convnext_tiny', IMAGENET, 28_589_128, (4.456e9, 0.5e6)),
    # Keras examples: "Simple MNIST convnet", "Variational AutoEncoder" (69,076 + 65,089)
    ('keras_mnist', MNIST, 34_826, None),
    ('vae', MNIST, 69_076 + 65_089, None),
    # printed in MNIST-1D's repository
    ('mnist1d_cnn', {'input_shape': (40, 1), 'num_classes': 10}, 5_210, None),
    ('mlp', {'input_shape': (40, 1), 'num_classes': 10}, 15_210, None),
    ('logistic', {'input_shape': (40, 1), 'num_classes': 10}, 410, None),
    # torchaudio's tutorial on Speech Commands
    (
        'm5',
        {
            'input_shape': (8000, 1),
            'num_classes': 35,
            'features': (32, 32, 64, 64),
            'strides': 16,
        },
        26_915,
        None,
    ),
    # PyTorch's DCGAN tutorial
    ('dcgan_generator', {'input_shape': (64, 64, 3), 'num_classes': 1}, 3_576_704, None),
    ('dcgan_discriminator', {'input_shape': (64, 64, 3), 'num_classes': 1}, 2_765_568, None),
    # LeNet in "Dive into Deep Learning" and many other sources: the common form of LeNet-5
    ('lenet5', MNIST, 61_706, None),
]

# As EXACT, from torchvision; these take long to trace.
DEEP = [
    ('resnet152', IMAGENET, 60_192_808, (11.514e9, 0.5e6)),
    ('resnext101_32x8d', IMAGENET, 88_791_336, (16.414e9, 0.5e6)),
    ('efficientnet_b0', SCALED_B1, 7_794_184, (0.687e9, 0.5e6)),
    ('convnext_small', IMAGENET, 50_223_688, (8.684e9, 0.5e6)),
    ('convnext_base', IMAGENET, 88_591_464, (15.355e9, 0.5e6)),
]

# Model, arguments, parameters in millions as printed in the paper, tolerance.
ROUNDED = [
    # Dai et al. 2016, table 1 (which truncates M5's 0.559 to one decimal)
    ('m3', SECONDS_4, 0.2, 0.05),
    ('m5', SECONDS_4, 0.5, 0.1),
    ('m11', SECONDS_4, 1.8, 0.05),
    ('m18', SECONDS_4, 3.7, 0.05),
]


def abstract(name, arguments):
    return nnx.eval_shape(lambda: models.create(name, **arguments, rngs=nnx.Rngs(0)))


def case_id(case):
    return f'{case[0]}-{"x".join(map(str, case[1]["input_shape"]))}'


@pytest.mark.parametrize(
    'case', EXACT + [pytest.param(case, marks=pytest.mark.slow) for case in DEEP], ids=case_id
)
def test_published_count(case):
    name, arguments, parameters, macs = case
    model = abstract(name, arguments)
    assert flops.parameters(model) == parameters
    if macs is not None:
        printed, tolerance = macs
        assert flops.macs(model) == pytest.approx(printed, abs=tolerance)


@pytest.mark.parametrize(('name', 'arguments', 'millions', 'tolerance'), ROUNDED)
def test_published_count_in_millions(name, arguments, millions, tolerance):
    parameters = flops.parameters(abstract(name, arguments))
    assert parameters / 1e6 == pytest.approx(millions, abs=tolerance)


def test_lenet5_of_1998_has_the_papers_parameters_and_connections():
    """Compares every layer with LeCun et al. 1998, section II.B.

    The totals are 60,000 parameters and 340,908 connections.
    """
    model = abstract('lenet5_1998', {'input_shape': (32, 32, 1), 'num_classes': 10})
    rows = {row.name: row for row in flops.summary(model)}
    trained = {name: rows[name].parameters for name in ('c1', 's2', 'c3', 's4', 'c5', 'f6')}
    assert trained == {'c1': 156, 's2': 12, 'c3': 1516, 's4': 32, 'c5': 48_120, 'f6': 10_164}
    assert sum(trained.values()) == 60_000
    # The paper's connections include biases; a subsampling unit has four inputs and a bias.
    connections = {
        'c1': rows['c1'].macs + 28 * 28 * 6,
        's2': 5 * 14 * 14 * 6,
        'c3': rows['c3'].macs + 10 * 10 * 16,
        's4': 5 * 5 * 5 * 16,
        'c5': rows['c5'].macs + 120,
        'f6': rows['f6'].macs + 84,
    }
    assert rows['s2'].output_shape == (14, 14, 6) and rows['s4'].output_shape == (5, 5, 16)
    assert connections == {
        'c1': 122_304,
        's2': 5_880,
        'c3': 151_600,
        's4': 2_000,
        'c5': 48_120,
        'f6': 10_164,
    }
    assert sum(connections.values()) + rows['logits'].macs == 340_908


def test_se_resnet50_has_the_papers_size_and_work():
    """Compares with Hu et al. 2018, section 4 and table 2: 3.86 and 3.87 GFLOPs.

    Those count squeezing and scaling, too: one addition and one multiplication per position and
    channel. The paper adds 2.5 M parameters to ResNet-50; osmr/imgclsmob states 28,088,024 in all.
    """
    model = abstract('se_resnet50', IMAGENET)
    assert flops.parameters(model) == 28_088_024 == 25_557_032 + 2_530_992
    rows = flops.summary(model)
    excitation = sum(row.macs for row in rows if '.se.' in row.name)
    scaled = sum(math.prod(row.output_shape) for row in rows if row.name.endswith('.bn3'))
    macs = sum(row.macs for row in rows)
    assert macs - excitation == pytest.approx(3.86e9, abs=5e6)
    assert macs + 2 * scaled == pytest.approx(3.87e9, abs=5e6)


def test_airbench_has_the_papers_size_and_work():
    """Compares with 1.97 M weights (Jordan 2024) and 0.36 PFLOP (the header of airbench94).

    The work is for 9.9 epochs of 48 x 1024 images.
    """
    model = abstract('airbench', CIFAR)
    fixed = flops.parameters(model.layers.whiten)  # only the bias; the kernel is not a parameter
    assert fixed == 24
    assert flops.parameters(model) + 2 * 2 * 3 * 24 == pytest.approx(1.97e6, abs=0.005e6)
    # One forward pass and two gradients, two operations per multiply-add. Evaluation with
    # augmentation is the rest.
    training = 6 * flops.macs(model) * 9.9 * 48 * 1024
    assert training / 1e15 == pytest.approx(0.36, rel=0.05)


def test_textcnn_counts_words_filters_and_classes():
    arguments = {'input_shape': (64,), 'num_classes': 6, 'vocabulary_size': 10_000}
    expected = 300 * 10_000 + 300 * 100 * (3 + 4 + 5) + 3 * 100 + 301 * 6
    assert flops.parameters(abstract('textcnn', arguments)) == expected


def test_small_cnn_is_below_100_000_parameters():
    assert flops.parameters(abstract('small_cnn', MNIST)) == 93_418
