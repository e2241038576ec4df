"""Tests of the default choice of kernels, and of `explain`."""

import functools
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.ops import kernels, tuning
from cnn_jax.ops.kernels.native import onednn
from cnn_jax.ops.spec import MAPS, ConvSpec
from cnn_jax.ops.tuning import rules, table
from tests.compilation import x64


@pytest.fixture(autouse=True)
def no_table(monkeypatch, tmp_path):
    """Simulates a machine without measurements."""
    monkeypatch.delenv(table.VARIABLE, raising=False)
    monkeypatch.setenv('CNN_JAX_CACHE', str(tmp_path))
    monkeypatch.setattr(table, '_processor', lambda: 'some processor, 2 cores')
    table._choices.cache_clear()
    yield
    table._choices.cache_clear()


@pytest.fixture
def pure_jax(monkeypatch):
    """Simulates a machine without the native kernels."""
    none = types.SimpleNamespace(supports=lambda spec, op, platform: 'not here')
    for name in kernels.KERNELS:
        if not kernels.is_portable(name):
            monkeypatch.setitem(kernels.KERNELS._values, name, none)


def choices(spec, platform):
    """Returns the default kernels of the three maps."""
    return tuple(tuning.choose(op, spec, platform)[0] for op in MAPS)


def spec_of(x, kernel, *, dtype='float32', **arguments):
    result = 'int32' if dtype == 'int8' else None
    with x64(dtype == 'float64'):
        return cnn_jax.explain(
            lambda x, w: cnn_jax.conv(x, w, preferred_element_type=result, **arguments),
            *(jax.ShapeDtypeStruct(s, dtype) for s in (x, kernel)),
        )[0].spec


def chosen(x, kernel, **arguments):
    return choices(spec_of(x, kernel, **arguments), 'cpu')


def test_rules_of_native_kernels():
    if reason := kernels.reason_against('native_winograd', 'forward', SPEC, 'cpu'):
        pytest.skip(reason)
    kernel = (3, 3, 64, 64)
    assert chosen((64, 28, 28, 64), kernel) == ('native_winograd',) * 3
    assert chosen((64, 14, 14, 32), (3, 3, 32, 64)) == ('native_winograd',) * 3
    assert chosen((64, 28, 28, 64), kernel, precision='highest') == ('onednn',) * 3
    assert chosen((64, 28, 28, 64), kernel, strides=2) == ('onednn',) * 3
    assert chosen((64, 2, 2, 64), kernel, padding=1) == ('onednn',) * 3  # 16 of 36 products
    assert chosen((1, 7, 7, 64), kernel) == ('onednn',) * 3  # the kernel's transform takes longer
    assert chosen((64, 28, 28, 8), (3, 3, 8, 8)) == ('onednn',) * 3  # so do those of the tiles
    # One output feature is no depthwise convolution: native_depthwise takes 50 times as long.
    assert chosen((64, 8, 8, 32), (3, 3, 32, 1)) == ('onednn',) * 3
    assert chosen((64, 8, 8, 32), (3, 3, 16, 2), groups=2)[2] == 'onednn'


def test_rules_of_depthwise_kernels():
    if reason := kernels.reason_against('onednn', 'forward', SPEC, 'cpu'):
        pytest.skip(reason)

    def depthwise(*size, features=32, **arguments):
        kernel = (*(3,) * len(size), 1, features)
        return chosen((4, *size, features), kernel, groups=features, **arguments)

    # oneDNN's kernels of depthwise form are for two axes, in gradients without dilation.
    assert depthwise(28, 28) == ('onednn',) * 3
    assert depthwise(28, 28, dilation=2) == ('onednn', 'native_depthwise', 'native_depthwise')
    assert depthwise(500) == ('native_depthwise',) * 3
    assert depthwise(500, dtype='bfloat16', strides=2) == ('native_depthwise',) * 3
    assert depthwise(12, 12, 12) == ('shift', 'shift', 'onednn')
    assert depthwise(12, 12, 12, dtype='bfloat16') == ('shift',) * 3
    assert depthwise(500, features=8, strides=3) == ('onednn', 'shift', 'onednn')  # half a vector


@pytest.fixture
def bfloat16_rate(request, monkeypatch):
    """Replaces the rate that this processor was measured to have."""
    if reason := kernels.reason_against('native_winograd', 'forward', SPEC, 'cpu'):
        pytest.skip(reason)
    monkeypatch.setattr(onednn, 'bfloat16_rate', lambda: request.param)
    onednn.describe.cache_clear()
    yield
    onednn.describe.cache_clear()


in_bfloat16 = functools.partial(chosen, dtype='bfloat16')


