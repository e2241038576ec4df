"""Tests specific to the native kernel; the tests of all kernels cover its values too."""

import concurrent.futures
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.ops import tuning
from cnn_jax.ops.kernels.native import arrange, build, onednn
from cnn_jax.ops.spec import ConvSpec
from tests.ops.tolerance import assert_close

ROOT = pathlib.Path(__file__).parents[2]
OPS = ('forward', 'input_grad', 'filter_grad')


def missing():
    """Returns what this machine lacks for the kernel, without using the code under test."""
    if not sys.platform.startswith('linux') or platform.machine() != 'x86_64':
        return 'needs Linux on x86-64'
    installed = {d.metadata['Name'].lower() for d in importlib.metadata.distributions()}
    absent = {'onednn-cpu-gomp', 'onednn-devel-cpu-gomp'} - installed
    if absent:
        return f'needs the extra cpu: {", ".join(sorted(absent))}'
    if not shutil.which('c++') and not shutil.which('g++'):
        return 'needs a C++ compiler'
    return '' if jax.default_backend() == 'cpu' else 'needs the CPU backend'


native = pytest.mark.skipif(bool(missing()), reason=missing() or 'available')


def make_spec(x, w, strides=1, padding=0, dilation=1, groups=1, dtype='float32'):
    """Returns the spec for x (N, *size, C) and w (*window, C // groups, O).

    The strides, the padding and the dilation are one int, or one value per axis.
    """
    n = len(w) - 2
    each = lambda value: value if isinstance(value, tuple) else (value,) * n  # noqa: E731
    pairs = tuple(p if isinstance(p, tuple) else (p, p) for p in each(padding))
    return ConvSpec(
        x[0], x[1:-1], x[-1], w[:n], w[-1], each(strides), pairs, (1,) * n, each(dilation), groups,
        dtype,
    )  # fmt: skip


SPECS = {
    'padding beyond the window': make_spec((2, 3, 4, 16), (2, 2, 16, 16), 1, ((5, 4), (3, 6))),
    'all at once': make_spec((2, 9, 8, 4), (3, 2, 2, 6), (2, 3), ((0, 2), (3, 1)), (2, 3), 2),
    'depthwise with a multiplier': make_spec((2, 6, 5, 3), (3, 3, 1, 6), 2, 1, 1, 3),
    'features that fill no vector': make_spec((1, 5, 5, 17), (3, 3, 17, 33), 1, 1),
    'large dilation': make_spec((1, 40, 2), (3, 2, 3), 1, 0, 19),
    'volume': make_spec((1, 3, 4, 5, 2), (2, 3, 2, 2, 3), (1, 2, 1), 1),
    'bfloat16': make_spec((2, 6, 5, 8), (3, 3, 8, 16), 1, 1, dtype='bfloat16'),
    'float16': make_spec((2, 6, 5, 8), (3, 3, 8, 16), 2, 1, dtype='float16'),
}
# Small images with a large kernel: the batch becomes the last spatial axis.
BATCH_INSIDE = {
    '2x2': make_spec((8, 2, 2, 256), (3, 3, 256, 256), 1, 1),
    'strided': make_spec((9, 4, 3, 256), (3, 2, 256, 256), 2, ((1, 0), (0, 1))),
    'one position': make_spec((8, 1, 256), (1, 256, 256)),
    'bfloat16': make_spec((8, 3, 256), (3, 256, 256), 1, 1, dtype='bfloat16'),
}
# Few features and strides that divide the window: the strides are folded into the features. Of the
# forward map, only the one of the last axis is, where that needs no copy or the window is long.
FOLDED = {
    'rows that no output reads': make_spec((2, 8, 9, 3), (3, 2, 3, 4), 3),
    'audio': make_spec((2, 40, 1), (16, 1, 8), 4, 6),
    'padding divides': make_spec((2, 24, 1), (8, 1, 8), 4, ((4, 0),)),
    'image': make_spec((2, 9, 12, 3), (7, 6, 3, 8), 2, ((3, 3), (3, 2))),
    'one axis of two': make_spec((1, 5, 16, 2), (2, 8, 2, 8), (1, 4), ((0, 1), (4, 5))),
    'bfloat16': make_spec((2, 40, 1), (16, 1, 8), 4, 6, dtype='bfloat16'),
    'last layer of a generator': make_spec((2, 10, 8, 3), (4, 4, 3, 16), 2, 1),
    'odd size': make_spec((2, 9, 7, 7), (4, 6, 7, 16), (2, 3), ((1, 2), (2, 0))),
    'volume': make_spec((1, 5, 6, 8, 2), (2, 4, 3, 2, 8), (2, 2, 3), ((0, 1), (1, 0), (2, 2))),
}
# Strided windows of 1: filter gradients for which oneDNN writes past the end of its memory.
SUBSAMPLED = {
    'image': make_spec((8, 64, 64, 4), (1, 1, 4, 8), 2),
    'bfloat16': make_spec((8, 32, 32, 4), (1, 1, 4, 8), 2, dtype='bfloat16'),
    'odd size': make_spec((2, 9, 7, 5), (1, 1, 5, 3), (2, 3)),
    'batch inside': make_spec((8, 4, 256), (1, 256, 256), 2),
}
# Pointwise filter gradients in parts: all positions become one sequence.
FLATTENED = {
    'image': make_spec((9, 31, 23, 20), (1, 1, 20, 35)),
    'strided': make_spec((5, 60, 59, 16), (1, 1, 16, 24), 2),
    'bfloat16': make_spec((3, 45, 31, 16), (1, 1, 16, 32), dtype='bfloat16'),
    'volume': make_spec((2, 13, 13, 13, 8), (1, 1, 1, 8, 16)),
}
ALL = [
    pytest.param(spec, how, id=f'{how}: {name}')
    for how, specs in (
        ('as it is', SPECS),
        ('batch inside', BATCH_INSIDE),
        ('folded', FOLDED),
        ('subsampled', SUBSAMPLED),
        ('flattened', FLATTENED),
    )
    for name, spec in specs.items()
]


