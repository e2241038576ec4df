"""Cases: a random operation, in a dtype, under transforms, with some operands constant.

A case is a dictionary of plain values, so it can be printed, edited and read again. `draw` makes
the same case from the same seed in every environment.
"""

import random
from typing import Any

import numpy as np

from . import conv, dot, dtypes, views, window

Case = dict[str, Any]

OPERATIONS = {'conv': conv, 'dot': dot, 'window': window}
DERIVATIVES = ('value', 'vjp', 'remat', 'jvp')
LOOPS = ('none', 'vmap', 'scan', 'sum')  # 'sum' is a scan that adds up the results
POSTS = (*('none',) * 8, 'relu', 'negate', 'reverse', 'transpose', 'double')
MOVES = ('transpose', 'reverse', 'slice', 'reshape', 'broadcast')
MESH = {'a': 2, 'b': 2}


def draw(r: random.Random, wide: bool = True, sharded: bool = False) -> Case:
    """Returns a case.

    Args:
        r: the source of chance; `hypothesis.strategies.randoms()` makes such sources too.
        wide: whether 64-bit dtypes are allowed.
        sharded: whether arrays are laid out over a mesh of 2 x 2 devices.
    """
    op = r.choices(('conv', 'dot', 'window'), (5, 3, 2))[0]
    names = [name for name in dtypes.WEIGHTS if wide or name not in dtypes.WIDE]
    dtype = r.choices(names, [dtypes.WEIGHTS[name] for name in names])[0]
    spec = OPERATIONS[op].draw(r)
    plain = r.random() < 0.6  # such programs compile fast
    derivative, loop = r.choices(DERIVATIVES, (5, 5, 1, 2))[0], r.choices(LOOPS, (8, 4, 2, 2))[0]
    if plain or dtypes.kind(dtype) == 'int':
        derivative = 'value'
    case = {
        'op': op, 'spec': spec, 'dtype': dtype, 'out': _out(r, op, dtype, wide),
        'values': r.choice(('normal', 'integers')), 'derivative': derivative,
        'loop': 'none' if plain else loop, 'derivative_first': r.random() < 0.7,
        'length': r.randint(1, 3), 'post': 'none' if plain else r.choice(POSTS),
        'data': r.randrange(2**32),
    }  # fmt: skip
    if dtypes.kind(dtype) == 'int' and r.random() < 0.4:
        case['values'] = 'full'
    if op == 'window':
        _restrict_window(r, case)
    if dtypes.kind(dtype) == 'complex' and case['post'] == 'relu':
        case['post'] = 'negate'
    draw_operands(r, case)
    if sharded:
        case['shard'] = [_partition(r, o['shape']) for o in case['operands']]
        case['shard_result'] = r.random() < 0.5
    return case


