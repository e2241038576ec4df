"""Reads the TPU compiler's estimate of cycles from the text of a compiled program.

The compiler annotates each operation that it scheduled with `estimated_cycles`, by its own cost
model. Their sum is the estimate of a program: bodies of loops count as often as they run, the
longest branch of a conditional counts, and transfers that run beside the arithmetic count nothing,
as they have no estimate. An estimate ranks formulations; it is not a time. Kernels that were
compiled elsewhere, such as Pallas kernels, have no estimate: see `bundles.py`.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Written out by Pallas; the other targets are the compiler's own and occupy no time.
KERNEL_TARGET = 'tpu_custom_call'

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$')
_OPERATION = re.compile(r'^\s+(?:ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\(')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(
    r'\b(body|condition|to_apply|calls|true_computation|false_computation)=%([\w.-]+)'
)
_BRANCHES = re.compile(r'\bbranch_computations=\{([^}]*)\}')
_LIMIT = re.compile(r'= s32\[\]\S* constant\((\d+)\)')
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast')


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The compiler's estimate of one program.

    Attributes:
        cycles: the sum of the estimates.
        copies: the part of `cycles` that only changes the layout of an array.
        operations: number of operations that run, in loops once.
        kernels: number of them that are Pallas kernels, which have no estimate.
        unknown_loops: number of loops whose length is unknown; they count as one round.
    """

    cycles: int = 0
    copies: int = 0
    operations: int = 0
    kernels: int = 0
    unknown_loops: int = 0

    def __add__(self, other: 'Estimate') -> 'Estimate':
        both = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Estimate(*(a + b for a, b in both))

    def times(self, rounds: int) -> 'Estimate':
        """Returns the estimate of a loop of this body."""
        return dataclasses.replace(self, cycles=rounds * self.cycles, copies=rounds * self.copies)


def read(text: str, bundles: Mapping[str, int] | None = None) -> Estimate:
    """Returns the estimate of a program compiled for a TPU.

    Args:
        text: the program's `as_text()`.
        bundles: what each operation costs, by its name, instead of the compiler's estimate.
    """
    computations, entry = _computations(text.splitlines())
    return _Reader(computations, bundles).total(entry)


def _computations(lines: Iterable[str]) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation by name, and the name of the entry."""
    found: dict[str, list[str]] = {}
    entry, name = '', ''
    for line in lines:
        if match := _COMPUTATION.match(line):
            name = match[2]
            found[name] = []
            entry = name if match[1] else entry
        elif line.startswith('}'):
            name = ''
        elif name:
            found[name].append(line)
    return found, entry


class _Reader(NamedTuple):
    """The lines of a program's computations by name, and costs by operation if given."""

    computations: Mapping[str, list[str]]
    bundles: Mapping[str, int] | None

    def total(self, name: str) -> Estimate:
        """Returns the estimate of one computation."""
        total = Estimate()
        for line in self.computations.get(name, ()):
            if (match := _OPERATION.match(line)) and match[2] not in _FREE:
                total += self._operation(line, *match.groups())
        return total

    def _operation(self, line: str, name: str, opcode: str) -> Estimate:
        called = dict(_CALLED.findall(line))
        if opcode == 'while':
            trips = _trips(line, self.computations.get(called['condition'], ()))
            body = self.total(called['body'])
            return body.times(trips or 1) + Estimate(unknown_loops=trips is None)
        if opcode == 'conditional':
            names = [called.get('true_computation'), called.get('false_computation')]
            if branches := _BRANCHES.search(line):
                names = [n.strip().lstrip('%') for n in branches[1].split(',')]
            return max((self.total(n) for n in names if n), key=lambda e: e.cycles)
        if opcode in ('call', 'async-start'):
            return self.total(called.get('to_apply') or called.get('calls', ''))
        cycles = int(found[1]) if (found := _CYCLES.search(line)) else 0
        if self.bundles is not None:
            cycles = self.bundles.get(name, 0)
        is_copy = opcode == 'copy' or (opcode == 'fusion' and name.startswith('copy_fusion'))
        is_kernel = opcode == 'custom-call' and f'custom_call_target="{KERNEL_TARGET}"' in line
        return Estimate(cycles, cycles if is_copy else 0, 1, int(is_kernel))


def _trips(line: str, condition: Iterable[str]) -> int | None:
    """Returns how often a loop runs; None if that is not written in the program.

    `lax.scan` counts from 0 up to a constant, the only one in the loop's condition.
    """
    if known := _TRIPS.search(line):
        return int(known[1])
    limits = [int(n) for text in condition for n in _LIMIT.findall(text)]
    return limits[0] if len(limits) == 1 else None
