"""Tests of the lowering rules: the program of each equation, also in unmodified user code."""

import functools
import math
import os
import subprocess
import sys
import textwrap
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import cnn_jax
from cnn_jax.ops import kernels
from cnn_jax.ops.lowering import internals, rules
from cnn_jax.ops.spec import MAPS

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
rng = np.random.default_rng(0)
X = jnp.asarray(rng.standard_normal((2, 8, 8, 16)), jnp.float32)
W = jnp.asarray(rng.standard_normal((3, 3, 16, 16)), jnp.float32)
IMAGES = jax.ShapeDtypeStruct(X.shape, X.dtype)


def plain(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=LAYOUT)


def conv(implementation=None, **arguments):
    return lambda x, w: cnn_jax.conv(x, w, implementation=implementation, **arguments)


def gradients(f):
    # Returns a new function each time; otherwise jit would reuse a cached program.
    return lambda x, w: (f(x, w), jax.grad(lambda x, w: (f(x, w) ** 2).sum(), (0, 1))(x, w))


def program(f, platform='cpu'):
    """Returns the text of the program passed to XLA, without names."""
    return jax.jit(gradients(f)).trace(IMAGES, W).lower(lowering_platforms=(platform,)).as_text()


def kernels_of(f):
    """Returns every (map, kernel) named in the program of f and its gradients."""
    text = jax.jit(gradients(f)).lower(X, W).as_text(debug_info=True)
    known = ((op, name) for op in MAPS for name in kernels.KERNELS)
    return {pair for pair in known if '_'.join(pair) in text}


# ---------------------------------------------------------------------------- JAX's own program


def test_lax_is_the_equation_that_users_write():
    pads = ((1, 1), (1, 1))
    written = lambda x, w: lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=LAYOUT)  # noqa: E731
    ours, theirs = (str(jax.make_jaxpr(f)(X, W)) for f in (conv('lax'), written))
    assert ours == theirs
    eqn = jax.make_jaxpr(conv('lax'))(X, W).eqns[0]
    assert internals.mark_of(eqn.ctx) is None


@pytest.mark.parametrize('platform', ['cpu', 'cuda', 'rocm', 'tpu'])
def test_lax_is_the_program_that_users_get(platform):
    assert program(conv('lax'), platform) == program(plain, platform)


@pytest.mark.parametrize('platform', ['cuda', 'rocm', 'tpu'])
def test_the_default_on_accelerators_is_the_program_that_users_get(platform):
    assert program(conv(), platform) == program(plain, platform)


PROGRAM = """
    {imports}
    import jax, jax.numpy as jnp
    from flax import linen as nn
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(nn.relu(nn.Conv(8, (3, 3))(x)), (2, 2), (2, 2))
            return nn.ConvTranspose(4, (3, 3), (2, 2))(x).sum()
    net, x = Net(), jnp.ones((2, 8, 8, 3))
    params = net.init(jax.random.key(0), x)
    step = jax.jit(jax.grad(lambda p: net.apply(p, x)))
    for platform in ('cpu', 'cuda', 'tpu'):
        print(step.trace(params).lower(lowering_platforms=(platform,)).as_text())
"""


