"""Tests of the kernel for TPUs on a machine without one.

Four gates: interpretation against the float64 oracle, values and gradients; interpretation that
finds reads of what was never written, reads out of bounds, and races; compilation by Mosaic ahead
of time, which needs libtpu; and export, which does not.
"""

import dataclasses
import importlib.util
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import cnn_jax
from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.bench.tpu import aot
from cnn_jax.errors import UserError
from cnn_jax.ops import kernels, tuning
from cnn_jax.ops.kernels import pallas
from cnn_jax.ops.kernels.pallas import depthwise
from cnn_jax.ops.kernels.pallas.tiling import Tiling, cut
from cnn_jax.ops.spec import MAPS, ROLES, ConvSpec
from tests.ops.conv_cases import CASES, Case
from tests.ops.tolerance import assert_close

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='needs libtpu (the extra tpu)'
)


def with_groups(case):
    """Returns the depthwise case with the sizes, window and padding of `case`."""
    features = case.x[-1]
    return dataclasses.replace(case, kernel=(*case.kernel[:-2], 1, features), groups=features)


def is_supported(case):
    sizes = case.ndim <= 2 and 0 not in case.x
    return sizes and (case.strides, case.input_dilation, case.padding_mode) == (1, 1, 'zeros')


def spec_of(case, dtype='float32'):
    resolved = case.resolved()
    *window, _, features = case.kernel
    return ConvSpec(
        batch=case.x[0],
        input_size=case.x[1:-1],
        in_features=features,
        window=tuple(window),
        out_features=features,
        strides=resolved['strides'],
        padding=tuple(map(tuple, resolved['padding'])),
        input_dilation=resolved['input_dilation'],
        dilation=resolved['dilation'],
        groups=features,
        dtype=dtype,
    )


def with_gradients(case):
    """Returns the function (x, w, dy) -> (y, dx, dw) of the kernel."""

    def run(x, w, dy):
        conv = lambda x, w: cnn_jax.conv(x, w, implementation='pallas', **case.arguments())  # noqa: E731
        y, vjp = jax.vjp(conv, x, w)
        return y, *vjp(dy)

    return run


def with_cotangent(case, dtype='float32'):
    x, w = (jnp.asarray(a, dtype) for a in case.operands())
    shape = oracle.conv(x, w, **case.resolved()).shape
    return x, w, jnp.asarray(np.random.default_rng(1).normal(size=shape), dtype)


def assert_right(result, case, operands):
    expected = oracle.conv(*operands, **case.resolved())
    for actual, wanted, what in zip(result, expected, ('y', 'dx', 'dw'), strict=True):
        assert_close(actual, wanted, case.reduction, message=what)


# ------------------------------------------------------------------------------- 1: the oracle


@pytest.mark.parametrize(
    'case', [with_groups(case) for case in CASES if is_supported(case)], ids=lambda c: c.name
)
def test_values_and_gradients(case):
    operands = with_cotangent(case)
    with pallas.interpreted():
        result = jax.jit(with_gradients(case))(*operands)
    assert_right(result, case, operands)


# Several steps along every axis of the grid; the last block of rows is not full.
STEPS = [
    (Case('2d', (16, 5, 6, 3), (3, 2, 1, 3), padding=((1, 2), (0, 3)), groups=3), (8, 3, 4)),
    (Case('1d', (16, 7, 2), (3, 1, 2), padding='CAUSAL', dilation=2, groups=2), (8, 2, 4)),
    (Case('features', (8, 4, 3, 256), (3, 3, 1, 256), padding='SAME', groups=256), (8, 128, 3)),
]
each_steps = pytest.mark.parametrize(('case', 'tiling'), STEPS, ids=[c.name for c, _ in STEPS])


@each_steps
def test_bfloat16_is_summed_in_float32(case, tiling, monkeypatch):
    monkeypatch.setattr(pallas, 'cut', lambda spec: Tiling(*tiling))
    operands = with_cotangent(case, 'bfloat16')
    with pallas.interpreted():
        result = jax.jit(with_gradients(case))(*operands)
    assert_right(result, case, operands)


