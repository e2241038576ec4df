"""Runs every operation and kernel under every JAX transform.

    python -m tests.ops.transforms     # prints the table of docs/transforms.md, and every refusal
                                       # on stderr

A cell is either right or refused. It is right if value and gradient equal those of the reference:
`jax.lax` for convolutions, the plain call for the rest. A refusal is an error of one clear line.
"""

import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.experimental import jet
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import cnn_jax
from tests import compilation
from tests.compilation import x64

DEVICES = 2


class Operation(NamedTuple):
    """An operation; `run(implementation)` is a function of x and w (for pools, a scale of x)."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    run: Callable[[Any], Callable]
    reference: Callable | None  # None: the plain call by the default kernel
    op: str  # the operation that has the kernels; '' if there is no choice


def _conv(**arguments):
    return lambda name: lambda x, w: cnn_jax.conv(x, w, implementation=name, **arguments)


def _lax(strides=1, groups=1):
    def run(x, w):
        n = w.ndim - 2
        space = 'DHW'[3 - n :]
        layout = (f'N{space}C', f'{space}IO', f'N{space}C')
        return lax.conv_general_dilated(
            x, w, (strides,) * n, 'SAME', dimension_numbers=layout, feature_group_count=groups
        )

    return run


def _transposed(name):
    return lambda x, w: cnn_jax.conv_transpose(
        x, w, strides=2, convention='lax', implementation=name
    )


def _pool(function, *arguments, **keywords):
    return lambda name: (
        lambda x, w: function(
            x * w, *arguments, **keywords, **({} if name is None else {'implementation': name})
        )
    )


def _unpooled(x):
    y, indices = cnn_jax.max_pool(x, (2, 2), return_indices=True)
    return cnn_jax.max_unpool(y, indices, (2, 2))


IMAGES = (4, 6, 6, 4)
OPERATIONS = {
    'conv 1-D': Operation((4, 8, 4), (3, 4, 6), _conv(), _lax(), 'conv'),
    'conv 2-D': Operation(IMAGES, (3, 3, 4, 6), _conv(), _lax(), 'conv'),
    'conv 3-D': Operation((4, 4, 3, 3, 2), (3, 3, 3, 2, 4), _conv(), _lax(), 'conv'),
    'conv 1x1': Operation(IMAGES, (1, 1, 4, 6), _conv(), _lax(), 'conv'),
    'conv, groups': Operation(IMAGES, (3, 3, 2, 6), _conv(groups=2), _lax(1, 2), 'conv'),
    'conv, strides': Operation(IMAGES, (3, 3, 4, 6), _conv(strides=2), _lax(2), 'conv'),
    'conv_transpose': Operation(
        IMAGES,
        (3, 3, 4, 6),
        _transposed,
        lambda x, w: lax.conv_transpose(x, w, (2, 2), 'SAME'),
        'conv_transpose',
    ),
    'max_pool': Operation(IMAGES, (), _pool(cnn_jax.max_pool, (2, 2)), None, 'max_pool'),
    'max_pool, overlapping': Operation(
        IMAGES, (), _pool(cnn_jax.max_pool, (3, 3), 2, 1), None, 'max_pool'
    ),
    'avg_pool': Operation(IMAGES, (), _pool(cnn_jax.avg_pool, (2, 2)), None, 'avg_pool'),
    'lp_pool': Operation(IMAGES, (), _pool(cnn_jax.lp_pool, 3, (2, 2)), None, 'lp_pool'),
    'adaptive_max_pool': Operation(IMAGES, (), _pool(cnn_jax.adaptive_max_pool, (4, 3)), None, ''),
    'adaptive_avg_pool': Operation(IMAGES, (), _pool(cnn_jax.adaptive_avg_pool, (4, 3)), None, ''),
    'global_max_pool': Operation(IMAGES, (), _pool(cnn_jax.global_max_pool), None, ''),
    'global_avg_pool': Operation(IMAGES, (), _pool(cnn_jax.global_avg_pool), None, ''),
    'max_unpool': Operation(IMAGES, (), lambda name: lambda x, w: _unpooled(x * w), None, ''),
    'unfold': Operation(IMAGES, (), _pool(cnn_jax.unfold, (2, 2)), None, ''),
    'fold': Operation((4, 5, 5, 8), (), _pool(cnn_jax.fold, (6, 6), (2, 2)), None, ''),
    'pad, circular': Operation(IMAGES, (), _pool(cnn_jax.pad, (1, 2), 'circular'), None, ''),
}  # fmt: skip


def kernels(operation: Operation) -> tuple[str | None, ...]:
    """Returns None and the names of the kernels that support the plain call."""
    names = []
    for name in cnn_jax.implementations(operation.op) if operation.op else ():
        shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (operation.x, operation.w))
        try:
            jax.jit(operation.run(name)).lower(*shapes)
            names.append(name)
        except ValueError:
            pass
    return (None, *names)


def operands(operation: Operation) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(operation.x), jnp.float32)
    w = rng.standard_normal(operation.w) if operation.w else np.float32(1.25)
    return x, jnp.asarray(w, jnp.float32)


def loss(f):
    return lambda x, w: (f(x, w) ** 2).sum()


def both(f):
    """Returns a function that computes the value and both gradients."""

    def run(x, w):
        return f(x, w), jax.grad(loss(f), (0, 1))(x, w)

    return run


TRANSFORMS: dict[str, Callable] = {}


def transform(function):
    TRANSFORMS[function.__name__.strip('_').replace('_', ' ')] = function
    return function


@transform
def eager(f, x, w):
    return both(f)(x, w)


@transform
def jit(f, x, w):
    return jax.jit(both(f))(x, w)


@transform
def constants(f, x, w):
    return jax.jit(lambda: both(f)(x, w))()


@transform
def disable_jit(f, x, w):
    with jax.disable_jit():
        return both(f)(x, w)


@transform
def jvp(f, x, w):
    return jax.jit(lambda x, w: jax.jvp(f, (x, w), (w.sum() * x, 2 * w)))(x, w)


@transform
def second_order(f, x, w):
    direction = jnp.cos(jnp.arange(w.size)).reshape(w.shape)
    gradient = lambda w: jax.grad(loss(f), (0, 1))(x, w)  # noqa: E731
    forward = jax.jvp(gradient, (w,), (direction,))
    reverse = jax.grad(lambda x, w: sum((g**2).sum() for g in jax.grad(loss(f), (0, 1))(x, w)))
    return forward, reverse(x, w)


@transform
def jet_(f, x, w):
    return jet.jet(lambda x: f(x, w), (x,), ((jnp.ones_like(x), jnp.zeros_like(x)),))


@transform
def vmap_x(f, x, w):
    return jax.jit(jax.vmap(both(f), (0, None)))(jnp.stack([x, 2 - x]), w)


@transform
def vmap_w(f, x, w):
    return jax.jit(jax.vmap(both(f), (None, 0)))(x, jnp.stack([w, 2 - w]))


@transform
def vmap_both(f, x, w):
    return jax.jit(jax.vmap(both(f)))(jnp.stack([x, 2 - x]), jnp.stack([w, 2 - w]))


@transform
def gradient_of_vmap(f, x, w):
    # The mapped axis is not the first, and its elements have weights, so that a derivative that
    # moves it is noticed.
    def weighted(xs, w):
        y = jax.vmap(f, (-2, None))(xs, w)
        return y * jnp.asarray([1, 2], y.dtype).reshape(-1, *[1] * (y.ndim - 1))

    return jax.jit(both(weighted))(jnp.stack([x, 2 - x], -2), w)


@transform
def vmap_of_size_0(f, x, w):
    return jax.vmap(both(f), (0, None))(x[None][:0], w)


@transform
def scan(f, x, w):
    total = lambda w: lax.scan(lambda c, x: (c + loss(f)(x, w), None), 0.0, x[:, None])[0]  # noqa: E731
    return jax.jit(jax.value_and_grad(total))(w)


@transform
def remat(f, x, w):
    policies = jax.checkpoint_policies
    found = []
    for policy in (None, policies.dots_saveable, policies.everything_saveable):
        again = jax.checkpoint(loss(f), policy=policy)
        found.append(jax.jit(jax.value_and_grad(again, (0, 1)))(x, w))
    return found


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((DEVICES,), ('d',), axis_types=(kind,), devices=jax.devices()[:DEVICES])


def _shard_map(f, x, w, x_spec, w_spec, check_vma):
    """Computes the loss, summed over devices, and its gradients."""

    def local(x, w):
        return lax.psum(loss(f)(x, w), 'd')

    run = jax.shard_map(
        local, mesh=mesh(), in_specs=(x_spec, w_spec), out_specs=P(), check_vma=check_vma
    )
    return jax.jit(jax.value_and_grad(run, (0, 1)))(x, w)


@transform
def shard_map_over_x(f, x, w):
    return _shard_map(f, x, w, P('d'), P(), True), _shard_map(f, x, w, P('d'), P(), False)


@transform
def shard_map_over_w(f, x, w):
    spec = P(*[None] * (w.ndim - 1), 'd') if w.ndim else P()
    return _shard_map(f, x, w, P(), spec, True), _shard_map(f, x, w, P(), spec, False)


@transform
def gradient_inside_of_shard_map(f, x, w):
    gradient = jax.grad(lambda x, w: lax.psum(loss(f)(x, w), 'd'), 1)
    run = jax.shard_map(gradient, mesh=mesh(), in_specs=(P('d'), P()), out_specs=P())
    return jax.jit(run)(x, w)


@transform
def replicated_x_and_varying_w(f, x, w):
    inner = lambda x, w: lax.psum(loss(f)(x, w[0]), 'd')  # noqa: E731
    run = jax.shard_map(jax.grad(inner), mesh=mesh(), in_specs=(P(), P('d')), out_specs=P())
    return jax.jit(run)(x, jnp.stack([w, 10 * w]))


@transform
def pmap(f, x, w):
    return jax.pmap(both(f), in_axes=(0, None), devices=jax.devices()[:2])(jnp.stack([x, -x]), w)


def _placed(f, x, w, kind, x_spec, w_spec):
    where = mesh(kind)
    x, w = (jax.device_put(a, NamedSharding(where, spec)) for a, spec in ((x, x_spec), (w, w_spec)))
    with jax.set_mesh(where) if hasattr(jax, 'set_mesh') else jax.sharding.use_mesh(where):
        return jax.jit(both(f))(x, w)


@transform
def auto_mesh_over_batch(f, x, w):
    return _placed(f, x, w, AxisType.Auto, P('d'), P())


@transform
def auto_mesh_over_space(f, x, w):
    return _placed(f, x, w, AxisType.Auto, P(None, 'd') if x.shape[1] % 2 == 0 else P(), P())


@transform
def auto_mesh_over_features(f, x, w):
    return _placed(f, x, w, AxisType.Auto, P(*[None] * (x.ndim - 1), 'd'), P())


@transform
def explicit_mesh_over_batch(f, x, w):
    return _placed(f, x, w, AxisType.Explicit, P('d'), P())


@transform
def explicit_mesh_over_space(f, x, w):
    return _placed(f, x, w, AxisType.Explicit, P(None, 'd'), P())


@transform
def explicit_mesh_over_features(f, x, w):
    return _placed(f, x, w, AxisType.Explicit, P(*[None] * (x.ndim - 1), 'd'), P())


@transform
def strict_promotion(f, x, w):
    with jax.numpy_rank_promotion('raise'), jax.numpy_dtype_promotion('strict'):
        if w.ndim:
            return jax.jit(both(f))(x, w)
        w = jnp.broadcast_to(w, x.shape)
        return jax.jit(both(f))(x, w)


@transform
def debug_nans(f, x, w):
    with jax.debug_nans(True):
        return both(f)(x, w)


@transform
def transfer_guard(f, x, w):
    with jax.transfer_guard('disallow'):
        return jax.jit(both(f))(x, w)


@transform
def x64_(f, x, w):
    with x64():
        return jax.jit(both(f))(x, w)


@transform
def donated_arguments(f, x, w):
    return jax.jit(both(f), donate_argnums=(0, 1))(x + 0, w + 0)


def _exported(f, x, w, *shape):
    specs = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (shape, w.shape))
    saved = export.export(jax.jit(f), platforms=['cpu', 'tpu', 'cuda'])(*specs)
    return export.deserialize(saved.serialize()).call(x, w)


@transform
def export_(f, x, w):
    return _exported(both(f), x, w, *x.shape)


@transform
def export_of_a_symbolic_batch(f, x, w):
    (batch,) = export.symbolic_shape('b')
    return _exported(both(f), x, w, batch, *x.shape[1:])


@transform
def export_of_symbolic_space(f, x, w):
    batch, n = export.symbolic_shape('b, n')
    return _exported(f, x, w, batch, n, *x.shape[2:])


def check(operation: Operation, name: str | None, what: str) -> str:
    """Returns 'right', or 'refused: ' and the first line of the error.

    Raises:
        AssertionError: the result is wrong.
    """
    x, w = operands(operation)
    run, apply = operation.run(name), TRANSFORMS[what]
    wanted = reference(what, operation)
    if isinstance(wanted, Exception) and operation.reference:
        return f'refused by JAX: {first_line(wanted)}'
    try:
        found = apply(run, x, w)
    except Exception as error:
        return f'refused: {first_line(error)}'
    assert_same(found, wanted)
    return 'right'


def first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'


@functools.cache
def reference(what: str, operation: Operation) -> Any:
    x, w = operands(operation)
    if operation.reference:
        try:
            return TRANSFORMS[what](operation.reference, x, w)
        except Exception as error:
            return error
    return plain(what, operation.run(None), x, w)


# The result without the transform, for operations that JAX does not provide.
def plain(what: str, f: Callable, x: jax.Array, w: jax.Array) -> Any:
    f = jax.jit(f)
    if what in ('vmap x', 'vmap w', 'vmap both', 'pmap'):
        xs = (
            [x, 2 - x] if what in ('vmap x', 'vmap both') else [x, -x] if what == 'pmap' else [x, x]
        )
        ws = [w, 2 - w] if what in ('vmap w', 'vmap both') else [w, w]
        results = [both(f)(*pair) for pair in zip(xs, ws, strict=True)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
    if what == 'gradient of vmap':
        (y, (dx, dw)), (other, (dx2, dw2)) = both(f)(x, w), both(f)(2 - x, w)
        return jnp.stack([y, 2 * other]), (jnp.stack([dx, 4 * dx2], -2), dw + 4 * dw2)
    if what == 'vmap of size 0':
        return jax.tree.map(lambda a: a[None][:0], both(f)(x, w))
    if what == 'strict promotion':
        return both(f)(x, jnp.broadcast_to(w, x.shape))
    if what == 'export of symbolic space':
        return f(x, w)
    if what in ('shard map over x', 'shard map over w'):
        # over w: each device has the same operands and adds the same loss
        factor = 1 if what == 'shard map over x' else DEVICES
        value, grads = jax.value_and_grad(lambda x, w: factor * loss(f)(x, w), (0, 1))(x, w)
        return (value, grads), (value, grads)
    if what == 'gradient inside of shard map':
        return jax.grad(loss(f), 1)(x, w)
    if what == 'replicated x and varying w':
        return jax.tree.map(jnp.add, *(jax.grad(loss(f))(x, v) for v in (w, 10 * w)))
    if what in ('jvp', 'second order', 'scan', 'remat', 'jet'):
        return TRANSFORMS[what](f, x, w) if what != 'jet' else _taylor(f, x, w)
    return both(f)(x, w)


def _taylor(f, x, w):
    """Returns f(x + t) and its first two derivatives in t, at t = 0."""
    along = lambda t: f(x + t, w)  # noqa: E731
    first = lambda t: jax.jvp(along, (t,), (1.0,))[1]  # noqa: E731
    return along(0.0), [first(0.0), jax.jvp(first, (0.0,), (1.0,))[1]]


def assert_same(found: Any, wanted: Any) -> None:
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        assert a.shape == b.shape
        if a.size:
            scale = max(np.abs(b).max(), 1e-3)
            assert np.abs(a - b).max() <= 2e-5 * scale, np.abs(a - b).max() / scale


GROUPS = {
    'convolutions, default': lambda title, name: title.startswith('conv') and name is None,
    'convolutions, named kernels': lambda title, name: title.startswith('conv') and bool(name),
    'pools and patches': lambda title, name: not title.startswith('conv'),
}


def table(found: dict[tuple[str, str, str | None], str]) -> str:
    """Returns a Markdown table of how many cells (transform, operation, kernel) are right."""
    lines = ['| | ' + ' | '.join(GROUPS) + ' |', '|---' + '|---' * len(GROUPS) + '|']
    for what in TRANSFORMS:
        cells = []
        for belongs in GROUPS.values():
            some = [v for key, v in found.items() if key[0] == what and belongs(*key[1:])]
            right = some.count('right')
            cells.append(f'all {right}' if right == len(some) else f'{right} of {len(some)}')
        lines.append(f'| {what} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main() -> int:
    jax.config.update('jax_num_cpu_devices', DEVICES)
    compilation.set_up()
    found = {}
    for (title, operation), what in itertools.product(OPERATIONS.items(), TRANSFORMS):
        for name in kernels(operation):
            try:
                value = check(operation, name, what)
            except AssertionError as error:
                value = f'WRONG {error}'
            found[what, title, name] = value
            if value != 'right':
                print(f'{what}: {title} by {name}: {value}', file=sys.stderr, flush=True)
    print(table(found))
    return int(any(value.startswith('WRONG') for value in found.values()))


if __name__ == '__main__':
    sys.exit(main())
