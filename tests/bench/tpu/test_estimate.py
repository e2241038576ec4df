"""Tests of the estimates for TPUs; what needs the TPU compiler is skipped without libtpu."""

import importlib.util
import json

import pytest

from cnn_jax.bench.kernels.problem import parse
from cnn_jax.bench.tpu import aot, bundles, cycles, estimate, estimate_report
from cnn_jax.errors import UserError
from tools import scripts

HAS_LIBTPU = importlib.util.find_spec('libtpu') is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason='needs libtpu (the extra tpu)')

PROGRAM = """
%inner (p: f32[8]) -> f32[8] {
  %never = f32[8]{0} add(%p, %p), backend_config={"window_config":{"estimated_cycles":"1000"}}
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.1 = (f32[8]{0:T(8)}, /*1*/f32[8]) fusion(%a), calls=%inner, x="estimated_cycles":"10"
  ROOT %tuple = (s32[], f32[8]{0}) tuple(%i, %fusion.1)
}

%condition (arg.1: (s32[], f32[8])) -> pred[] {
  %constant.61 = s32[]{:T(128)} constant(16)
  ROOT %lt = pred[] compare(%i, %constant.61), direction=LT
}

%open (arg.2: f32[8]) -> pred[] {
  ROOT %gt = pred[] compare(%x, %y), direction=GT
}

%long (p.1: f32[8]) -> f32[8] {
  ROOT %sort = f32[8]{0} sort(%p.1), x="estimated_cycles":"7"
}

ENTRY %main.1 (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0), sharding={replicated}
  %copy.2 = f32[8]{0} copy(%a), x="estimated_cycles":"100"
  %while.1 = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body
  %while.2 = f32[8]{0} while(%t), condition=%open, body=%long
  %c = f32[8]{0} conditional(%p, %a, %a), branch_computations={%long, %body}
  %closed = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call"
  ROOT %own = f32[8]{0} custom-call(%a), custom_call_target="ConcatBitcast"
}
"""


def test_cycles_follow_loops_and_branches():
    # a copy of 100, 16 rounds of 10, one round of 7, the longer branch of 10
    found = cycles.read(PROGRAM)
    assert (found.cycles, found.copies) == (100 + 16 * 10 + 7 + 10, 100)
    assert (found.kernels, found.unknown_loops) == (1, 1)
    assert found.operations == 1 + 1 + 1 + 1 + 2
    counted = cycles.read(PROGRAM, {'closed': 5, 'fusion.1': 3, 'unheard of': 9})
    assert counted.cycles == 5 + 16 * 3 + 3


SCHEDULE = """= control target key start
LB: loop body
= control target key end

     0   :  { %s0 = inlined_call_operand.hbm [shape: f32[8], index: 0] }
   0x1   :  { %3 = vsyncpa [#allocation4], 0 } /* Start region 2 */
   0x2 LB: > { %s9 = sphi 0, %s10 }
   0x3   : > { %s10 = sadd.s32 1, %s9  ;;  %v1 = vld [vmem:[%s2]
second line of a bundle */ }
   0x4 LB: >> { %v2 = vadd %v1, %v1 }
   0x5   : >> { %p2 = scmp.ge.s32.totalorder %s5, 5 /* loop exit test */ }
   0x6 PF: > { %p1 = scmp.ge.s32.totalorder %s10, 18 /* loop exit test */ }
   0x7   :  { %10 = sbr.rel (!%p1) target = $region3 }
"""


def test_bundles_follow_nested_loops(tmp_path):
    assert bundles.count(SCHEDULE) == 3 + 18 * (3 + 5 * 2)
    (tmp_path / '17-fusion.1-68-final_bundles.txt').write_text(SCHEDULE)
    (tmp_path / '17-fusion.1-67-schedule-analysis_final_bundles.txt').write_text('0x1 : {')
    shared = 'key:fusion.1\nordinal:1\nequivalent_hlos[size=2]:\n  fusion.1\n  fusion.7\n'
    (tmp_path / '16-TLP-00-deduplication-map.txt').write_text(shared)
    assert bundles.by_operation(tmp_path) == dict.fromkeys(('fusion.1', 'fusion.7'), 237)