SMALL = Case('', (8, 4, 5, 3), (3, 3, 1, 3), padding='SAME', groups=3)


def on_mesh(devices, sizes, kind='Auto'):
    """Returns the placements of x, w and dy over the first axis of a mesh with these sizes."""
    names, kinds = ('data', 'model')[: len(sizes)], (getattr(AxisType, kind),) * len(sizes)
    mesh = Mesh(np.array(devices).reshape(sizes), names, axis_types=kinds)
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (['data'], []))
    return rows, whole, rows


@pytest.mark.parametrize('kind', ['Auto', 'Explicit'])
def test_a_sharded_batch_is_convolved_in_parts(kind):
    operands = with_cotangent(SMALL)
    shardings = on_mesh(jax.devices()[:6], (2, 3), kind)
    placed = jax.device_put(operands, shardings)
    with pallas.interpreted():
        lowered = jax.jit(with_gradients(SMALL)).lower(*placed)
        result = lowered.compile()(*placed)
    assert_right(result, SMALL, operands)
    assert 'tensor<4x4x5x3xf32>' in lowered.as_text()  # 8 images: halves over data, not over model


def test_under_shard_map_each_device_convolves_what_it_has():
    operands = with_cotangent(SMALL)
    mesh = Mesh(np.array(jax.devices()[:4]), ('data',))
    rows, whole = PartitionSpec('data'), PartitionSpec()
    mapped = jax.shard_map(
        with_gradients(SMALL),
        mesh=mesh,
        in_specs=(rows, whole, rows),
        out_specs=(rows, rows, whole),
    )
    with pallas.interpreted():
        assert_right(jax.jit(mapped)(*operands), SMALL, operands)


def test_a_mesh_in_shard_map_in_part_is_refused():
    x, w, _ = with_cotangent(SMALL)
    mesh = jax.make_mesh((2, 2), ('data', 'model'), axis_types=(AxisType.Auto,) * 2)
    conv = lambda x, w: cnn_jax.conv(x, w, groups=3, implementation='pallas')  # noqa: E731
    in_part = jax.shard_map(
        conv,
        mesh=mesh,
        in_specs=(PartitionSpec('data'), PartitionSpec()),
        out_specs=PartitionSpec('data'),
        axis_names={'data'},
    )
    with pallas.interpreted(), pytest.raises(UserError, match=r"every axis.*\['model'\]"):
        jax.jit(in_part)(x, w)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'strides': (2, 2)}, r'strides of 1, got \(2, 2\)'),
        ({'input_dilation': (1, 2)}, r'input_dilation of 1, got \(1, 2\)'),
        ({'out_features': 6}, 'to be equal, got 3, 3 and 6'),
        ({'groups': 1}, 'to be equal, got 1, 3 and 3'),
        ({'dtype': 'float16'}, 'float32 and bfloat16, not float16'),
        ({'batch': 0}, 'size 0'),
        ({'input_size': (8, 1 << 20)}, 'MiB of VMEM for one row'),
    ],
)
def test_refuses_with_a_reason(changes, reason):
    spec = spec_of(SMALL).replace(**changes)
    for op in MAPS:
        assert re.search(reason, kernels.reason_against('pallas', op, spec, 'tpu'))


def test_elsewhere_it_is_refused_when_it_is_lowered():
    x, w, _ = with_cotangent(SMALL)
    conv = lambda x, w: cnn_jax.conv(x, w, groups=3, implementation='pallas')  # noqa: E731
    assert jax.eval_shape(conv, x, w).shape == x.shape
    with pytest.raises(UserError, match='it runs on TPUs only, not on cpu'):
        conv(x, w)
    either = lambda x, w: cnn_jax.conv(x, w, groups=3, implementation=('pallas', 'scan'))  # noqa: E731
    assert_close(either(x, w), oracle.conv(x, w, **SMALL.resolved()), SMALL.reduction)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_is_never_a_default(platform):
    for op in MAPS:
        spec = spec_of(SMALL)
        assert all(name != 'pallas' for name, _ in tuning.ranked(op, spec, platform))


# --------------------------------------------------- 2: interpretation of memories and two cores