def run_python(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_changes_no_program():
    alone, beside = (run_python(PROGRAM.format(imports=i)) for i in ('', 'import cnn_jax'))
    assert 'stablehlo.convolution' in alone and alone == beside


def test_programs_without_our_convolutions_may_have_no_devices_or_two_meshes():
    """Checks both cases, which JAX refuses for programs whose lowering asks for the devices."""
    abstract = jax.sharding.AbstractMesh((2,), ('d',), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=NamedSharding(abstract, PartitionSpec('d')))
    w = jax.ShapeDtypeStruct(W.shape, W.dtype, sharding=NamedSharding(abstract, PartitionSpec()))
    traced = jax.jit(lambda x, w: plain(x, w)).trace(x, w)
    assert 'convolution' in traced.lower(lowering_platforms=('tpu',)).as_text()

    one, other = (jax.make_mesh((2,), (name,), devices=jax.devices()[:2]) for name in 'ab')
    x = jax.device_put(X, NamedSharding(one, PartitionSpec('a')))
    run = jax.jit(plain, out_shardings=NamedSharding(other, PartitionSpec('b')))
    np.testing.assert_allclose(run(x, W), plain(X, W), rtol=1e-4, atol=1e-4)


def test_a_mark_is_no_part_of_the_program():
    for platform in ('cpu', 'tpu'):
        assert 'cnn_jax' not in program(conv('scan'), platform)


# ---------------------------------------------------------------------------- marks


def test_each_map_has_the_kernel_that_it_is_given():
    named = {'forward': 'winograd', 'filter_grad': 'im2col', 'input_grad': 'scan'}
    assert kernels_of(conv(named)) == {
        ('forward', 'winograd'),
        ('filter_grad', 'im2col'),
        ('input_grad', 'scan'),
    }
    found = kernels_of(conv({'forward': ('dot', 'shift')}))
    assert ('forward', 'shift') in found and ('input_grad', 'shift') not in found
    with cnn_jax.use_implementation({'filter_grad': 'im2col'}):
        assert ('filter_grad', 'im2col') in kernels_of(conv())
    with cnn_jax.use_implementation(conv=named):
        assert ('input_grad', 'scan') in kernels_of(conv())


def test_the_maps_of_a_transposed_convolution_are_its_own():
    named = {'forward': 'subpixel', 'input_grad': 'im2col', 'filter_grad': 'scan'}
    run = lambda x, w: cnn_jax.conv_transpose(x, w, strides=2, implementation=named)  # noqa: E731
    assert kernels_of(run) == {
        ('input_grad', 'subpixel'),
        ('forward', 'im2col'),
        ('filter_grad', 'scan'),
    }


@pytest.mark.parametrize(
    'implementation, message',
    [
        ({'forwards': 'scan'}, "implementation key must be one of forward, .* 'forwards'"),
        ({'forward': 'scans'}, "unknown implementation 'scans' of conv"),
        ({'forward': 'dot'}, "conv cannot run with implementation 'dot': needs a 1x1 window"),
    ],
)
def test_a_bad_mapping_raises_where_it_is_written(implementation, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(conv(implementation), X, W)


def test_pools_take_no_mapping():
    with pytest.raises(TypeError, match='max_pool does not accept a mapping'):
        cnn_jax.max_pool(X, 2, implementation={'forward': 'shift'})


def test_what_vmap_groups_runs_group_by_group_by_the_named_kernel():
    run = jax.vmap(conv('im2col'))
    xs, ws = jnp.stack([X, 2 - X]), jnp.stack([W, 1 + W])
    text = jax.jit(run).lower(xs, ws).as_text(debug_info=True)
    assert 'forward_im2col' in text and 'stablehlo.convolution' not in text
    np.testing.assert_allclose(run(xs, ws), jax.vmap(plain)(xs, ws), rtol=1e-4, atol=1e-4)


def test_the_wishes_of_equal_equations_are_kept_apart():
    both = lambda x, w: (conv('scan')(x, w), conv('shift')(x, w), plain(x, w))  # noqa: E731
    text = jax.jit(both).lower(X, W).as_text(debug_info=True)
    assert 'forward_scan' in text and 'forward_shift' in text
    assert text.count('stablehlo.convolution') == 1


def test_a_kernel_that_is_for_another_platform_is_refused_when_it_is_lowered():
    traced = jax.jit(conv(('onednn', 'scan'))).trace(X, W)
    assert 'scan' in traced.lower(lowering_platforms=('tpu',)).as_text(debug_info=True)
    if kernels.reason_against('onednn', *plan_of(plain), 'cpu') is None:
        with pytest.raises(ValueError, match="'onednn': it runs on CPU only, not on tpu"):
            jax.jit(conv('onednn')).trace(X, W).lower(lowering_platforms=('tpu',))


def plan_of(f):
    (used,) = cnn_jax.explain(f, X, W)
    return used.op, used.spec


# ---------------------------------------------------------------------------- kernels that fail


@pytest.fixture
def broken(monkeypatch):
    def forward(x, w, spec):
        raise RuntimeError('out of registers')

    module = types.SimpleNamespace(supports=lambda *_: None, forward=forward)
    monkeypatch.setitem(kernels.KERNELS._values, 'broken', module)
    for op in ('conv', 'conv_transpose'):
        names = (*cnn_jax.implementations(op), 'broken')
        monkeypatch.setitem(rules.dispatch._OPERATIONS, op, names)


def test_a_named_kernel_that_fails_is_named(broken):
    with pytest.raises(RuntimeError, match='out of registers') as raised:
        jax.jit(conv('broken')).lower(X, W)
    assert "kernel 'broken' failed on forward of ConvSpec(" in raised.value.__notes__[0]


def test_by_default_the_next_best_is_used_and_said(broken, monkeypatch, caplog):
    ranked = [('broken', 'measured'), ('scan', 'measured'), ('lax', 'no rule applies')]
    monkeypatch.setattr(rules.tuning, 'ranked', lambda *_: iter(ranked))
    text = jax.jit(lambda x, w: cnn_jax.conv(x, w)).lower(X, W).as_text(debug_info=True)
    assert 'forward_scan' in text
    assert "kernel 'broken' failed on forward" in caplog.text
    assert 'the next best is used: out of registers' in caplog.text


# ---------------------------------------------------------------------------- install


def loss(x, w):
    x = jax.nn.relu(plain(x, w))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID').sum()


def is_plain(f=plain):
    """Returns whether XLA's own convolution appears in the program of f."""
    return 'stablehlo.convolution' in jax.jit(lambda x, w: f(x, w) + 0).lower(X, W).as_text()


@pytest.fixture
def chosen(monkeypatch):
    """Makes 'scan' the kernel measured to be fastest."""
    monkeypatch.setattr(rules.tuning, 'ranked', lambda *_: iter([('scan', ''), ('lax', '')]))


def test_installed_every_convolution_has_the_measured_kernel(chosen):
    assert is_plain()
    with cnn_jax.installed():
        assert kernels_of(plain) == {(op, 'scan') for op in MAPS}
        with cnn_jax.installed(False):
            assert is_plain()
    assert is_plain()


def test_installed_the_gradient_of_jaxs_max_pool_is_ours():
    def text():
        return jax.jit(jax.grad(lambda x, w: loss(x, w) + 0)).lower(X, W).as_text()

    assert 'select_and_scatter' in text()
    with cnn_jax.installed():
        assert 'select_and_scatter' not in text()


def of_every_axis(ndim, axes, values):
    """Returns `values` at `axes`, and 1 at the other axes."""
    by_axis = dict(zip(axes, values, strict=True))
    return tuple(by_axis.get(i, 1) for i in range(ndim))


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('window, strides, axes', [
    ((3, 2), (2, 2), (1, 2)), ((2, 2), (2, 2), (2, 3)), ((3,), (1,), (2,)),
    ((2, 2, 2), (2, 1, 2), (1, 2, 3)),
])  # fmt: skip
def test_pool_gradients_of_any_layout(window, strides, axes, padding):
    shape = tuple(7 if i in axes else 3 for i in range(len(axes) + 2))
    x = jnp.asarray(np.random.default_rng(1).integers(0, 5, shape), jnp.float32)  # with ties
    full = functools.partial(of_every_axis, x.ndim, axes)

    def gradient(x):
        pool = lambda x: lax.reduce_window(  # noqa: E731
            x, -jnp.inf, lax.max, full(window), full(strides), padding
        )
        y, vjp = jax.vjp(pool, x)
        return vjp(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape))[0]

    expected = jax.jit(lambda x: gradient(x))(x)
    with cnn_jax.installed():
        np.testing.assert_array_equal(jax.jit(gradient)(x), expected)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('window, strides, axes, padding', [
    ((3, 3), (2, 2), (1, 2), 'SAME'), ((3, 2), (1, 2), (1, 2), 'VALID'),
    ((3, 3), (1, 2), (2, 3), 'SAME'), ((2,), (2,), (1,), 'VALID'), ((2, 3), (2, 3), (1, 2), 'SAME'),
    ((2, 2), (3, 2), (1, 2), 'VALID'), ((2, 2), (2, 2), (2, 3), 'VALID'),
    ((7, 7), (7, 7), (1, 2), 'VALID'),
])  # fmt: skip
def test_pools_of_any_layout(window, strides, axes, padding, dtype):
    shape = tuple(7 if i in axes else 3 for i in range(4))
    x = jnp.asarray(np.random.default_rng(1).integers(-9, 9, shape), dtype)  # sums are exact
    full = functools.partial(of_every_axis, x.ndim, axes)

    def pools(x):
        shape = full(window), full(strides), padding
        low, zero = np.array(-np.inf, dtype), np.array(0, dtype)
        maximum = lax.reduce_window(x, low, lax.max, *shape)
        return maximum, lax.reduce_window(x, zero, lax.add, *shape)

    expected = jax.jit(lambda x: pools(x))(x)
    with cnn_jax.installed():
        text = jax.jit(pools).lower(x).as_text()
        np.testing.assert_array_equal(jax.jit(pools)(x), expected)
    overlap = any(s < k for s, k in zip(strides, window, strict=True))
    in_bfloat16, is_last = dtype == jnp.bfloat16, axes in ((1,), (1, 2))
    fuses = is_last and not overlap and math.prod(window) <= 32
    of_any_kind = overlap and (in_bfloat16 or is_last)
    ours = [of_any_kind or fuses, of_any_kind or in_bfloat16]  # the maximum, the sum
    assert text.count('reduce_window') == 2 - sum(ours)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('bias_shape, shape', [
    ((16,), (4, 64, 64, 16)), ((16, 1, 1), (4, 16, 64, 64)), ((3, 1, 1, 16), (3, 128, 128, 16)),
])  # fmt: skip
def test_the_gradient_of_a_bias_is_summed_in_float32(bias_shape, shape, dtype):
    gradient = jax.grad(lambda b, y: (y + b).astype(jnp.float32).sum())
    args = jnp.zeros(bias_shape, dtype), jnp.zeros(shape, dtype)
    with cnn_jax.installed():
        found = jax.jit(gradient)(*args)
    np.testing.assert_array_equal(found, np.full(bias_shape, 1 << 14, dtype))


def test_a_compiled_function_is_compiled_anew(chosen):
    step = jax.jit(plain)
    before = step(X, W)
    with cnn_jax.installed():
        assert 'convolution' not in step.lower(X, W).as_text()
        np.testing.assert_allclose(step(X, W), before, rtol=1e-4, atol=1e-4)
    assert 'convolution' in step.lower(X, W).as_text()


def test_install_is_for_all_threads_and_a_context_for_its_own(chosen):
    def elsewhere():
        found = []
        thread = threading.Thread(target=lambda: found.append(is_plain()))
        thread.start()
        thread.join()
        return found[0]

    with cnn_jax.installed():
        assert not is_plain() and elsewhere()
    cnn_jax.install()
    try:
        assert not is_plain() and not elsewhere()
    finally:
        cnn_jax.uninstall()
    assert is_plain() and elsewhere()


def test_lax_wins_and_use_implementation_speaks_where_it_is_installed(chosen):
    with cnn_jax.installed():
        assert is_plain(conv('lax')) and not is_plain(conv('shift'))
        with cnn_jax.use_implementation('im2col'):
            assert kernels_of(plain) == {(op, 'im2col') for op in MAPS}
    with cnn_jax.use_implementation('im2col'):
        assert is_plain()


def test_a_kernel_made_of_convolutions_is_not_replaced(monkeypatch):
    monkeypatch.setattr(rules.tuning, 'ranked', lambda *_: iter([('interior', ''), ('lax', '')]))
    transposed = lambda x, w: lax.conv_transpose(x, w, (2, 2), 'SAME')  # noqa: E731
    expected = jax.jit(transposed)(X, W)
    with cnn_jax.installed():
        assert is_plain(transposed)
        found = jax.jit(transposed)(X, W)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_explain_tells_of_programs_that_nobody_edited(chosen):
    used = cnn_jax.explain(jax.grad(loss, (0, 1)), X, W)
    assert [u.op for u in used] == ['forward', 'filter_grad', 'input_grad']
    assert {(u.implementation, u.why) for u in used} == {('lax', rules.NOT_OURS)}
    with cnn_jax.installed():
        used = cnn_jax.explain(jax.grad(loss, (0, 1)), X, W)
        assert {u.implementation for u in used} == {'scan'}


PROGRAM_FILE = """
    import sys
    import jax, jax.numpy as jnp
    from jax import lax
    f = jax.jit(lambda x, w: lax.conv_general_dilated(x, w, (1, 1), 'SAME'))
    text = f.lower(jnp.ones((2, 32, 8, 8)), jnp.ones((32, 32, 1, 1))).as_text()
    print(__name__, 'convolution' in text, *sys.argv[1:])
"""


@pytest.mark.parametrize('as_module', [False, True])
def test_run_installs_for_a_program_that_nobody_edits(tmp_path, as_module):
    (tmp_path / 'script.py').write_text(textwrap.dedent(PROGRAM_FILE))
    name = ['-m', 'script'] if as_module else ['script.py']
    for prefix, is_plain in ((['-m', 'cnn_jax.run'], 'False'), ([], 'True')):
        done = subprocess.run(
            [sys.executable, *prefix, *name, '--flag', 'word'],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.stdout.split() == ['__main__', is_plain, '--flag', 'word'], done.stderr


def test_run_says_what_is_wrong_with_its_call(tmp_path):
    for arguments, code, message in (
        (['nowhere.py'], 1, 'there is no file nowhere.py'),
        (['-m'], 1, '-m needs the name of a module'),
        ([], 2, 'instead of: python train.py'),
        (['--help'], 0, 'instead of: python train.py'),
    ):
        done = subprocess.run(
            [sys.executable, '-m', 'cnn_jax.run', *arguments], capture_output=True, text=True
        )
        assert (done.returncode, message in done.stdout + done.stderr) == (code, True), done


# ---------------------------------------------------------------------------- saved programs


def test_an_export_holds_nothing_that_needs_this_package():
    saved = export.export(jax.jit(gradients(conv())), platforms=('cpu', 'cuda', 'tpu'))(X, W)
    text = str(saved.mlir_module())
    assert 'cnn_jax_onednn' not in text and 'frontend_attributes' not in text
    for a, b in zip(
        jax.tree.leaves(saved.call(X, W)), jax.tree.leaves(gradients(plain)(X, W)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_products_of_16_bits_are_widened_only_for_cpus():
    x, w = jnp.ones((2, 4, 4, 16), jnp.bfloat16), jnp.ones((1, 1, 16, 8), jnp.bfloat16)
    traced = jax.jit(lambda x, w: cnn_jax.conv(x, w, implementation='dot')).trace(x, w)
    for platform, dtype in (('cpu', 'f32'), ('tpu', 'bf16'), ('cuda', 'bf16')):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert f'(tensor<32x16x{dtype}>, tensor<16x8x{dtype}>)' in text


def test_an_export_follows_the_rules_of_each_platform():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 16)).astype(np.float32)
    w = np.random.default_rng(1).normal(size=(3, 3, 2, 16)).astype(np.float32)
    layout = ('NHWC', 'HWIO', 'NHWC')
    run = lambda x, w: lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 1), 'SAME', dimension_numbers=layout, feature_group_count=8
    )
    expected = run(x, w)
    with cnn_jax.installed():
        saved = export.export(jax.jit(run), platforms=('cpu', 'cuda', 'tpu'))(x, w)
        assert 'feature_group_count = 1 ' in saved.mlir_module()  # the groups merged, for TPUs
        assert 'feature_group_count = 8 ' in saved.mlir_module()
    np.testing.assert_allclose(saved.call(x, w), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------- missing JAX features

MISSING = """
    import sys
    {without}
    import jax.numpy as jnp
    import cnn_jax
    x, w = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    print(float(cnn_jax.conv(x, w).sum()), float(cnn_jax.conv(x, w, implementation='lax').sum()))
    for f in (lambda: cnn_jax.conv(x, w, implementation='scan'), cnn_jax.install):
        try:
            f()
        except (ValueError, RuntimeError) as error:
            print(error)
    from cnn_jax import doctor
    print(doctor.lowerings())
"""


@pytest.mark.parametrize(
    'without',
    [
        "sys.modules['jax.experimental.xla_metadata'] = None",
        "sys.modules['jax.experimental.custom_partitioning'] = None",
    ],
)
def test_where_jax_lacks_what_it_takes_everything_runs_by_xla(without):
    values, refused, not_installed, doctor = run_python(
        MISSING.format(without=without)
    ).splitlines()
    assert len(set(values.split())) == 1
    assert refused.startswith("conv cannot run with implementation 'scan': jax ")
    assert 'lacks internals that lowering the kernels needs' in refused
    assert not_installed.startswith('cannot install: jax')
    assert doctor.startswith('OFF, XLA computes everything: jax')


SAVE = """
    import pickle, sys
    import jax, jax.numpy as jnp, numpy as np
    import cnn_jax
    from jax import export
    from jax.experimental import serialize_executable
    native = jax.jit(lambda x, w: cnn_jax.conv(x, w, implementation='onednn'))
    x, w = np.ones((2, 8, 8, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)
    executable = serialize_executable.serialize(native.lower(x, w).compile())
    checks = [export.DisabledSafetyCheck.custom_call('cnn_jax_onednn')]
    exported = export.export(native, disabled_checks=checks)(x, w).serialize()
    pickle.dump((executable, exported, x, w), open(sys.argv[1], 'wb'))
"""

LOAD = """
    import pickle, sys
    import cnn_jax
    from jax import export
    from jax.experimental import serialize_executable
    executable, exported, x, w = pickle.load(open(sys.argv[1], 'rb'))
    run = serialize_executable.deserialize_and_load(*executable)
    for y in (run(x, w), export.deserialize(exported).call(x, w)):
        print(float(y[0, 4, 4, 0]))
"""


def test_saved_native_programs_run_in_a_process_that_imports_the_package(tmp_path):
    if reason := kernels.reason_against('onednn', *plan_of(plain), 'cpu'):
        pytest.skip(f'no native kernel here: {reason}')
    file = str(tmp_path / 'saved')
    run_python(SAVE, file)
    assert run_python(LOAD, file).split() == [f'{9 * 16}.0'] * 2