def operands(spec):
    rng = np.random.default_rng(0)
    shapes = (spec.x_shape, spec.kernel_shape, spec.y_shape)
    return [jnp.asarray(rng.normal(size=shape), spec.dtype) for shape in shapes]


def run(op, x, w, dy, spec):
    a, b = {'forward': (x, w), 'input_grad': (dy, w), 'filter_grad': (x, dy)}[op]
    return jax.jit(getattr(onednn, op), static_argnums=2)(a, b, spec)


@native
@pytest.mark.parametrize('spec, how', ALL)
def test_values(spec, how):
    inner = arrange.arrange(spec, 'forward').spec
    if how != 'subsampled':
        assert (inner.ndim > spec.ndim) == (how == 'batch inside')
    folded = arrange.arrange(spec, 'input_grad').spec
    assert (folded.in_features > spec.in_features) == (how == 'folded')
    assert how != 'folded' or all(
        stride == 1 or window % stride
        for stride, window in zip(folded.strides, folded.window, strict=True)
    )
    summed = arrange.arrange(spec, 'filter_grad').spec
    assert how != 'flattened' or (summed.ndim, summed.batch) == (1, 1)
    strided = set(summed.strides) != {1}
    assert not (how == 'subsampled' and strided)
    x, w, dy = operands(spec)
    arguments = {'strides': spec.strides, 'padding': spec.padding, 'dilation': spec.dilation}
    expected = oracle.conv(
        x, w, dy, **arguments, input_dilation=spec.input_dilation, groups=spec.groups
    )
    terms = max(np.prod(spec.kernel_shape[:-1]), np.prod(spec.y_shape[:-1]), spec.out_features * 9)
    for op, wanted in zip(OPS, expected, strict=True):
        assert onednn.supports(spec, op, 'cpu') is None
        assert_close(run(op, x, w, dy, spec), wanted, terms, message=op)


@pytest.mark.parametrize(
    'change, words',
    [
        ({'dtype': 'float64'}, 'not float64'),
        ({'dtype': 'int32'}, 'not int32'),
        ({'input_dilation': (2, 1)}, 'not support input dilation'),
        ({'batch': 0}, 'size 0'),
    ],
)
def test_supports_says_why_not(change, words):
    for op in OPS:
        assert words in onednn.supports(
            FOLDED['rows that no output reads'].replace(**change), op, 'cpu'
        )


@native
def test_int8_without_exact_products_is_refused():
    code = """
        int8 = spec.replace(dtype='int32', operand_dtype='int8')
        print(onednn.supports(int8, 'forward', 'cpu'))
        print(onednn.supports(int8, 'input_grad', 'cpu'))
    """
    forward, input_grad = output(python(code, ONEDNN_MAX_CPU_ISA='AVX2')).splitlines()
    assert 'VNNI' in forward and 'not in input_grad' in input_grad