@each_steps
@pytest.mark.parametrize('op', MAPS)
def test_reads_and_races(case, tiling, op, monkeypatch, capfd):
    from jax.experimental.pallas import tpu as pltpu

    monkeypatch.setattr(pallas, 'cut', lambda spec: Tiling(*tiling))
    arrays = dict(zip('xwy', with_cotangent(case), strict=True))
    expected = oracle.conv(*arrays.values(), **case.resolved())[MAPS.index(op)]
    simulated = pltpu.InterpretParams(
        detect_races=True, uninitialized_memory='nan', num_cores_or_threads=2
    )
    try:
        with pallas.interpreted(simulated):
            actual = getattr(pallas, op)(*(arrays[role] for role in ROLES[op][:2]), spec_of(case))
    finally:
        pltpu.reset_tpu_interpret_mode_state()
    assert 'RACE DETECTED' not in capfd.readouterr().out
    assert_close(actual, expected, case.reduction)


# ------------------------------------------------------------------- 3: Mosaic, ahead of time


CALLS = [
    Case('2d', (32, 28, 28, 256), (5, 5, 1, 256), padding='SAME', groups=256),
    Case('odd', (20, 13, 11, 96), (4, 3, 1, 96), padding=((1, 0), (2, 5)), groups=96),
    Case('1d', (8, 2048, 128), (4, 1, 128), padding='CAUSAL', groups=128),
]


def shapes(case, dtype, *shardings):
    spec = spec_of(case, dtype)
    return [
        jax.ShapeDtypeStruct(spec.shape(role), dtype, sharding=sharding)
        for role, sharding in zip('xwy', shardings, strict=True)
    ]


def mosaic_calls(text):
    return text.count('custom_call_target="tpu_custom_call"')


@needs_libtpu
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('chip', ['v5e-1', 'v6e-1'])
@pytest.mark.parametrize('case', CALLS, ids=lambda c: c.name)
def test_mosaic_compiles(case, chip, dtype):
    one = SingleDeviceSharding(aot.tpu_devices(aot.SLICES[chip])[0])
    lowered = jax.jit(with_gradients(case)).lower(*shapes(case, dtype, one, one, one))
    assert mosaic_calls(lowered.compile().as_text()) == 3


@needs_libtpu
@pytest.mark.parametrize('op', ['forward', 'filter_grad'])
def test_vmem_is_known_before_compilation(op, monkeypatch):
    one = SingleDeviceSharding(aot.tpu_devices(aot.SLICES['v5e-1'])[0])
    spec = spec_of(CALLS[0], 'bfloat16')
    needed = cut(spec).bytes(spec)
    operands = [
        jax.ShapeDtypeStruct(spec.shape(role), spec.dtype, sharding=one) for role in ROLES[op][:2]
    ]

    def compile_within(limit):
        monkeypatch.setattr(depthwise, 'VMEM_LIMIT', int(limit))
        call = lambda a, b: getattr(pallas, op)(a, b, spec)  # noqa: E731
        jax.jit(call).lower(*operands).compile()

    compile_within(1.05 * needed)
    with pytest.raises(jax.errors.JaxRuntimeError, match='vmem'):
        compile_within(0.9 * needed)


@needs_libtpu
def test_mosaic_compiles_for_a_mesh():
    shardings = on_mesh(aot.tpu_devices(aot.SLICES['v5e-4']), (4,))
    lowered = jax.jit(with_gradients(CALLS[0])).lower(*shapes(CALLS[0], 'bfloat16', *shardings))
    text = lowered.compile().as_text()
    assert mosaic_calls(text) == 3
    assert set(aot.collectives(text)) == {'all-reduce'}  # of the filter gradient


# ------------------------------------------------------------------------------- 4: export


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('case', CALLS, ids=lambda c: c.name)
def test_export_for_tpus_needs_none(case, dtype):
    call = jax.jit(with_gradients(case))
    exported = jax.export.export(call, platforms=['tpu'])(*shapes(case, dtype, None, None, None))
    assert exported.mlir_module().count('@tpu_custom_call') == 3
