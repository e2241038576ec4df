"""Tests that the documented table of kernels and features matches the code."""

import pathlib

import pytest

from cnn_jax.bench.kernels import support
from cnn_jax.ops import kernels

DOCUMENT = pathlib.Path(__file__).parents[3] / 'docs' / 'kernels.md'


def test_the_document_holds_the_table():
    if reason := kernels.reason_against('onednn', 'forward', support.plain_spec(3, 2), 'cpu'):
        pytest.skip(f'no native kernel here: {reason}')
    assert support.support_table() in DOCUMENT.read_text()


def test_every_kernel_has_a_column():
    columns = support.support_table().splitlines()[0].strip('| ').split(' | ')
    assert set(columns) == set(kernels.KERNELS)