def python(code, *arguments, **environment):
    """Starts `code` in a separate process."""
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu', **environment}
    command = [sys.executable, '-c', textwrap.dedent(PREFIX) + textwrap.dedent(code), *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def output(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


PREFIX = """
    import os, sys
    import jax, jax.numpy as jnp, numpy as np
    from cnn_jax.ops.kernels.native import onednn
    from cnn_jax.ops.kernels.native import build
    from cnn_jax.ops.spec import ConvSpec
    spec = ConvSpec(4, (6,), 8, (3,), 8, (1,), ((1, 1),), (1,), (1,), 1, 'float32')
    x, w = jnp.ones(spec.x_shape), jnp.ones(spec.kernel_shape)
    forward = jax.jit(lambda x, w: onednn.forward(x, w, spec))
    total = 4 * 8 * (4 * 24 + 2 * 16.0)
"""

# So much work that the call runs on all threads.
LARGE = """
    spec = ConvSpec(4, (256,), 64, (3,), 64, (1,), ((1, 1),), (1,), (1,), 1, 'float32')
    x, w = jnp.ones(spec.x_shape), jnp.ones(spec.kernel_shape)
    total = 4 * 64 * (254 * 192 + 2 * 128.0)
"""


@native
def test_what_the_machine_lacks_is_the_reason(tmp_path):
    (tmp_path / 'bin').mkdir()
    broken = tmp_path / 'bin' / 'c++'
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] || { echo "x: error: no disk" >&2; exit 1; }'
    )
    broken.chmod(0o755)
    (tmp_path / 'file').touch()
    code = """
        folder = sys.argv[1]
        os.environ['CNN_JAX_CACHE'] = folder + '/cache'
        def why(**changes):
            build._load.cache_clear()
            before = dict(os.environ)
            os.environ.update(changes)
            print(onednn.supports(spec, 'forward', 'cpu'))
            os.environ.clear(); os.environ.update(before)
        why(PATH='')
        why(PATH=folder + '/bin:' + os.environ['PATH'])
        why(CNN_JAX_CACHE=folder + '/file')
        build.LIBRARY = 'onednn-absent'
        why()
        onednn.supports(spec.replace(batch=3), 'forward', 'cpu')
    """
    lines = output(python(code, str(tmp_path))).splitlines()
    for line, words in zip(
        lines,
        ('no C++ compiler', 'error: no disk', str(tmp_path / 'file'), 'onednn-absent is not'),
        strict=True,
    ):
        assert words in line
    assert not list((tmp_path / 'cache').glob('*.so'))


@native
def test_many_processes_build_once(tmp_path):
    real = shutil.which('c++') or shutil.which('g++')
    log, wrapper = tmp_path / 'log', tmp_path / 'c++'
    # Each build links once. Without optimisations, compiling takes a third of the time.
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1" != -shared ] || echo built >> {log}\nexec {real} "$@" -O0'
    )
    wrapper.chmod(0o755)
    environment = {
        'CNN_JAX_CACHE': str(tmp_path / 'cache'),
        'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}',
    }
    code = "print(onednn.supports(spec, 'forward', 'cpu'), float(forward(x, w).sum()) == total)"
    processes = [python(code, **environment) for _ in range(3)]
    assert [output(p).split() for p in processes] == [['None', 'True']] * 3
    assert log.read_text().split() == ['built']
    assert len(list((tmp_path / 'cache').glob('*.so'))) == 1


@native
def test_threads_call_at_the_same_time():
    x, w, dy = operands(spec := make_spec((4, 12, 12, 16), (3, 3, 16, 16), 1, 1))
    alone = [np.asarray(run(op, x, w, dy, spec)) for op in OPS]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(run, op, x, w, dy, spec) for _ in range(20) for op in OPS]
        together = [np.asarray(future.result()) for future in futures]
    for i, result in enumerate(together):  # bit for bit, because sums are split in the same way
        np.testing.assert_array_equal(result, alone[i % len(OPS)])


@native
@pytest.mark.parametrize('op', OPS)
@pytest.mark.parametrize('problem', ['mb1_ic1iw300oc1kw200', 'mb1_ic16ih20oc16kh16'])
def test_the_default_is_not_reference_code(problem, op):
    spec = parse(problem).spec()
    assert (tuning.choose(op, spec, 'cpu')[0] == 'onednn') != onednn.is_reference(spec, op)


