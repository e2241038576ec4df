"""Qwix, a library for quantisation, works on our modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.export.test_fold import create

qwix = pytest.importorskip('qwix', reason='the extra `libraries` is not installed')


def test_weights_become_int8_and_the_outputs_hardly_change():
    model, x = create('lecture_cnn')
    rules = [qwix.QuantizationRule(module_path='.*', weight_qtype=jnp.int8, act_qtype=jnp.int8)]
    quantized = qwix.quantize_model(model, qwix.PtqProvider(rules), x)
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(nnx.state(quantized))[0]
        if 'qvalue' in jax.tree_util.keystr(path)
    ]
    assert len(kernels) == 4 and {kernel.dtype for kernel in kernels} == {jnp.dtype('int8')}
    expected = np.asarray(model(x))
    difference = abs(np.asarray(quantized(x)) - expected).max() / abs(expected).max()
    assert 0 < difference < 0.05
