"""From a case to a Python program that shows its fault with JAX and NumPy alone."""

import numpy as np

from . import dtypes, expected, window
from .cases import MESH, Case, operand_dtype, roles, stored


def source(case: Case, index: int = 0, x64: bool | None = None) -> str:
    """Returns a program that prints result `index` of a case, what is right, and the error.

    Args:
        case: the case; its operation must be one of JAX's own.
        index: which of its results.
        x64: whether to allow 64-bit dtypes; None means where the case has them.
    """
    names = [operand_dtype(case, role) for role in roles(case)]
    arrays = [f'a{i}' for i in range(len(names))]
    kept = [a for a, o in zip(arrays, case['operands'], strict=True) if not o['constant']]
    lines = ['import jax', 'import numpy as np', 'from jax import lax', '']
    wide = set(dtypes.WIDE) & {*names, case['out'] or ''}
    if wide if x64 is None else x64:
        lines.append("jax.config.update('jax_enable_x64', True)")
    if 'shard' in case:
        shape, axes = tuple(MESH.values()), tuple(MESH)
        lines += [
            f"jax.config.update('jax_num_cpu_devices', {int(np.prod(shape))})",
            f'mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape{shape}, {axes})',
            'P = jax.sharding.PartitionSpec',
            'lay = lambda x, p: lax.with_sharding_constraint('
            'x, jax.sharding.NamedSharding(mesh, p))',
        ]
    for name, x in zip(arrays, stored(case), strict=True):
        lines.append(f'{name} = {_array(x)}')
    lines += [f'op = lambda {_own(case)}: {_operation(case)}', *_transformed(case, names)]
    lines += ['', f'def f({", ".join(arrays)}):']
    for i, operand in enumerate(case['operands']):
        lines += [f'    {step}' for step in _made(case, i, operand, names[i])]
    lines += [f'    y = whole({", ".join(arrays)})[{index}]']
    lines += [f'    {step}' for step in _after(case)] + ['    return y', '']
    call = f'jax.jit(lambda {", ".join(kept)}: f({", ".join(arrays)}))({", ".join(kept)})'
    wanted = expected.results(case)[index]
    lines += [
        f'got = np.asarray({call})',
        f'wanted = {_numbers(wanted.value)}',
        "print('got', got.tolist())",
        "print('wanted', wanted.tolist())",
        'error = np.where(got == wanted, 0, got.astype(wanted.dtype) - wanted)',
        "print('largest error', np.abs(error).max())",
    ]
    return '\n'.join(lines) + '\n'


def _array(x: np.ndarray) -> str:
    return f'{_numbers(dtypes.exactly(x))}.astype({_dtype(x.dtype.name)})'


def _numbers(x):
    text = str(x.tolist()).replace('inf', 'np.inf').replace('nan', 'np.nan')
    return f'np.array({text}).reshape{x.shape}' if 0 in x.shape else f'np.array({text})'


def _dtype(name: str) -> str:
    return f'jax.numpy.{name}' if 'bfloat' in name or 'float8' in name else f'np.{name}'


def _own(case):
    return 'x' if case['op'] == 'window' else 'x, w'


def _operation(case):
    spec = case['spec']
    out = f', preferred_element_type={_dtype(case["out"])}' if case['out'] else ''
    if case['op'] == 'window':
        low, high = window.limits(dtypes.numpy_dtype(case['dtype']))
        start = {'sum': 0, 'max': low, 'min': high}[spec['reducer']]
        combine = {'sum': 'add'}.get(spec['reducer'], spec['reducer'])
        return (
            f'lax.reduce_window(x, np.array({str(start).replace("inf", "np.inf")}, x.dtype), '
            f'lax.{combine}, {spec["window"]}, {spec["strides"]}, {spec["padding"]}, '
            f'{spec["holes"]}, {spec["dilation"]})'
        )
    from . import conv, dot

    given = conv.arguments(spec) if case['op'] == 'conv' else {}
    if given:
        numbers = given.pop('dimension_numbers')
        given = {k: v for k, v in given.items() if v is not None and v != 1 and not _is_ones(k, v)}
        more = ', '.join(f'{k}={v!r}' for k, v in given.items())
        return (
            f'lax.conv_general_dilated(x, w, {more}, dimension_numbers='
            f'lax.ConvDimensionNumbers{tuple(tuple(p) for p in numbers)}{out})'
        )
    y = f'lax.dot_general(x, w, {dot.numbers(spec)!r}, precision={spec["precision"]!r}{out})'
    order = dot.order(spec)
    return y if order == sorted(order) else f'lax.transpose({y}, {order})'


def _is_ones(key, value):
    return key.endswith('dilation') and set(value) <= {1}