@pytest.mark.parametrize('bfloat16_rate', [2], indirect=True)
def test_rules_of_native_kernels_in_bfloat16(bfloat16_rate):
    kernel = (3, 3, 256, 256)
    assert in_bfloat16((128, 8, 8, 256), kernel) == ('native_winograd',) * 3
    # The direct form skips products with padding, but not in filter gradients.
    assert in_bfloat16((128, 4, 4, 256), kernel) == ('onednn', 'onednn', 'native_winograd')
    assert in_bfloat16((64, 28, 28, 32), (3, 3, 32, 64)) == ('onednn', 'onednn', 'native_winograd')
    assert in_bfloat16((64, 28, 28, 16), (3, 3, 16, 32)) == ('onednn',) * 3
    assert in_bfloat16((64, 32, 32, 3), (3, 3, 3, 64))[1] == 'onednn'


@pytest.mark.parametrize('bfloat16_rate', [0, 0.5], indirect=True)
def test_rules_of_native_kernels_where_bfloat16_is_slow(bfloat16_rate):
    assert in_bfloat16((64, 32, 32, 3), (3, 3, 3, 64))[1] == 'im2col'
    assert in_bfloat16((64, 32, 32, 3), (3, 3, 3, 4))[1] == 'onednn'
    assert in_bfloat16((64, 28, 28, 32), (3, 3, 32, 64)) == ('native_winograd',) * 3
    assert in_bfloat16((64, 28, 28, 64), (3, 3, 64, 64), strides=2) == ('onednn',) * 3


@pytest.mark.parametrize('bfloat16_rate, expected', [
    (0, (True, True)), (0.5, (True, False)), (2, (False, False)), (16, (False, False)),
], indirect=['bfloat16_rate'])  # fmt: skip
def test_arrays_are_converted_where_their_products_are_many_and_slow(bfloat16_rate, expected):
    many, few = ((64, 28, 28, 64), (5, 5, 64, 64)), ((64, 28, 28, 64), (1, 1, 64, 64))
    for shapes, wanted in zip((many, few), expected, strict=True):
        spec = spec_of(*shapes, dtype='bfloat16')
        assert [onednn.casts(spec, op) for op in MAPS] == [wanted] * 3


def test_the_rate_of_bfloat16_is_that_of_the_processor():
    if reason := kernels.reason_against('onednn', 'forward', SPEC, 'cpu'):
        pytest.skip(reason)
    flags = pathlib.Path('/proc/cpuinfo').read_text().split()
    expected = {16} if 'amx_bf16' in flags else {0.5, 2} if 'avx512_bf16' in flags else {0}
    assert onednn.bfloat16_rate() in expected


def test_rules_follow_the_measurements(pure_jax):
    image = (8, 28, 28)
    assert chosen((*image, 64), (1, 1, 64, 64)) == ('dot',) * 3
    assert chosen((*image, 64), (3, 3, 1, 64), groups=64) == ('shift',) * 3
    assert chosen((*image, 64), (3, 3, 64, 64)) == ('winograd',) * 3
    assert chosen((64, 32, 32, 64), (3, 3, 64, 64)) == ('winograd',) * 3
    assert chosen((*image, 64), (3, 3, 64, 64), precision='highest') == ('lax', 'lax', 'im2col')
    assert chosen((1, 7, 7, 64), (3, 3, 64, 64)) == ('lax', 'lax', 'im2col')  # few tiles
    assert chosen((2, 16, 28, 28, 16), (3, 3, 3, 16, 32)) == ('winograd',) * 3
    assert chosen((*image, 3), (3, 3, 3, 64)) == ('lax', 'im2col', 'lax')
    assert chosen((8, 40, 40, 3), (3, 3, 3, 64)) == ('lax', 'im2col', 'im2col')
    assert chosen((*image, 64), (3, 3, 16, 64), groups=4) == ('lax', 'lax', 'shift')
    assert chosen((*image, 32), (3, 3, 32, 64)) == ('lax', 'lax', 'winograd')
    assert chosen((*image, 32), (5, 5, 32, 64)) == ('lax', 'lax', 'im2col')
    assert chosen((*image, 16), (3, 3, 16, 16)) == ('lax',) * 3
    assert chosen((8, 80, 80, 32), (4, 4, 32, 64), strides=2) == ('lax', 'subpixel', 'im2col')
    assert chosen((8, 2, 2, 32), (3, 3, 32, 64)) == ('im2col',) * 3
    assert chosen((*image, 64), (3, 3, 1, 64), groups=64, dtype='int8')[:2] == ('shift',) * 2
    assert chosen((*image, 64), (3, 3, 16, 64), groups=4, dtype='int8')[0] == 'lax'
    assert chosen((*image, 3), (3, 3, 3, 64), dtype='int8')[:2] == ('im2col',) * 2
    assert chosen((8, 400, 64), (3, 64, 64), dtype='int8')[:2] == ('im2col',) * 2
    by_xla = rules.XLA_HAS_INT8
    assert chosen((*image, 64), (1, 1, 64, 64), dtype='int8')[0] == ('lax' if by_xla else 'dot')
    assert chosen((8, 400, 64), (3, 64, 64)) == ('lax',) * 3
    assert chosen((8, 400, 64), (3, 64, 64), dtype='float64') == ('im2col', 'im2col', 'shift')
    assert chosen((8, 400, 16), (3, 16, 16), dtype='float64') == ('im2col',) * 3
    assert chosen((2, 9, 9, 9, 4), (3, 3, 3, 4, 8), dtype='float64') == ('im2col',) * 3
    assert chosen((*image, 32), (5, 5, 32, 64), dtype='float64') == ('lax',) * 3
    assert chosen((*image, 32), (3, 3, 2, 32), groups=16, dtype='float64') == ('shift',) * 3
    assert chosen((*image, 32), (3, 3, 2, 32), groups=16, dtype='int8')[0] == 'shift'
    assert chosen((8, 80, 80, 32), (4, 4, 32, 64), strides=2, dtype='bfloat16')[1] == 'im2col'
    assert chosen((1, 12, 12, 32), (4, 4, 32, 64), strides=2)[1] == 'lax'  # few products


