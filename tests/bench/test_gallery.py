"""Tests of the gallery: this package is right in every situation, and the page is complete."""

import re

import numpy as np
import pytest

from cnn_jax.bench.gallery import entries, measure, page, torch_side
from cnn_jax.bench.gallery.entry import Entry, Finding, checked, slowness, verdict
from cnn_jax.bench.kernels.problem import parse
from tests.test_docs import ROOT

BY_NAME = {entry.reference: entry for entry in entries.ALL}
CORRECTNESS, SPEED = (
    [entry for entry in entries.ALL if entry.kind == kind] for kind in ('correctness', 'speed')
)


def wrong(chosen):
    found = {e.reference: measure.findings(e, rounds=0, small=True, sides=['ours']) for e in chosen}
    return {name: sides for name, sides in found.items() if sides and not sides['ours'].right}


def test_ours_is_right_where_others_are_slow():
    assert not wrong(SPEED)


def test_ours_is_right_where_others_are_wrong():
    assert not wrong(entry for entry in CORRECTNESS if entry.environment is None)


def test_entries_are_complete():
    assert len(BY_NAME) == len(entries.ALL) >= 40
    for entry in entries.ALL:
        assert bool(entry.problem) != bool(entry.program), entry.reference
        assert len(entry.claim) < 100 and not entry.claim.endswith('.')
        if entry.small:
            assert parse(entry.small).macs < parse(entry.problem).macs / 10


def test_programs_of_reports_are_short_and_run_alone():
    for entry in CORRECTNESS:
        if entry.program and entry.subject == 'lax' and not entry.by_design:
            text = page.program(entry)
            assert sum(bool(line.strip()) for line in text.splitlines()) <= 17, entry.reference
            assert 'cnn_jax' not in text
            compile(text, entry.reference, 'exec')


def test_a_fault_that_ends_the_process():
    entry = BY_NAME['openxla/xla#48719']
    found = measure.findings(entry, rounds=0)
    assert list(found) == ['lax']  # this package has no such operation
    if verdict(entry, found) == 'still so':
        assert re.search('SIG[A-Z]+', found['lax'].reason)
        text = page.report(entry)
        assert 'ends with signal SIG' in text and 'RET_CHECK' in text


def test_pytorch():
    pytest.importorskip('torch')
    names = ('pytorch/pytorch#50042', 'openxla/xla#34273', 'google/flax#1872', 'pytorch/audio#2469')
    chosen = [BY_NAME[name] for name in names]
    found = torch_side.findings(chosen, rounds=1, small=True)
    assert set(found) == {entry.reference for entry in chosen}
    assert all(one.right for one in found.values()), found
    timed = found['pytorch/audio#2469']
    assert timed.seconds > 0 and timed.baseline > 0


@pytest.mark.parametrize(
    ('got', 'expected', 'right'),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 2.1], [1.0, 2.0], False),
        ([1.0], [1.0, 2.0], False),
        ([1.0, 2.0], [1, 2], False),  # floats for integers
        ([np.nan, 2.0], [np.nan, 2.0], True),
        ([np.nan, 2.0], [1.0, 2.0], False),
        ([1.0, 2.0], [-np.inf, 2.0], False),
        ([1 + 1j], [1 + 1j], True),
        ([1 + 2j], [1 + 1j], False),
    ],
)
def test_checked(got, expected, right):
    got = np.array(got)
    got = got.astype('complex64' if np.iscomplexobj(got) else 'float32')
    assert checked(got, np.array(expected)).right is right


def test_verdicts():
    entry = Entry('a/b#1', 'c', 'speed', against='PyTorch', ratio=2.0)
    found = {'lax': Finding(True, seconds=3.0, baseline=3.0), 'PyTorch': Finding(True, seconds=1.0)}
    assert verdict(entry, found) == 'still so' and slowness(entry, found) == 3
    assert verdict(entry, {'lax': found['lax']}) == 'not measured'
    assert verdict(Entry('a/b#1', 'c', 'speed', against='baseline'), found) == 'gone'
    theirs = Entry('a/b#1', 'c', 'correctness', subject='PyTorch')
    assert verdict(theirs, found) == 'gone'
    assert verdict(theirs, {'PyTorch': Finding(False)}) == 'still so'


def test_the_page_of_the_documents_has_every_entry():
    text = (ROOT / 'docs' / 'gallery.md').read_text()
    for entry in entries.ALL:
        row = page.table([(entry, {})]).splitlines()[-1]
        start = row[: row.index(' | - |')]  # thread, claim and situation
        assert start in text, f'{entry.reference}: run the command in docs/gallery.md again'
