"""Finds a simpler case that fails in the same way, by trying one simplification after another."""

import copy
import time
from collections.abc import Iterator

from . import cases, check, views
from .cases import Case
from .check import Verdict


def shrink(case: Case, verdict: Verdict, seconds: float = 15.0) -> tuple[Case, Verdict]:
    """Returns a case with the same kind of verdict, and its verdict.

    None of its simplifications has that, or the time is over.
    """
    end = time.monotonic() + seconds
    progress = True
    while progress:
        progress = False
        for simpler in simplifications(case):
            if time.monotonic() > end:
                return case, verdict
            (found,) = check.verdicts([simpler])
            if found.kind == verdict.kind:
                case, verdict, progress = simpler, found, True
                break
    return case, verdict


def simplifications(case: Case) -> Iterator[Case]:
    """Yields valid cases that are simpler in one respect, the largest steps first."""
    for changed in _changes(case):
        try:
            cases.fit(changed)
        except (views.Unfit, ValueError, IndexError):
            continue
        if all(n > 0 for n in cases.OPERATIONS[case['op']].output_shape(changed['spec'])):
            yield changed


def _changes(case: Case) -> Iterator[Case]:
    yield from _without_transforms(case)
    for i, operand in enumerate(case['operands']):
        for n in range(len(operand['views'])):
            changed = copy.deepcopy(case)
            del changed['operands'][i]['views'][n]
            yield changed
        for key in ('words', 'constant'):
            if operand[key]:
                yield _with_operand(case, i, key, False)
    for key, plain in (('out', None), ('post', 'none'), ('length', 1), ('values', 'integers')):
        if case[key] != plain and case['values'] != 'distinct':
            yield _with(case, key, plain)
    if 'shard' in case:
        for i, parts in enumerate(case['shard']):
            for axis, name in enumerate(parts):
                if name:
                    changed = copy.deepcopy(case)
                    changed['shard'][i][axis] = None
                    yield changed
        if case['shard_result']:
            yield _with(case, 'shard_result', False)
    yield from _smaller_specs(case)
    if case['dtype'] not in ('float32', 'int32'):
        kind = 'int32' if 'int' in case['dtype'] else 'float32'
        if case['out'] is None:
            yield _with(case, 'dtype', kind)


def _without_transforms(case):
    count = cases.OPERATIONS[case['op']].OPERANDS
    if case['derivative'] != 'value':
        changed = _with(case, 'derivative', 'value')
        for key in ('operands', 'shard'):
            if key in changed:
                changed[key] = changed[key][:count]
        yield changed
    if case['derivative'] == 'remat':
        yield _with(case, 'derivative', 'vjp')
    if case['loop'] != 'none':
        changed = _with(case, 'loop', 'none')
        for operand in changed['operands']:
            if operand['mapped'] is not None:
                operand['views'] = []
            operand['mapped'] = None
        if 'shard' not in case:
            yield changed


def _smaller_specs(case):
    spec = case['spec']
    for key, value in spec.items():
        least = 1 if key in LEAST_ONE else 0
        if isinstance(value, list) and key != 'layout':
            for i, entry in enumerate(value):
                for smaller in _smaller(entry, least):
                    yield _with_spec(case, key, [*value[:i], smaller, *value[i + 1 :]])
        elif isinstance(value, int) and key not in ('groups', 'batch_groups'):
            for smaller in _smaller(value, least):
                yield _with_spec(case, key, smaller)
        elif key in ('groups', 'batch_groups') and value > 1:
            changed = _with_spec(case, key, 1)
            if spec['in_features'] % value == 0:
                changed['spec']['in_features'] //= value if key == 'groups' else 1
                changed['spec']['out_features'] //= value
                changed['spec']['batch'] //= value if key == 'batch_groups' else 1
            yield changed
        elif key == 'precision' and value:
            yield _with_spec(case, key, None)
        elif key == 'layout':
            for i, order in enumerate(value):
                if order != sorted(order):
                    yield _with_spec(case, key, [*value[:i], sorted(order), *value[i + 1 :]])


LEAST_ONE = (
    'batch', 'size', 'window', 'in_features', 'out_features', 'strides', 'dilation', 'holes',
    'free', 'other', 'summed',
)  # fmt: skip


def _smaller(value, least):
    if isinstance(value, list):  # a pair of padding
        for i, entry in enumerate(value):
            if entry:
                step = -1 if entry > 0 else 1
                for smaller in {0, entry + step}:
                    yield [*value[:i], smaller, *value[i + 1 :]]
    elif value > least:
        for smaller in sorted({least, value // 2, value - 1} - {value}):
            if smaller >= least:
                yield smaller


def _with(case, key, value):
    return {**copy.deepcopy(case), key: value}


def _with_spec(case, key, value):
    changed = copy.deepcopy(case)
    changed['spec'][key] = value
    return changed


def _with_operand(case, i, key, value):
    changed = copy.deepcopy(case)
    changed['operands'][i][key] = value
    return changed
