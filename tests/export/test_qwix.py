"""Qwix, a library for quantisation, works on our modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import cnn_jax
from cnn_jax.ops import kernels
from tests.export.test_fold import create

qwix = pytest.importorskip('qwix', reason='the extra `libraries` is not installed')


def quantize(model, x):
    rules = [qwix.QuantizationRule(module_path='.*', weight_qtype=jnp.int8, act_qtype=jnp.int8)]
    return qwix.quantize_model(model, qwix.PtqProvider(rules), x)


def test_weights_become_int8_and_the_outputs_hardly_change():
    model, x = create('lecture_cnn')
    quantized = quantize(model, x)
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(nnx.state(quantized))[0]
        if 'qvalue' in jax.tree_util.keystr(path)
    ]
    assert len(kernels) == 4 and {kernel.dtype for kernel in kernels} == {jnp.dtype('int8')}
    expected = np.asarray(model(x))
    difference = abs(np.asarray(quantized(x)) - expected).max() / abs(expected).max()
    assert 0 < difference < 0.05


def own_model():
    return create('lecture_cnn')


def flax_model():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Conv(3, 130, (3, 3), strides=2, rngs=rngs),
        nnx.Conv(130, 130, (3, 3), feature_group_count=130, rngs=rngs),
        nnx.Conv(130, 8, (3, 3), padding='VALID', rngs=rngs),
    )
    return model, jax.random.normal(jax.random.key(1), (2, 12, 12, 3))


@pytest.mark.parametrize('made', [own_model, flax_model])
def test_the_kernels_compute_in_int8_what_xla_computes(made):
    model, x = made()
    graph, state = nnx.split(quantize(model, x))

    def run(state, x):
        return nnx.merge(graph, state)(x)

    with cnn_jax.installed():
        used = cnn_jax.explain(run, state, x)
        ours = jax.jit(run)(state, x)
    assert used and all((u.spec.operand_dtype, u.spec.dtype) == ('int8', 'int32') for u in used)
    if not kernels.reason_against('onednn', 'forward', used[0].spec):
        assert {u.implementation for u in used} == {'onednn'}
    with cnn_jax.use_implementation('lax'):
        xla = jax.jit(run)(state, x)
    # The sums are integers, and equal. Only products with the scales may be rounded differently.
    np.testing.assert_allclose(ours, xla, rtol=0, atol=1e-6 * np.abs(xla).max())