def test_a_rule_gives_way_where_its_kernel_does_not_support_the_call(pure_jax):
    # a strided 1x1 window does not count as pointwise; a depthwise 9x9 window has too many taps
    assert 'dot' not in chosen((8, 9, 9, 32), (1, 1, 32, 32), strides=2)
    assert 'shift' not in chosen((8, 9, 9, 32), (9, 9, 1, 32), groups=32)
    assert chosen((0, 9, 9, 32), (3, 3, 32, 32))[2] == 'lax'


def test_elsewhere_than_on_a_cpu_it_is_xla(pure_jax):
    spec = ConvSpec(64, (8, 8), 64, (3, 3), 64, (1, 1), ((1, 1),) * 2, (1, 1), (1, 1), 1, 'float32')
    assert set(choices(spec, 'tpu')) == {'lax'}
    assert set(choices(spec, 'cpu')) == {'winograd'}


def test_groups_on_tpus_are_merged():
    spec = ConvSpec(2, (8, 8), 64, (3, 3), 64, (1, 1), ((1, 1),) * 2, (1, 1), (1, 1), 8, 'float32')
    assert choices(spec, 'tpu') == ('block_diagonal',) * 3
    assert set(choices(spec, 'cuda')) == {'lax'}
    for other in (
        spec.replace(groups=64),
        spec.replace(groups=1),
        spec.replace(in_features=256, out_features=256),  # 32 features a group
        spec.replace(dtype='int32'),
    ):
        assert set(choices(other, 'tpu')) == {'lax'}


def test_the_default_is_settled_for_the_platform_that_is_compiled_for():
    x, w = np.ones((2, 8, 8, 64), np.float32), np.ones((1, 1, 64, 64), np.float32)
    traced = jax.jit(lambda x, w: cnn_jax.conv(x, w)).trace(x, w)
    for platform, is_convolution in (('tpu', True), ('cuda', True), ('cpu', False)):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ('stablehlo.convolution' in text) == is_convolution


def test_explain_names_every_convolution_of_a_gradient():
    x, w = np.ones((2, 8, 8, 3), np.float32), np.ones((3, 3, 3, 4), np.float32)

    @jax.jit
    def loss(w, x):
        return cnn_jax.conv(cnn_jax.conv(x, w), w.swapaxes(2, 3), implementation='scan').sum()

    used = cnn_jax.explain(jax.grad(loss), w, x)
    ops = sorted(u.op for u in used)
    assert ops == ['filter_grad', 'filter_grad', 'forward', 'forward', 'input_grad']
    named = [u for u in used if u.implementation == 'scan']
    assert named and all('named by the caller' in u.why for u in named)
    assert any(u.why.startswith('default: ') for u in used)
    assert used[0].against['dot'].startswith('needs a 1x1')
    assert '(2, 8, 8, 3) * (3, 3, 3, 4) -> (2, 8, 8, 4) float32' in str(used[0])


SPEC = ConvSpec(64, (8, 8), 64, (3, 3), 64, (1, 1), ((1, 1),) * 2, (1, 1), (1, 1), 1, 'float32')


