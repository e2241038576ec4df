"""The table of kernels and features in the documentation is the one that the code gives."""

import pathlib

from cnn_jax.analysis.support import LEFT_OUT, support_table
from cnn_jax.ops import kernels

DOCUMENT = pathlib.Path(__file__).parents[2] / 'docs' / 'kernels.md'


def test_the_document_holds_the_table():
    assert support_table() in DOCUMENT.read_text()


def test_every_kernel_has_a_column_or_is_left_out_by_name():
    columns = support_table().splitlines()[0].strip('| ').split(' | ')
    assert {*columns, *LEFT_OUT} >= set(kernels.KERNELS)
