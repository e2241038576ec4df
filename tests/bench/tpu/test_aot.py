"""Tests of compiling for TPUs without a TPU; some are skipped if libtpu is not installed."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax import training
from cnn_jax.bench.tpu import aot
from cnn_jax.training.devices import Devices

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='needs libtpu (the extra tpu)'
)


def test_collectives_are_read_from_a_compiled_program():
    program = """
      %all-reduce = f32[] all-reduce(%x), replica_groups={{0,1}}
      ROOT %ar.1 = (bf16[3,5]{1,0:T(8,128)(2,1)}, f32[7]{0}) all-reduce(%a, %b), to_apply=%add
      %s = f32[8]{0} all-reduce-start(%y), channel_id=3
      %d = f32[8]{0} all-reduce-done(%s)
      %g = (f32[2]{0}, f32[8]{0}) all-gather-start(%z), dimensions={0}
      %fusion = f32[100]{0} fusion(%all-reduce), kind=kLoop, calls=%all-reduce.clone
    """
    found = aot.collectives(program)
    assert found == {
        'all-gather': aot.Collective(1, 32),
        'all-reduce': aot.Collective(3, 4 + 2 * 15 + 4 * 7 + 32),
    }


def test_collectives_among_some_of_the_chips_are_a_kind_of_their_own():
    program = """
    HloModule jit_step, is_scheduled=true, num_partitions=8
      %a = f32[4]{0} all-reduce(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
      %b = f32[4]{0} all-reduce(%y), replica_groups=[4,2]<=[8], to_apply=%add
      %c = f32[4]{0} all-reduce(%z), replica_groups=[1,8]<=[8], to_apply=%add
      %d = f32[4]{0} all-reduce(%u), replica_groups=mesh['a'=4,'b'=2,'c'=1] {'b'}, to_apply=%add
      %e = f32[4]{0} all-reduce(%v), replica_groups=mesh['a'=4,'b'=2,'c'=1] {'a','b'}, to_apply=%add
      %p = (bf16[2,8], bf16[2,8], u32[], u32[]) collective-permute-start(%w), channel_id=1
    """
    assert aot.collectives(program) == {
        'all-reduce of 2 chips': aot.Collective(3, 48, 2),
        'all-reduce': aot.Collective(2, 32),
        'collective-permute': aot.Collective(1, 32),
    }


@pytest.mark.parametrize('limit', [8, 9, 100, 127, 128, 129, 1000])
@pytest.mark.parametrize('start', [1, 64, 128, 5000])
def test_largest_batch_is_the_last_multiple_that_fits(limit, start):
    def compile_batch(size):
        if size > limit:
            raise aot.DoesNotFit(size, limit)
        return size

    assert aot.largest_batch(compile_batch, start) == limit // 8 * 8


def test_largest_batch_says_when_nothing_fits():
    def compile_batch(size):
        raise aot.DoesNotFit(20e9, 16e9)

    with pytest.raises(aot.DoesNotFit, match='needs 18.63 GiB, the chip has 14.90 GiB'):
        aot.largest_batch(compile_batch, 256)


# A linear layer on 4 CPU devices: everything in the report can be counted by hand.
_LINEAR = """
    import dataclasses, json, jax, jax.numpy as jnp
    jax.config.update('jax_num_cpu_devices', 4)
    from cnn_jax.bench.tpu import aot
    from cnn_jax.training.devices import Devices

    def step(state, batch):
        loss = lambda w: (batch['x'] @ w).sum()
        value, grad = jax.value_and_grad(loss)(state)
        return state - grad, value

    x = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    w = jax.ShapeDtypeStruct((32, 16), jnp.float32)
    report = aot.compile_lowered(aot.lower_step(step, w, {'x': x}, Devices.all()), 4, 8)
    print(json.dumps(dataclasses.asdict(report)))
"""


def test_report_of_a_linear_layer_on_four_devices():
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
    program = [sys.executable, '-c', textwrap.dedent(_LINEAR)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows, weights = 8 // 4, 32 * 16
    # Two products (the gradient's sums over rows), and little else.
    assert 2 * rows * weights <= report['flops'] <= 6 * rows * weights + 200
    # The gradient and the loss.
    assert report['collectives'].keys() == {'all-reduce'}
    assert report['collectives']['all-reduce']['bytes'] == 4 * (weights + 1)
    assert report['hbm_bytes'] >= 4 * (weights + rows * 32)


def test_batch_that_cannot_be_shared_out_is_named():
    step = lambda state, batch: (state, batch['x'].sum())  # noqa: E731
    batch = {'x': jax.ShapeDtypeStruct((6, 3), jnp.float32)}
    with pytest.raises(ValueError, match='batch_size=6: must be a multiple of the 4 devices'):
        aot.lower_step(step, jnp.zeros(()), batch, Devices.all(jax.devices()[:4]))


def test_training_step_is_exported_for_cuda_and_runs_from_its_export():
    """Exports the default training step; its CPU version, deserialized, gives the same results."""
    # Without the native kernel, because JAX exports only custom calls with guaranteed stability.
    job = training.make_job(training.TrainConfig(batch_size=8, implementation='lax'))
    inputs = job.dataset.splits['train'].inputs[:8]
    batch = {'inputs': inputs, 'labels': np.arange(8, dtype=np.int32)}
    exported = aot.export_step(job.step(), job.state_like(), batch, ('cpu', 'cuda'))
    assert exported.platforms == ('cpu', 'cuda')
    state = jax.tree.map(np.asarray, job.init())
    wanted = jax.tree.leaves(jax.jit(job.step())(state, batch))
    again = jax.export.deserialize(exported.serialize())
    for ours, one in zip(again.call(*jax.tree.leaves((state, batch))), wanted, strict=True):
        np.testing.assert_allclose(ours, one, rtol=1e-5, atol=1e-6)


def test_step_for_cuda_holds_its_convolutions_and_no_call_of_a_library_of_the_cpu():
    job = training.make_job(training.TrainConfig(batch_size=8))
    batch = {
        'inputs': jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.uint8),
        'labels': jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    exported = aot.export_step(job.step(), job.state_like(), batch, ('cuda',))
    assert exported.platforms == ('cuda',)
    found = aot.operations(exported)
    # Two layers forward, both filter gradients, and the input gradient of the second layer.
    assert found['convolution'] == 5
    # Two dense layers, each with the forward product and both gradients.
    assert found['dot_general'] == 6
    assert found['custom_call'] == 0


def _products(features, layers):
    """Returns a step of known cost: `layers` products, whose inputs are kept for the gradient."""

    def step(state, batch):
        def loss(w):
            x = batch['x']
            for _ in range(layers):
                x = jnp.sin(x @ w)
            return x.sum()

        value, grad = jax.value_and_grad(loss)(state)
        return state - grad, value

    return step, jax.ShapeDtypeStruct((features, features), jnp.float32)


@needs_libtpu
def test_tpu_compile_for_sixteen_chips():
    slice_ = aot.SLICES['v5e-16']
    step, state = _products(512, 2)
    rows = 256
    batch = {'x': jax.ShapeDtypeStruct((rows * slice_.chips, 512), jnp.float32)}
    report = aot.compile_step(step, state, batch, slice_)
    # Two products forward, two for the weight gradients, one for the input gradient of the second.
    assert report.flops == pytest.approx(5 * 2 * rows * 512**2, rel=0.1)
    assert report.collectives['all-reduce'].bytes == pytest.approx(4 * 512**2, rel=0.01)
    assert report.hbm_bytes > 4 * 512**2


@needs_libtpu
def test_strips_of_an_image_exchange_their_borders():
    slice_ = aot.SLICES['v5e-4']

    def step(state, batch):
        loss = lambda w: jnp.square(cnn_jax.conv(batch['x'], w, padding=2)).sum()  # noqa: E731
        value, grad = jax.value_and_grad(loss)(state)
        return state - grad, value

    batch = {'x': jax.ShapeDtypeStruct((1, 64, 32, 8), jnp.float32)}
    devices = Devices.all(aot.tpu_devices(slice_), 'space:4')
    state = jax.ShapeDtypeStruct((5, 5, 8, 8), jnp.float32)
    report = aot.compile_step(step, state, batch, slice_, devices=devices)
    assert report.collectives.keys() == {'all-reduce', 'collective-permute'}
    halo = 2 * 2 * 32 * 8  # two rows before and two after; the gradient uses them again
    assert report.collectives['collective-permute'].bytes == 4 * halo


@needs_libtpu
def test_tpu_compile_that_does_not_fit():
    step, state = _products(4096, 8)
    batch = {'x': jax.ShapeDtypeStruct((2**18, 4096), jnp.float32)}  # 4 GiB, kept 8 times
    with pytest.raises(aot.DoesNotFit) as caught:
        aot.compile_step(step, state, batch, aot.SLICES['v5e-1'])
    assert caught.value.needed > caught.value.available == aot.V5E.hbm_bytes


@needs_libtpu
def test_arguments_count_towards_the_memory():
    step = lambda state, batch: (state * 2, batch['x'].sum())  # noqa: E731
    state = jax.ShapeDtypeStruct((5 * 2**30,), jnp.float32)  # 20 GiB, nothing temporary
    batch = {'x': jax.ShapeDtypeStruct((8,), jnp.float32)}
    with pytest.raises(aot.DoesNotFit):
        aot.compile_step(step, state, batch, aot.SLICES['v5e-1'])
