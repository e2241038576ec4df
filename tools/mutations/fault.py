"""A fault that the test suite should catch."""

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    file: str  # relative to cnn_jax/ops
    right: str
    wrong: str
    tests: str  # pytest arguments, relative to tests/ops