def test_roofs_by_hand():
    # 1x1, 2 images of 4x4, 8 to 16 features: 2 * 32 * 128 operations, (256 + 512 + 128) elements
    problem = parse('mb2_ic8ih4oc16kh1')
    chip = aot.Chip('one', 0, flops=1e9, hbm_bandwidth=1e9, link_bandwidth=1)
    assert estimate.roof(problem, 'bfloat16', chip) == pytest.approx(8.192)
    assert estimate.roof(problem, 'float32', chip) == pytest.approx(8.192)
    slow = aot.Chip('slow', 0, flops=1e9, hbm_bandwidth=1e8, link_bandwidth=1)
    assert estimate.roof(problem, 'bfloat16', slow) == pytest.approx(17.92)


def test_the_clock_follows_from_the_peak():
    for name, gigahertz in {'v5e': 1.5, 'v5p': 1.75, 'v6e': 1.75}.items():
        assert aot.CHIPS[name].clock == pytest.approx(1e9 * gigahertz, rel=0.01)


def test_each_table_has_one_scale():
    common = {'problem': 'mb1', 'direction': 'forward', 'dtype': 'bfloat16', 'chip': 'v5e'}
    common |= {'chosen': False, 'roof_microseconds': 1.0}
    figures = {'memory_bytes': 2**20, 'operations': 3}
    lax = estimate.Record(
        **common, **figures, kernel='lax', microseconds=8.0, copies_microseconds=2.0,
        bundles_microseconds=4.0,
    )  # fmt: skip
    mine = estimate.Record(**common, **figures, kernel='mine', bundles_microseconds=1.0)
    bad = estimate.Record(**common, kernel='bad', reason='does not compile for v5e: no')
    first, second = estimate_report.kernels([lax, mine, bad]).split('\n\nmicroseconds: ')
    assert 'a Pallas kernel: no estimate' in first and 'does not compile for v5e: no' in first
    rows = {row.split()[3]: row.split()[4:6] for row in second.splitlines()[3:]}
    assert rows['mine'] == ['1.0', '4.00'] and rows['lax'] == ['4.0', '1.00']


def test_bad_flags():
    lines = scripts.errors(
        'compare_kernels.py',
        ('--aot=v99',),
        ('--aot=v5e', '--save_choices'),
        ('--aot=v5e', '--problems=max_pool:mb1_ic1ih4kh2'),
    )
    expected = ("aot='v99': must be one of v5e, v5p, v6e", 'save_choices', 'not max_pool')
    for line, part in zip(lines, expected, strict=True):
        assert part in line


@pytest.mark.skipif(HAS_LIBTPU, reason='libtpu is installed')
def test_the_missing_compiler_is_named():
    with pytest.raises(UserError, match='compiling for TPUs needs libtpu: pip install'):
        aot.tpu_devices(aot.one_chip('v5e'))


@needs_libtpu
def test_estimates_of_a_compiled_problem(tmp_path):
    problem = 'g16mb4_ic64ih14oc64kh3ph1'
    flags = [f'--problems={problem}', '--passes=forward', '--dtypes=bfloat16', '--aot=v5e']
    flags += ['--kernels=lax,block_diagonal,dot', f'--output={tmp_path}']
    scripts.run('compare_kernels.py', *flags)
    found = json.loads((tmp_path / 'results.json').read_text())
    rows = {row['kernel']: row for row in found['records']}
    assert 'needs a 1x1 window' in rows['dot']['reason']
    assert rows['block_diagonal']['chosen'] and rows['lax']['operations'] >= 1
    assert rows['lax']['microseconds'] > rows['block_diagonal']['microseconds'] > 0
    counted = bundles.counted(
        [{n: rows['lax'][n] for n in ('chip', 'problem', 'dtype', 'direction', 'kernel')}]
    )
    assert 0 < counted[0]['bundles'] < 1e6


@needs_libtpu
def test_estimates_of_a_step(tmp_path):
    flags = ['--model=lenet5', '--input_shape=28,28,1', '--batch_size=8', '--layers=false']
    flags += ['--dtypes=bfloat16', '--aot=v5e', '--kernels=lax', f'--output={tmp_path}']
    scripts.run('compare_kernels.py', *flags)
    steps = json.loads((tmp_path / 'results.json').read_text())['steps']
    assert {step['choice'] for step in steps} == {'lax', 'default'}
    assert all(step['reason'] == '' and step['microseconds'] > 0 for step in steps)
