"""A fault that the suite should catch."""

from typing import NamedTuple


class Fault(NamedTuple):
    name: str
    file: str  # below cnn_jax/ops
    right: str
    wrong: str
    tests: str  # arguments of pytest, below tests/ops