def test_what_was_measured_decides(pure_jax):
    measured = {'forward': {'lax': 3e-3, 'onednn': 1e-3, 'im2col': 2e-3}}
    table.save(table.own_path('cpu'), {table.key(SPEC): measured}, {'date': '2026-11-22'}, 'cpu')
    assert choices(SPEC, 'cpu') == ('im2col', 'winograd', 'winograd')
    assert set(choices(SPEC, 'tpu')) == {'lax'}
    assert set(choices(SPEC.replace(batch=63), 'cpu')) == {'winograd'}
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (SPEC.x_shape, SPEC.kernel_shape))
    (used,) = cnn_jax.explain(lambda x, w: cnn_jax.conv(x, w, padding=1), x, w)
    assert used.implementation == 'im2col'
    assert used.why == 'default: measured: onednn 1 ms, im2col 2 ms, lax 3 ms'


def test_a_table_is_of_one_platform(pure_jax, tmp_path, monkeypatch):
    path = tmp_path / 'table.json'
    measured = {table.key(SPEC): {'forward': {'scan': 1.0, 'lax': 2.0}}}
    monkeypatch.setattr(table, 'device', lambda platform: f'a {platform}')
    table.save(path, measured, {}, 'tpu')
    monkeypatch.setenv(table.VARIABLE, str(path))
    assert choices(SPEC, 'tpu')[0] == 'scan' and choices(SPEC, 'cpu')[0] == 'winograd'
    with pytest.raises(ValueError, match='was measured on tpu: a tpu, not on cpu: a cpu'):
        table.save(path, measured, {}, 'cpu')
    assert table.own_path('tpu') != table.own_path('cpu')


def test_a_second_measurement_adds_to_the_first(pure_jax):
    other = SPEC.replace(batch=5)
    table.save(table.own_path('cpu'), {table.key(SPEC): {'forward': {'lax': 1.0}}}, {}, 'cpu')
    table.save(table.own_path('cpu'), {table.key(SPEC): {'input_grad': {'lax': 1.0}}}, {}, 'cpu')
    table.save(table.own_path('cpu'), {table.key(other): {'forward': {'scan': 1.0}}}, {}, 'cpu')
    assert choices(SPEC, 'cpu') == ('lax', 'lax', 'winograd')
    assert choices(other, 'cpu')[0] == 'scan'


@pytest.mark.parametrize('text', ['', '{}', '{"version": 1}', '[1]', '{"version": 0}'])
def test_a_file_that_is_no_table_is_said_and_left_alone(
    pure_jax, tmp_path, caplog, monkeypatch, text
):
    path = tmp_path / 'table.json'
    path.write_text(text)
    monkeypatch.setenv(table.VARIABLE, str(path))
    assert set(choices(SPEC, 'cpu')) == {'winograd'}
    assert f'{path} is not a table' in caplog.text
    with pytest.raises(ValueError, match='is not a table of measured choices'):
        table.save(path, {}, {}, 'cpu')
    assert path.read_text() == text


def test_a_table_of_another_processor_is_said(pure_jax, tmp_path, caplog, monkeypatch):
    path = tmp_path / 'table.json'
    table.save(path, {table.key(SPEC): {'forward': {'lax': 1.0}}}, {}, 'cpu')
    monkeypatch.setattr(table, '_processor', lambda: 'another')
    table._choices.cache_clear()
    monkeypatch.setenv(table.VARIABLE, str(path))
    assert choices(SPEC, 'cpu')[0] == 'lax'  # the user named it
    assert 'was measured on some processor, 2 cores, but this machine is another' in caplog.text
    with pytest.raises(ValueError, match='was measured on .*some processor'):
        table.save(path, {}, {}, 'cpu')


def test_filter_gradients_of_transposed_convolutions_have_no_holes_in_their_input(pure_jax):
    x, w = jnp.linspace(-1, 1, 288).reshape(2, 6, 6, 4), jnp.zeros((4, 4, 4, 3))
    dy = jnp.linspace(-1, 1, 864).reshape(2, 12, 12, 3)

    def gradient(implementation):
        run = lambda w: cnn_jax.conv_transpose(  # noqa: E731
            x, w, strides=2, implementation=implementation
        )
        return jax.jit(lambda dy: jax.linear_transpose(run, w)(dy)[0])

    default, lax = gradient(None), gradient('lax')
    (used,) = cnn_jax.explain(default, dy)
    assert (used.op, used.implementation) == ('filter_grad', 'lax')
    assert 'lhs_dilate = [2, 2]' in lax.lower(dy).as_text()
    assert 'lhs_dilate = [2, 2]' not in default.lower(dy).as_text()
    np.testing.assert_allclose(default(dy), lax(dy), rtol=1e-5, atol=1e-4)