@native
def test_several_host_devices():
    code = """
        import cnn_jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        mesh = Mesh(np.array(jax.devices()), 'd')
        part = spec.replace(batch=1)
        rng = np.random.default_rng(0)
        x, y = (rng.normal(size=shape).astype('f') for shape in (spec.x_shape, spec.y_shape))
        wanted = {op: getattr(onednn, op)(x, w if op == 'forward' else y, spec)
                  for op in ('forward', 'filter_grad')}
        mapped = jax.pmap(lambda x: onednn.forward(x, w, part))(x[:, None])
        np.testing.assert_allclose(mapped[:, 0], wanted['forward'], 1e-5, 1e-5)
        on = lambda a, *axes: jax.device_put(a, NamedSharding(mesh, P(*axes)))
        for op, a, b in (('forward', on(x, 'd'), on(w)), ('filter_grad', on(x, 'd'), on(y, 'd'))):
            f = jax.jit(lambda a, b: getattr(onednn, op)(a, b, spec))
            np.testing.assert_allclose(f(a, b), wanted[op], 1e-5, 1e-5)
        loss = lambda w, x: jnp.sum(cnn_jax.conv(x, w, padding=1, implementation='onednn') ** 2)
        program = jax.jit(jax.grad(loss)).lower(on(w), on(x, 'd')).compile().as_text()
        linear = lambda w, x: jnp.sum(cnn_jax.conv(x, w, padding=1, implementation='onednn'))
        constant = on(x, 'd')
        with getattr(jax, 'set_mesh', getattr(jax.sharding, 'use_mesh', None))(mesh):
            dw = jax.jit(jax.grad(lambda w: linear(w, constant)))(on(w))
        np.testing.assert_allclose(dw, jax.grad(linear)(w, x), 1e-4, 1e-4)
        print(len(jax.devices()), program.count('all-gather'), program.count('all-reduce(') > 0)
    """
    flags = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
    assert output(python(code, XLA_FLAGS=flags)).split() == ['4', '0', 'True']


@native
@pytest.mark.parametrize('size', ['', LARGE], ids=['one thread', 'all threads'])
def test_a_forked_process_gets_an_error_instead_of_a_deadlock(size):
    code = """
        assert float(forward(x, w).sum()) == total
        child = os.fork()
        if not child:
            try:
                print(onednn.supports(spec, 'forward', 'cpu'))
                forward(x, w).block_until_ready()
            except Exception as error:
                print(error)
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
        assert float(forward(x, w).sum()) == total
    """
    lines = output(python(textwrap.dedent(size) + textwrap.dedent(code))).splitlines()
    assert len(lines) == 2 and all('spawn' in line for line in lines)


@native
@pytest.mark.skipif(not importlib.util.find_spec('torch'), reason='needs the extra compare: torch')
@pytest.mark.parametrize('first', ['torch', 'ours'])
def test_beside_the_onednn_of_pytorch(first):
    code = """
        def ours():
            assert float(forward(x, w).sum()) == total
        def theirs():
            import torch
            y = torch.nn.functional.conv1d(torch.ones(4, 8, 6), torch.ones(8, 8, 3), padding=1)
            assert float(y.sum()) == total
        for run in [theirs, ours, theirs] if sys.argv[1] == 'torch' else [ours, theirs, ours]:
            run()
    """
    output(python(code, first))


@native
def test_the_environment_stays_as_it_was():
    names = set(build.WAITING)
    code = """
        onednn.supports(spec, 'forward', 'cpu')
        print([name for name in sys.argv[1:] if name in os.environ])
    """
    assert output(python(code, *names)).strip() == '[]'


@native
@pytest.mark.parametrize('environment', [{}, {'OMP_NUM_THREADS': '1'}, {'OMP_PROC_BIND': 'true'}])
def test_each_thread_has_a_processor_of_its_own_and_the_caller_keeps_its_freedom(environment):
    code = """
        free = os.sched_getaffinity(0)
        for _ in range(5):
            assert float(forward(x, w).sum()) == total
        bound = [os.sched_getaffinity(int(task)) for task in os.listdir('/proc/self/task')]
        bound = [processors.pop() for processors in bound if len(processors) == 1]
        print(len(free), len(bound), len(set(bound)), os.sched_getaffinity(0) == free)
    """
    code = textwrap.dedent(LARGE) + textwrap.dedent(code)
    processors, bound, different, is_free = output(python(code, **environment)).split()
    if not environment:
        assert int(bound) == int(different) == int(processors) - 1
    if 'OMP_PROC_BIND' not in environment:  # else OpenMP binds all threads, including the first
        assert is_free == 'True' and (not environment or bound == '0')
