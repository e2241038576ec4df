"""Tests that convolutions in a jaxpr, including derived ones, are read as the right maps."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnn_jax.ops import kernels
from cnn_jax.ops.lowering import equations
from cnn_jax.ops.lowering.rules import _group_by_group
from cnn_jax.ops.spec import MAPS
from tests.ops.tolerance import assert_close

LAYOUTS = {
    1: [('NWC', 'WIO', 'NWC'), ('NCW', 'OIW', 'NCW'), ('NCW', 'WIO', 'NCW')],
    2: [('NHWC', 'HWIO', 'NHWC'), ('NCHW', 'OIHW', 'NCHW'), ('NCHW', 'HWIO', 'NCHW')],
    3: [('NDHWC', 'DHWIO', 'NDHWC'), ('NCDHW', 'OIDHW', 'NCDHW'), ('NCDHW', 'DHWIO', 'NCDHW')],
}


def draw(seed, holes=False):
    """Returns a random convolution: its function, its operand shapes, and the expected plan."""
    r = random.Random(seed)
    n = r.choice([1, 1, 2, 2, 2, 3])
    some = lambda low, high: tuple(r.randint(low, high) for _ in range(n))  # noqa: E731
    groups, batch = r.choice([1, 1, 1, 2, 3]), r.randint(1, 3)
    into, out = groups * r.randint(1, 3), groups * r.randint(1, 3)
    size, window, strides, dilation = some(1, 9), some(1, 4), some(1, 3), some(1, 2)
    spread = some(1, 2) if holes else (1,) * n
    padding = tuple((r.randint(-1, 3), r.randint(-1, 3)) for _ in range(n))
    for m, e, (lo, hi), k, d in zip(size, spread, padding, window, dilation, strict=True):
        m = (m - 1) * e + 1
        if m + lo + hi < (k - 1) * d + 1 or m + min(lo, 0) + min(hi, 0) < 1:
            return draw(seed + 1_000_003, holes)
    layout = r.choice(LAYOUTS[n])
    space = 'DHW'[3 - n :]
    sizes = {'N': batch, 'C': into, 'I': into // groups, 'O': out}
    x = tuple(sizes[a] if a in sizes else size[space.index(a)] for a in layout[0])
    w = tuple(sizes[a] if a in sizes else window[space.index(a)] for a in layout[1])
    run = functools.partial(
        lax.conv_general_dilated, window_strides=strides, padding=padding, lhs_dilation=spread,
        rhs_dilation=dilation, dimension_numbers=layout, feature_group_count=groups,
    )  # fmt: skip
    wanted = {
        'batch': batch, 'in_features': into, 'window': window, 'out_features': out,
        'strides': strides, 'dilation': dilation, 'groups': groups,
    }  # fmt: skip
    return run, x, w, wanted


def found_in(f, *shapes):
    """Returns the convolutions in f's jaxpr, each with its plan."""
    jaxpr = jax.make_jaxpr(f)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    return [
        (eqn, equations.read(*(v.aval for v in eqn.invars), eqn.params))
        for eqn in jaxpr.eqns
        if eqn.primitive is lax.conv_general_dilated_p
    ]


def gradients(run, x, w):
    y = jax.eval_shape(run, *(jax.ShapeDtypeStruct(s, jnp.float32) for s in (x, w))).shape
    return lambda x, w, y: (run(x, w), jax.vjp(run, x, w)[1](y)), y


@pytest.mark.parametrize('block', range(10))
def test_gradients_are_recognised_as_what_they_are_of(block):
    for seed in range(200 * block, 200 * (block + 1)):
        run, x, w, wanted = draw(seed)
        both, y = gradients(run, x, w)
        plans = [plan for _, plan in found_in(both, x, w, y)]
        assert sorted({plan.op for plan in plans}) == sorted(MAPS), (seed, plans)
        for plan in plans:
            for name, value in wanted.items():
                assert getattr(plan.spec, name) == value, (seed, plan, name)


