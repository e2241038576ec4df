"""Models created by name: what they accept, refuse and return."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models, nn
from cnn_jax.errors import UserTypeError
from cnn_jax.models import Classifier, flat_features
from cnn_jax.models.airbench import identity_init, whitening_kernel
from cnn_jax.models.inverted_residual import round_channels

# Arguments of `create` for one small model from every file of classification models.
SMALL = {
    'lecture_cnn': {'input_shape': (8, 8, 1)},
    'lenet5': {'input_shape': (28, 28, 1)},
    'lenet5_1998': {'input_shape': (32, 32, 1)},
    'keras_mnist': {'input_shape': (28, 28, 1)},
    'small_cnn': {'input_shape': (28, 28, 1)},
    'vgg11': {'input_shape': (32, 32, 3), 'width': 0.1},
    'nin': {'input_shape': (32, 32, 3)},
    'alexnet': {'input_shape': (32, 32, 3), 'width': 0.1},
    'googlenet': {'input_shape': (32, 32, 3), 'width': 0.1},
    'resnet18': {'input_shape': (32, 32, 3), 'width': 8},
    'densenet121': {'input_shape': (32, 32, 3), 'counts': (1, 2), 'growth': 4},
    'cifar_resnet20': {'input_shape': (32, 32, 3), 'depth': 8},
    'wrn28_10': {'input_shape': (32, 32, 3), 'depth': 10, 'widen': 1, 'dropout': 0.1},
    'mobilenet': {'input_shape': (32, 32, 3), 'width': 0.1},
    'mobilenet_v2': {'input_shape': (32, 32, 3), 'width': 0.1},
    'mobilenet_v3_small': {'input_shape': (32, 32, 3), 'width': 0.1},
    'efficientnet_b0': {'input_shape': (32, 32, 3), 'width': 0.1},
    'convnext_tiny': {'input_shape': (32, 32, 3), 'depths': (1, 1, 2, 1), 'width': 8},
    'airbench': {'input_shape': (32, 32, 3)},
    'm5': {'input_shape': (2000, 1)},
    'mnist1d_cnn': {'input_shape': (40, 1)},
    'mlp': {'input_shape': (40, 1)},
    'logistic': {'input_shape': (28, 28, 1)},
    'textcnn': {'input_shape': (20,), 'vocabulary_size': 50},
}


def build(name, num_classes=7, **arguments):
    return models.create(name, num_classes=num_classes, rngs=nnx.Rngs(0), **arguments)


def abstract(name, **arguments):
    return nnx.eval_shape(lambda: build(name, **arguments))


def create(name, **arguments):
    """Runs `build` in one compilation.

    The optimisation level is low, because the random generators are slow to compile at full level.
    """
    graph, _ = nnx.split(abstract(name, **arguments))
    options = {'xla_backend_optimization_level': 1}
    state = jax.jit(lambda: nnx.state(build(name, **arguments)), compiler_options=options)()
    return nnx.merge(graph, state)


@nnx.jit
def run(model, x):
    """Returns the logits and the feature maps."""
    maps = {}
    return model(x, intermediates=maps), maps


def inputs(model, batch=2):
    shape = (batch, *model.input_shape)
    if model.kind == 'text':
        return jnp.arange(np.prod(shape)).reshape(shape) % 50
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize('name', SMALL)
def test_logits_are_float32_and_feature_maps_are_named(name):
    model = abstract(name, **SMALL[name], dtype=jnp.bfloat16)
    x = jax.eval_shape(lambda: inputs(model))
    logits, maps = nnx.eval_shape(run, model, x)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert len(maps) >= 2 and jnp.dtype(jnp.bfloat16) in {m.dtype for m in maps.values()}
    kinds = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))}
    assert kinds == {jnp.dtype('float32')}


def test_no_classifier_is_missing_above():
    """A model that only presets options of a model above is covered by that model."""
    build = {name: models.MODELS[name].build for name in models.names('classification')}
    written = {name: getattr(made, 'func', made) for name, made in build.items()}
    assert set(written.values()) == {written[name] for name in SMALL}


def test_a_model_from_outside_uses_any_layer_of_flax(monkeypatch):
    monkeypatch.setattr(models.MODELS, '_values', dict(models.MODELS))

    @models.register('own')
    def own(make, input_shape, num_classes, *, width: int = 4):
        layers = {
            'conv': nnx.Conv(input_shape[-1], width, (3, 3), padding='VALID', rngs=make.rngs),
            'norm': nnx.LayerNorm(width, rngs=make.rngs),
            'pool': lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)),
        }
        features = flat_features(nn.Layers(layers), input_shape, width)
        head = {'flatten': nn.Flatten(), 'logits': make.linear(features, num_classes)}
        return Classifier(nn.Layers(layers | head), input_shape, num_classes)

    model = create('own', input_shape=(8, 9, 3), num_classes=5, width=6)
    assert model(jnp.ones((2, 8, 9, 3))).shape == (2, 5)
    assert model.layers.logits.in_features == 3 * 3 * 6  # 8 x 9 -> 6 x 7 -> 3 x 3
    with pytest.raises(ValueError, match='the smallest that works is 4 x 4'):
        create('own', input_shape=(3, 3, 3), num_classes=5)
    with pytest.raises(ValueError, match='no option depth; it has width'):
        create('own', input_shape=(8, 8, 3), num_classes=5, depth=2)
    with pytest.raises(ValueError, match="unknown model 'ovn'.*did you mean 'own'"):
        create('ovn', input_shape=(8, 8, 3), num_classes=5)


def test_feature_maps_are_those_of_the_run():
    model = create('lecture_cnn', **SMALL['lecture_cnn'])
    x = inputs(model)
    logits, maps = run(model, x)
    assert set(maps) == set(model.layers.layer_names)
    np.testing.assert_allclose(maps['conv1'], model.layers.conv1(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(maps['relu1'], jnp.maximum(maps['conv1'], 0))
    np.testing.assert_array_equal(maps['logits'], logits)


# Side length of the smallest input, derived by hand from the layers.
SMALLEST = {
    'lecture_cnn': 4,  # two pools of 2
    'lenet5': 12,  # n, n/2, n/2 - 4, (n/2 - 4)/2 >= 1 (padded by 2 below 32)
    'keras_mnist': 10,  # n - 2, /2, - 2, /2 >= 1
    'vgg11': 32,  # five pools of 2
    'alexnet': 15,  # three pools of 3 with stride 2
    'airbench': 25,  # n - 1, three pools of 2, one of 3
    'm5': 1021,  # ceil(n / 4) >= 4^4
    'mnist1d_cnn': 3,  # n + 2 >= 5
}


@pytest.mark.parametrize('name', SMALLEST)
def test_an_input_that_is_too_small_is_refused_with_the_smallest_size(name):
    arguments = dict(SMALL[name])
    shape, n = arguments.pop('input_shape'), SMALLEST[name]
    axes = len(shape) - 1
    message = (
        rf'model {name}: .*too small.*the smallest that works is {" x ".join([str(n)] * axes)}'
    )
    with pytest.raises(ValueError, match=message):
        abstract(name, input_shape=(*(n - 1,) * axes, shape[-1]), **arguments)
    abstract(name, input_shape=(*(n,) * axes, shape[-1]), **arguments)


def test_text_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match='3 words is too short .* the shortest that works is 5'):
        build('textcnn', input_shape=(3,), vocabulary_size=9)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'name': 'vgg17'}, "unknown model 'vgg17'; must be one of .*vgg16"),
        ({'name': 'm5'}, 'm5 is for audio data of shape .*time, channels.*got .*8, 8, 1'),
        ({'name': 'lecture_cnn', 'kind': 'audio'}, 'is for image data, not for audio'),
        ({'name': 'mlp', 'kind': 'text'}, 'is for image or audio data, not for text'),
        ({'name': 'mlp', 'input_shape': (8, 8, 8, 1)}, 'mlp is for image or audio data of shape'),
        ({'name': 'lecture_cnn', 'input_shape': (8, 0, 1)}, 'must be positive'),
        ({'name': 'lecture_cnn', 'depth': 3}, 'has no option depth; it has features'),
        ({'name': 'lecture_cnn', 'num_classes': 0}, 'num_classes=0 must be at least 1'),
        ({'name': 'lecture_cnn', 'dtype': jnp.int32}, 'must be floating point'),
        ({'name': 'vgg16', 'head': 'flat'}, "head='flat' must be 'dense' or 'pooled'"),
        ({'name': 'cifar_resnet20', 'depth': 21}, r'depth=21 must be 6 n \+ 2'),
        ({'name': 'resnet18', 'groups': 2}, 'depth=18 has no bottlenecks, so groups'),
        ({'name': 'resnet50', 'stride_window': 2}, 'stride_window=2 must be 1 or 3'),
        ({'name': 'alexnet', 'stem': 'tiny'}, "stem='tiny' must be 'large' or 'small'"),
        ({'name': 'densenet121', 'counts': (2, 0)}, r'counts=\(2, 0\) and growth=32 must be'),
        ({'name': 'googlenet', 'transform_input': True}, 'transform_input=True needs 3 channels'),
        ({'name': 'mobilenet_v2', 'width': 0.0}, 'mobilenet_v2: width=0.0 must be positive'),
        ({'name': 'mobilenet_v3_small', 'size': 'tiny'}, "size='tiny' must be 'large' or 'small'"),
        ({'name': 'efficientnet_b0', 'depth': -1.0}, 'depth=-1.0 must be positive'),
        ({'name': 'convnext_tiny', 'stem': 'huge'}, "stem='huge' must be 'large' or 'small'"),
        ({'name': 'convnext_tiny', 'depths': (3, 0)}, r'depths=\(3, 0\) must be one or more'),
        ({'name': 'convnext_tiny', 'width': 0}, 'width=0 must be at least 1'),
        ({'name': 'vae', 'input_shape': (30, 30, 1)}, 'must be multiples of 4'),
        ({'name': 'dcgan_generator', 'input_shape': (9, 9, 1)}, 'must be even and at least 8'),
        ({'name': 'textcnn', 'input_shape': (9,)}, 'vocabulary_size=None must be given'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**({'input_shape': (8, 8, 1)} | arguments))


def test_bad_inputs_are_refused():
    model = abstract('logistic', input_shape=(8, 8, 1))
    with pytest.raises(
        ValueError, match=r'takes inputs of shape \(N, 8, 8, 1\), got \(2, 9, 8, 1\)'
    ):
        model(jnp.zeros((2, 9, 8, 1)))
    with pytest.raises(TypeError, match='takes normalised floats, got dtype uint8'):
        model(jnp.zeros((2, 8, 8, 1), jnp.uint8))


def test_options_override_and_are_listed():
    assert models.options('vgg16')['depth'] == 16
    model = abstract('lecture_cnn', input_shape=(8, 8, 1), features=[4], hidden=[])
    assert list(model.layers.layer_names) == ['conv1', 'relu1', 'pool1', 'flatten', 'logits']
    assert model.layers.logits.kernel.shape == (4 * 4 * 4, 7)


def test_dropout_and_batch_norm_follow_train_and_eval():
    model = create('small_cnn', input_shape=(8, 8, 1), stages=((4,), (4,)))
    x = inputs(model)
    model.eval()
    np.testing.assert_array_equal(run(model, x)[0], run(model, x)[0])
    before = model.layers.bn1_1.mean[...]
    model.train()
    assert not np.array_equal(run(model, x)[0], run(model, x)[0])  # different dropout masks
    assert not np.array_equal(model.layers.bn1_1.mean[...], before)


@pytest.mark.parametrize(
    ('name', 'rate', 'blocks', 'last'),
    [
        # linear in the number of blocks before, of 16; seven of them have no shortcut
        ('efficientnet_b0', 0.2, (2, 4, 6, 7, 9, 10, 12, 13, 14), 16),
        ('convnext_tiny', 0.1, range(1, 18), 17),
    ],
)
def test_stochastic_depth_rises_linearly(name, rate, blocks, last):
    model = abstract(name, input_shape=(32, 32, 3))
    drops = [m for _, m in nnx.iter_graph(model) if isinstance(m, nn.StochasticDepth)]
    rates = sorted(drop.rate for drop in drops)
    np.testing.assert_allclose(rates, [rate * block / last for block in blocks], rtol=1e-12)


@pytest.mark.parametrize(
    ('channels', 'rounded'),
    [(3, 8), (12, 16), (11, 16), (17, 16), (18, 24), (1280, 1280)],
)
def test_channels_are_rounded_to_multiples_of_8(channels, rounded):
    assert round_channels(channels) == rounded


def test_the_implementation_reaches_convolutions_and_the_pools_that_have_it():
    both = ('scan', 'reduce_window')
    model = abstract('lecture_cnn', input_shape=(8, 8, 1), implementation=both)
    assert model.layers.conv1.implementation == ('scan',)
    assert model.layers.pool1.implementation == ('reduce_window',)
    model = abstract('lecture_cnn', input_shape=(8, 8, 1), implementation='scan')
    assert model.layers.pool1.implementation is None
    with pytest.raises(ValueError, match="unknown implementation 'no_such'; must be one of .*scan"):
        build('lecture_cnn', input_shape=(8, 8, 1), implementation='no_such')


def test_padding_tokens_do_not_count():
    model = create('textcnn', **SMALL['textcnn'], filters=4, embedding=8)
    model.eval()
    maps = run(model, jnp.asarray([[3, 4, 5] + [0] * 17]))[1]
    assert (maps['embed'][0, 3:] == 0).all() and (maps['embed'][0, :3] != 0).any()
    assert maps['conv4'].shape == (1, 17, 4)
    # beyond the words the output of a filter is its bias, which is zero at first
    assert (maps['conv3'][0, 3:] == 0).all()


def test_vae_bound_is_exact_where_the_code_is_ignored():
    """With all weights zero, codes are standard normal and pixels have probability 1/2."""
    model = create('vae', input_shape=(8, 8, 1), features=(2,), hidden=2)
    nnx.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    x = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)

    @nnx.jit
    def evaluate(model):
        return *model.negative_elbo(x, jax.random.key(1)), model(x), model.encode(x)

    reconstruction, divergence, again, codes = evaluate(model)
    assert again.shape == x.shape and codes.shape == (3, 2)
    np.testing.assert_allclose(reconstruction, 64 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(divergence, 0, atol=1e-6)
    # a code of mean 1 and variance e has divergence (e + 1 - 1 - 1) / 2 nats per component
    model.encoder.code.bias[...] = jnp.ones(4)
    np.testing.assert_allclose(evaluate(model)[1], np.e - 1, rtol=1e-5)


def test_generator_and_discriminator_fit_each_other():
    shape = {'input_shape': (28, 28, 1), 'num_classes': 1, 'width': 2}
    generator = abstract('dcgan_generator', **shape, latent=5)
    noise = jax.ShapeDtypeStruct((2, 5), jnp.float32)
    images, maps = nnx.eval_shape(run, generator, noise)
    assert (images.shape, images.dtype) == ((2, 28, 28, 1), jnp.float32)
    assert maps['deconv0'].shape == (2, 7, 7, 4) and generator.kind == 'image'
    discriminator = abstract('dcgan_discriminator', **shape)
    assert nnx.eval_shape(run, discriminator, images)[0].shape == (2, 1)
    assert models.names('generator') == ('dcgan_generator',)


def test_whitened_patches_are_uncorrelated():
    rng = np.random.default_rng(0)
    mix = np.array([[1, 0.5, 0], [0, 1, 0.3], [0.2, 0, 1]])
    images = (rng.standard_normal((20, 16, 16, 3)) @ mix).astype(np.float32)
    kernel = whitening_kernel(jnp.asarray(images), epsilon=0.0)
    assert kernel.shape == (2, 2, 3, 24)
    # an independent convolution: every 2 x 2 window is a row
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    white = rows @ np.asarray(kernel)[..., :12].reshape(12, 12)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(12), atol=2e-4)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])


def test_identity_kernels_copy_their_input():
    kernel = np.asarray(identity_init(jax.random.key(0), (3, 3, 32, 48)))
    copies = np.zeros((3, 3, 32, 32))
    copies[1, 1] = np.eye(32)
    np.testing.assert_array_equal(kernel[..., :32], copies)
    bound = (3 * 3 * 32) ** -0.5  # PyTorch's default bound for convolutions
    assert 0.99 * bound < np.abs(kernel[..., 32:]).max() <= bound


@pytest.mark.parametrize(
    ('model', 'option', 'value', 'wanted'),
    [
        ('lecture_cnn', 'window', 'abc', 'int'),
        ('lecture_cnn', 'hidden', 3, 'tuple'),
        ('vgg11', 'batch_norm', 1, 'bool'),
        ('vgg11', 'dropout', True, 'float'),
    ],
)
def test_an_option_of_another_type_is_named(model, option, value, wanted):
    with pytest.raises(UserTypeError, match=f'{option}={value!r} must be of type {wanted}'):
        models.create(
            model, input_shape=(32, 32, 3), num_classes=2, rngs=nnx.Rngs(0), **{option: value}
        )