def _out(r, op, dtype, wide):
    """Returns a dtype of the result other than that of the operands, or None."""
    if op == 'window' or r.random() < 0.5:
        return None
    if dtypes.kind(dtype) == 'int':
        return 'int32' if dtype not in ('int32', 'int64') else None
    if dtype in ('float16', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2'):
        return 'float32'
    return 'float64' if dtype == 'float32' and wide and r.random() < 0.2 else None


def _restrict_window(r, case):
    """Restricts a pool to what JAX can differentiate, and to maxima that are unique."""
    spec = case['spec']
    if case['dtype'].startswith('complex'):
        spec['reducer'] = 'sum'
    if spec['reducer'] == 'sum' or case['derivative'] == 'value':
        return
    case['dtype'] = r.choice(('float32', 'float32', 'float16'))
    if case['derivative'] == 'jvp':
        case['dtype'] = 'float32'
    case['values'] = 'distinct'
    n = len(spec['size'])
    spec['dilation'] = spec['holes'] = [1] * n
    # In a window of padding alone, XLA selects an element of the padding.
    spec['padding'] = [
        [min(p, k - 1) for p in pair]
        for pair, k in zip(spec['padding'], spec['window'], strict=True)
    ]
    spec['size'] = [max(s, k) for s, k in zip(spec['size'], spec['window'], strict=True)]


def roles(case: Case) -> list[str]:
    """Returns the role of each operand: the operation's own, then a cotangent or tangents."""
    count = OPERATIONS[case['op']].OPERANDS
    own = [f'operand {i}' for i in range(count)]
    if case['derivative'] in ('vjp', 'remat'):
        return [*own, 'cotangent']
    return own + [f'tangent {i}' for i in range(count)] if case['derivative'] == 'jvp' else own


def shapes(case: Case) -> list[tuple[int, ...]]:
    """Returns the shape of each operand within the loop."""
    operation, spec = OPERATIONS[case['op']], case['spec']
    own = [tuple(s) for s in operation.shapes(spec)]
    if case['derivative'] in ('vjp', 'remat'):
        return [*own, tuple(operation.output_shape(spec))]
    return own * 2 if case['derivative'] == 'jvp' else own


def operand_dtype(case: Case, role: str) -> str:
    return (case['out'] or case['dtype']) if role == 'cotangent' else case['dtype']


def draw_operands(r: random.Random, case: Case, views_too: bool = True) -> None:
    """Draws how each operand is mapped, stored and passed."""
    count = OPERATIONS[case['op']].OPERANDS
    all_roles, inner = roles(case), shapes(case)
    axis = lambda shape: r.randint(0, len(shape)) if case['loop'] == 'vmap' else 0  # noqa: E731
    chosen = r.randrange(count)
    constants = r.choices(('none', 'some', 'all'), (35, 55, 10))[0]
    case['operands'] = []
    for i, (role, shape) in enumerate(zip(all_roles, inner, strict=True)):
        is_mapped = case['loop'] != 'none' and (i == chosen or r.random() < 0.6)
        if case['loop'] != 'none' and not case['derivative_first']:
            if role == 'cotangent':
                is_mapped = case['loop'] != 'sum'
            elif role.startswith('tangent'):
                is_mapped = case['operands'][i - count]['mapped'] is not None
        mapped = axis(shape) if is_mapped else None
        if is_mapped and not case['derivative_first']:
            mapped = 0 if role == 'cotangent' else mapped
            if role.startswith('tangent'):
                mapped = case['operands'][i - count]['mapped']
        made = views.draw(r, whole_shape(shape, mapped, case['length'])) if views_too else []
        words = views_too and dtypes.kind(case['dtype']) == 'float' and r.random() < 0.12
        unique = case['values'] == 'distinct' and i < count
        if words and not all(v[0] in MOVES for v in made) or unique and made:
            made = []
        constant = {'none': False, 'all': True, 'some': r.random() < 0.5}[constants]
        case['operands'].append(
            {'views': made, 'mapped': mapped, 'words': words, 'constant': constant}
        )
    fit(case)


def fit(case: Case) -> None:
    """Adapts the operands to the specification; raises Unfit where their views cannot be."""
    for operand, shape in zip(case['operands'], shapes(case), strict=True):
        full = whole_shape(shape, operand['mapped'], case['length'])
        operand['shape'], operand['views'] = views.before(full, operand['views'])


def whole_shape(shape, mapped, length):
    return tuple(shape) if mapped is None else (*shape[:mapped], length, *shape[mapped:])


def _partition(r, shape):
    """Assigns the axes of the mesh to axes of an array (uneven ones too)."""
    parts: list[str | None] = [None] * len(shape)
    for name in MESH:
        if shape and r.random() < 0.6:
            parts[r.randrange(len(shape))] = name
    return parts


def stored(case: Case) -> list[np.ndarray]:
    """Returns the stored arrays of a case."""
    rng = np.random.default_rng(case['data'])
    count = OPERATIONS[case['op']].OPERANDS
    arrays = []
    for i, (role, operand) in enumerate(zip(roles(case), case['operands'], strict=True)):
        how = case['values']
        if how == 'distinct' and i >= count:
            how = 'integers'
        shape = tuple(operand['shape'])
        arrays.append(dtypes.values(rng, shape, operand_dtype(case, role), how))
    return arrays