def assert_computes(eqn, plan, kernel, what):
    a, b = (
        jnp.asarray(np.random.default_rng(i).standard_normal(v.aval.shape), jnp.float32)
        for i, v in enumerate(eqn.invars)
    )
    function = kernels.function(kernel, plan.op)
    if kernels.reason_against(kernel, plan.op, plan.spec, 'cpu'):
        function = functools.partial(_group_by_group, function)
    found = jax.jit(lambda a, b: plan.back(function(*plan.into(a, b), plan.spec)))(a, b)
    wanted = eqn.primitive.bind(a, b, **eqn.params)
    assert_close(found, np.asarray(wanted), max(a.size, b.size), message=f'{what} {plan}')


@pytest.mark.parametrize('holes', [False, True])
def test_every_reading_is_exact(holes):
    for seed in range(25):
        run, x, w, _ = draw(10_000 + seed, holes)
        both, y = gradients(run, x, w)
        for eqn, plan in found_in(both, x, w, y):
            assert_computes(eqn, plan, 'scan', seed)


TRANSFORMED = {
    'vmap of the gradients, over both': lambda run, x, w, y: (
        jax.vmap(lambda x, w, y: jax.vjp(run, x, w)[1](y)),
        [(2, *s) for s in (x, w, y)],
    ),
    'vmap of the gradients, over x and y': lambda run, x, w, y: (
        jax.vmap(lambda x, w, y: jax.vjp(run, x, w)[1](y), (0, None, 0)),
        [(2, *x), w, (2, *y)],
    ),
    'vmap of the gradients, over w': lambda run, x, w, y: (
        jax.vmap(lambda x, w, y: jax.vjp(run, x, w)[1](y), (None, 0, None)),
        [x, (2, *w), y],
    ),
    'second order': lambda run, x, w, y: (
        lambda x, w, y: jax.grad(
            lambda x, w, y: sum((g**3).sum() for g in jax.vjp(run, x, w)[1](y)), (0, 1, 2)
        )(x, w, y),
        [x, w, y],
    ),
}


@pytest.mark.parametrize('transformed', TRANSFORMED)
def test_what_transforms_make_is_recognised_too(transformed):
    for seed in range(12):
        run, x, w, wanted = draw(20_000 + seed)
        _, y = gradients(run, x, w)
        f, shapes = TRANSFORMED[transformed](run, x, w, y)
        found = found_in(f, *shapes)
        assert found
        for eqn, plan in found:
            assert plan is not None, (seed, eqn)
            if transformed == 'second order':
                assert (plan.spec.window, plan.spec.strides) == (
                    wanted['window'],
                    wanted['strides'],
                )
            assert_computes(eqn, plan, 'scan', (transformed, seed))


def test_batch_groups_are_groups():
    run = functools.partial(
        lax.conv_general_dilated, window_strides=(1, 1), padding='SAME', batch_group_count=3
    )
    both, y = gradients(run, (6, 2, 4, 4), (9, 2, 3, 3))
    for eqn, plan in found_in(both, (6, 2, 4, 4), (9, 2, 3, 3), y):
        assert plan.spec.groups == 3
        assert_computes(eqn, plan, 'scan', 'batch groups')


@pytest.mark.parametrize(
    'x, w, options',
    [
        ((2, 4), (3, 4), {'window_strides': (), 'padding': ()}),
        ((2, 4, 0), (3, 4, 1), {'window_strides': (1,), 'padding': ((1, 1),)}),
        ((1, 1) + (3,) * 4, (1, 1) + (2,) * 4, {'window_strides': (1,) * 4, 'padding': 'SAME'}),
    ],
)
def test_what_no_kernel_knows_is_not_read(x, w, options):
    ((_, plan),) = found_in(lambda x, w: lax.conv_general_dilated(x, w, **options), x, w)
    assert plan is None


def test_complex_numbers_are_not_read():
    x, w = jnp.ones((2, 4, 5), jnp.complex64), jnp.ones((3, 4, 1), jnp.complex64)
    eqn = jax.make_jaxpr(lambda x, w: lax.conv_general_dilated(x, w, (1,), 'SAME'))(x, w).eqns[0]
    assert equations.read(x, w, eqn.params) is None