def _transformed(case, names):
    """Returns lines that define `whole`, of all operands."""
    own, count = _own(case), len(_own(case).split(', '))
    run = 'jax.checkpoint(op)' if case['derivative'] == 'remat' else 'op'
    derived = {
        'value': lambda f: f'lambda {own}: ({f}({own}),)',
        'jvp': lambda f: f'lambda *a: jax.jvp({f}, a[:{count}], a[{count}:])',
    }
    pull = lambda f: (  # noqa: E731
        f'lambda {own}, ct: (lambda y, pull: (y, *pull(ct)))(*jax.vjp({f}, {own}))'
    )
    derive = derived.get(case['derivative'], pull)
    mapped = [o['mapped'] for o in case['operands']]
    if case['loop'] == 'none':
        return [_restored(case, names, derive(run), 'whole')]
    if case['derivative_first']:
        return [_restored(case, names, derive(run), 'inner'), *_loop(case, 'inner', mapped)]
    first = f'inner = lambda {own}: (op({own}),)'
    lines = [first, *_loop(case, 'inner', mapped[:count], 'looped')]
    lines.append(f'one = lambda {own}: looped({own})[0]')
    run = 'jax.checkpoint(one)' if case['derivative'] == 'remat' else 'one'
    return [*lines, _restored(case, names, derive(run), 'whole')]


def _restored(case, names, function, name):
    if not any(o['words'] for o in case['operands']):
        return f'{name} = {function}'
    arrays = [f'b{i}' for i in range(len(names))]
    back = [
        f'lax.bitcast_convert_type({a}, {_dtype(n)})' if o['words'] else a
        for a, n, o in zip(arrays, names, case['operands'], strict=True)
    ]
    return f'{name} = lambda {", ".join(arrays)}: ({function})({", ".join(back)})'


def _loop(case, f, mapped, name='whole'):
    if case['loop'] == 'vmap':
        return [f'{name} = jax.vmap({f}, {tuple(mapped)!r})']
    arrays = [f'c{i}' for i in range(len(mapped))]
    some = [i for i, axis in enumerate(mapped) if axis is not None]
    inside = [f's[{some.index(i)}]' if i in some else a for i, a in enumerate(arrays)]
    xs = f'({"".join(arrays[i] + ", " for i in some)})'
    each = f'{f}({", ".join(inside)})'
    if case['loop'] == 'scan':
        return [
            f'{name} = lambda {", ".join(arrays)}: '
            f'lax.scan(lambda _, s: (None, {each}), None, {xs})[1]'
        ]
    return [
        f'def {name}({", ".join(arrays)}):',
        f'    shapes = jax.eval_shape(lambda s: {each}, [a[0] for a in {xs}])',
        '    zeros = tuple(np.zeros(s.shape, s.dtype) for s in shapes)',
        f'    add = lambda c, s: (tuple(map(lax.add, c, {each})), None)',
        f'    return lax.scan(add, zeros, {xs})[0]',
    ]


def _made(case, i, operand, name):
    """Yields the steps from a stored array to the operand."""
    a = f'a{i}'
    yield f'{a} = jax.numpy.asarray({a})'
    if 'shard' in case and any(case['shard'][i]):
        yield f'{a} = lay({a}, P{tuple(case["shard"][i])})'
    if operand['words']:
        yield f'{a} = lax.bitcast_convert_type({a}, np.uint{8 * dtypes.numpy_dtype(name).itemsize})'
    shape = list(operand['shape'])
    for view, given in operand['views']:
        if view == 'transpose':
            yield f'{a} = lax.transpose({a}, {given})'
            shape = [shape[p] for p in given]
        elif view == 'reverse':
            yield f'{a} = lax.rev({a}, {given})'
        elif view == 'slice':
            axis, lo, after, step = given
            yield f'{a} = lax.slice_in_dim({a}, {lo}, {shape[axis] - after}, {step}, {axis})'
            shape[axis] = -(-(shape[axis] - after - lo) // step)
        elif view == 'pad':
            axis, lo, hi = given
            widths = [(lo, hi, 0) if j == axis else (0, 0, 0) for j in range(len(shape))]
            yield f'{a} = lax.pad({a}, np.zeros((), {a}.dtype), {widths})'
            shape[axis] += lo + hi
        elif view == 'broadcast':
            shape[given[0]] = given[1]
            yield f'{a} = lax.broadcast_in_dim({a}, {shape}, range({len(shape)}))'
        elif view == 'reshape':
            axis = given[0]
            shape[axis : axis + 2] = [shape[axis] * shape[axis + 1]]
            yield f'{a} = lax.reshape({a}, {shape})'
        else:
            yield f'{a} = -{a}' if view == 'negate' else f'{a} = {a} + {a}'


def _after(case):
    if case.get('shard_result'):
        yield "y = lay(y, P('a')) if y.ndim else y"
    yield from {
        'relu': ['y = lax.max(y, np.zeros(y.shape, y.dtype))'],
        'negate': ['y = -y'],
        'double': ['y = y + y'],
        'reverse': ['y = lax.rev(y, range(y.ndim))'],
        'transpose': ['y = lax.transpose(y, range(y.ndim)[::-1])'],
    }.get(case['post'], [])
