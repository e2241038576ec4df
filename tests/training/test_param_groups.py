"""Tests freezing, factors of the learning rate and layer-wise decay against PyTorch's groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import models
from cnn_jax.training import FunctionalModel, TrainConfig, make_job
from cnn_jax.training.optimizer import make_optimizer
from cnn_jax.training.param_groups import layer_indices, rate_factors
from tests.training import tiny

SHAPES = {'a/kernel': (3, 2), 'a/bias': (2,), 'b/kernel': (2, 4), 'c/kernel': (5, 1)}
FACTORS = {'a/kernel': 0.0, 'a/bias': 3.0, 'b/kernel': 0.5}


def net_of(name, shape=(32, 32, 3), kind='image', **options):
    def make(rngs):
        return models.create(
            name,
            input_shape=shape,
            num_classes=10,
            rngs=rngs,
            dtype=jnp.float32,
            implementation=None,
            kind=kind,
            **options,
        )

    dtype = jnp.int32 if kind == 'text' else jnp.float32
    return FunctionalModel(make), jax.ShapeDtypeStruct((1, *shape), dtype)


def torch_updates(torch, name, params, gradients):
    """Trains with one parameter group per parameter; returns the values after the last step."""
    leaves = {
        n: torch.nn.Parameter(torch.tensor(p, dtype=torch.float64)) for n, p in params.items()
    }
    groups = [
        {
            'params': [leaf],
            'lr': 0.1 * FACTORS.get(n, 1.0),
            'weight_decay': 0.2 if n.endswith('kernel') else 0.0,
        }
        for n, leaf in leaves.items()
        if FACTORS.get(n) != 0
    ]
    optimizer = {
        'sgd': lambda: torch.optim.SGD(groups, momentum=0.9, nesterov=True),
        'adam': lambda: torch.optim.Adam(groups),
        'adamw': lambda: torch.optim.AdamW(groups),
    }[name]()
    for gradient in gradients:
        for group in groups:
            (leaf,) = group['params']
            (own,) = (n for n, other in leaves.items() if other is leaf)
            leaf.grad = torch.tensor(gradient[own], dtype=torch.float64)
        torch.nn.utils.clip_grad_norm_([g['params'][0] for g in groups], 1.5)
        optimizer.step()
    return {n: leaf.detach().numpy() for n, leaf in leaves.items()}


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw'])
def test_rates_and_freezing_are_those_of_pytorch(name):
    torch = pytest.importorskip('torch')
    chance = np.random.default_rng(0)
    draw = lambda: {n: chance.normal(size=s).astype('f4') for n, s in SHAPES.items()}  # noqa: E731
    params, gradients = draw(), [draw() for _ in range(4)]
    config = TrainConfig(optimizer=name, weight_decay=0.2, clip_norm=1.5)
    optimizer = make_optimizer(config, lambda _: 0.1, FACTORS)
    wanted = torch_updates(torch, name, params, gradients)
    found = jax.tree.map(jnp.asarray, params)
    state = optimizer.init(found)
    for gradient in gradients:
        updates, state = jax.jit(optimizer.update)(gradient, state, found)
        found = optax.apply_updates(found, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, wanted)
    np.testing.assert_array_equal(found['a/kernel'], params['a/kernel'])
    held = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert SHAPES['a/kernel'] not in held and SHAPES['b/kernel'] in held


@pytest.mark.parametrize('name', ['muon', 'lars'])
def test_a_factor_multiplies_the_whole_update(name):
    params = {n: jnp.ones(s) for n, s in SHAPES.items()}
    config = TrainConfig(optimizer=name, weight_decay=0.2)

    def first_update(factors):
        optimizer = make_optimizer(config, lambda _: 0.1, factors)
        return optimizer.update(params, optimizer.init(params), params)[0]

    plain, scaled = first_update({}), first_update(FACTORS)
    for n, update in plain.items():
        np.testing.assert_allclose(scaled[n], FACTORS.get(n, 1.0) * update, rtol=1e-6)


def test_the_maximum_norm_holds_after_a_factor():
    params = {'a/kernel': jnp.full((4, 2), 0.5)}
    config = TrainConfig(optimizer='sgd', momentum=0.0, weight_decay=0.0, max_norm=2.0)
    optimizer = make_optimizer(config, lambda _: 1.0, {'a/kernel': 7.0})
    update, _ = optimizer.update({'a/kernel': -jnp.ones((4, 2))}, optimizer.init(params), params)
    norms = jnp.linalg.norm(params['a/kernel'] + update['a/kernel'], axis=0)
    np.testing.assert_allclose(norms, 2.0, rtol=1e-6)


def test_frozen_parameters_have_no_gradient_and_the_others_theirs():
    frozen = {'conv/kernel': 0.0, 'conv/bias': 0.0}
    config = TrainConfig(optimizer='sgd', weight_decay=0.1)
    model = lambda rngs: tiny.Tiny(rngs, norm=True)  # noqa: E731
    optimizers = [make_optimizer(config, lambda _: 0.1, factors) for factors in (frozen, None)]
    start = FunctionalModel(model).init(0)
    (half, metrics), (whole, plain) = (
        tiny.run(1, model=model, optimizer=optimizer, frozen=names)
        for optimizer, names in zip(optimizers, (frozen, ()), strict=True)
    )
    names = sorted(start[0])
    for index, name in enumerate(names):
        if name in frozen:
            np.testing.assert_array_equal(half.params[name], start[0][name])
            assert metrics['leaf_norms'][0, index] == 0 < plain['leaf_norms'][0, index]
        else:
            np.testing.assert_allclose(half.params[name], whole.params[name], rtol=1e-5)
    # As in PyTorch and Flax, freezing parameters leaves the statistics of batch norm in training.
    np.testing.assert_allclose(half.model_state['norm/mean'], whole.model_state['norm/mean'])
    assert np.any(half.model_state['norm/mean'] != start[1]['norm/mean'])


def test_layers_in_the_order_of_application():
    layers = layer_indices(*net_of('resnet18'))
    assert layers['layers/conv1/kernel'] == layers['layers/bn1/scale'] == 0
    blocks = [layers[f'layers/layer{s}/block{i}/bn2/bias'] for s in (1, 2, 3, 4) for i in (0, 1)]
    assert blocks == list(range(1, 9)) and layers['layers/layer2/block0/shortcut/conv/kernel'] == 3
    assert layers['layers/fc/kernel'] == layers['layers/fc/bias'] == 9
    layers = layer_indices(*net_of('small_cnn', (8, 8, 1)))
    kernels = [name for name in layers if name.endswith('kernel')]
    assert sorted(layers[name] for name in kernels) == list(range(len(kernels)))


def test_layer_decay_is_a_power_of_the_distance_to_the_last_layer():
    net, inputs = net_of('lecture_cnn', (8, 8, 1))
    config = TrainConfig(layer_decay=0.5, rate_factors='*/bias=4,layers/logits/bias=0.5')
    found = rate_factors(config, net, inputs)
    wanted = {'conv1': 0.125, 'conv2': 0.25, 'dense1': 0.5, 'logits': 1.0}
    for layer, factor in wanted.items():
        assert found.get(f'layers/{layer}/kernel', 1.0) == factor
    assert found['layers/conv1/bias'] == 0.5 and found['layers/logits/bias'] == 2.0
    assert 'layers/logits/kernel' not in found
    assert rate_factors(TrainConfig(), net, inputs) == {}


def test_the_flags_reach_the_run():
    config = TrainConfig(model_options='features=(4,),hidden=()', freeze='layers/conv*', steps=1)
    job = make_job(config)
    names = set(job.init().params)
    assert {n for n, factor in job.factors.items() if factor == 0} == {
        n for n in names if n.startswith('layers/conv')
    }
    state = job.init()
    before = jax.tree.map(np.asarray, state.params)
    batch = {
        'inputs': job.dataset.splits['train'].inputs[:64],
        'labels': job.dataset.splits['train'].labels[:64],
    }
    after = jax.jit(job.step())(state, batch)[0].params
    moved = {n for n in names if np.any(before[n] != after[n])}
    assert moved == {n for n in names if not n.startswith('layers/conv')}


@pytest.mark.parametrize(
    'values, said',
    [
        (
            {'freeze': 'layers/cnv1/*'},
            r"freeze='layers/cnv1/\*': matches no parameter; the nearest are layers/conv1/",
        ),
        ({'rate_factors': 'conv=2'}, "rate_factors='conv': matches no parameter"),
        ({'freeze': '*'}, 'no parameter is left to train'),
    ],
    ids=str,
)
def test_patterns_without_sense_are_said(values, said):
    with pytest.raises(ValueError, match=said):
        rate_factors(TrainConfig(**values), *net_of('lecture_cnn', (8, 8, 1)))


@pytest.mark.parametrize('text', ['conv', 'conv=', '=2', 'conv=-1', 'conv=inf', 'conv=nan'])
def test_factors_that_are_none_are_said(text):
    with pytest.raises(ValueError, match='rate_factors='):
        TrainConfig(rate_factors=text)
