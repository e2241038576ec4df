"""Files the instructions of a compiled training step under the kinds of `timeline`.

XLA fuses operations, so a fusion is filed under the kind with most of its work: every instruction
in it counts with the elements that it computes or, if it reduces, that it reads. A matrix product
decides alone. Copies, casts and other moves of data count only in a fusion that has nothing else.
For example, a batch norm with the ReLU after it is one fusion, and normalisation.

The kind of an instruction follows from the names of scopes in its metadata: the pass of a
convolution (`cnn_jax.ops.lowering.rules`), the loss and the optimiser (`jax_side`), or the layer.
An instruction that XLA wrote without metadata has the kind of the instruction that reads it.
"""

import collections
import math
import re
from typing import NamedTuple

from cnn_jax.bench.steps import timeline

_INSTRUCTION = re.compile(r'\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)')
_COMPUTATION = re.compile(r'(?:ENTRY )?%?([\w.\-]+) (?:\(.*\{|\{)$')
_CALLED = re.compile(r'(?:calls|body)=%?([\w.\-]+)')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_SHAPE = re.compile(r'[a-z]\w*\[([\d,]*)\]')
_OPERAND = re.compile(r'%([\w.\-]+)')

_PASS = re.compile(r'\b(forward|input_grad|filter_grad)_')
_DENSE = re.compile(r'\bproduct_(forward|input_grad|filter_grad)_')
_LAYER = re.compile(r'\b([a-z_]+)\d+\b')
_FREE = ('parameter', 'constant', 'bitcast', 'broadcast', 'iota', 'reshape', 'tuple')
_FREE += ('get-tuple-element',)
_MOVES = ('copy', 'transpose', 'convert', 'concatenate', 'pad', 'slice', 'reverse')
_MOVES += ('dynamic-slice', 'dynamic-update-slice', 'copy-start', 'copy-done')
_PASSES = {
    'forward': timeline.FORWARD,
    'input_grad': timeline.INPUT_GRAD,
    'filter_grad': timeline.FILTER_GRAD,
}
_LAYERS = {
    'batch_norm': timeline.NORM,
    'max_pool': timeline.POOL,
    'global_avg': timeline.POOL,
    'global_max': timeline.POOL,
    'embed': timeline.EMBEDDING,
}


class _Instruction(NamedTuple):
    name: str
    opcode: str
    op_name: str
    elements: int
    operands: list[str]
    called: list[str]


def kinds(text: str) -> dict[str, str]:
    """Returns the kind of every instruction of a compiled module, by name.

    Args:
        text: the module as text, `jax.stages.Compiled.as_text()`.
    """
    computations = _parse(text)
    found: dict[str, str] = {}
    for instructions in computations.values():
        unknown = []
        for instruction in instructions:
            votes = _votes(instruction, computations)
            moved = votes.pop(timeline.MOVES, 0)
            if votes:
                found[instruction.name] = max(votes, key=lambda kind: votes[kind])
            elif moved:
                found[instruction.name] = timeline.MOVES
            else:
                unknown.append(instruction.name)
        readers = collections.defaultdict(list)
        for instruction in instructions:
            for operand in instruction.operands:
                readers[operand].append(instruction.name)
        for name in reversed(unknown):  # a reader comes after what it reads
            known = [found[reader] for reader in readers[name] if reader in found]
            found[name] = known[0] if known else timeline.REST
    return found


def _parse(text: str) -> dict[str, list[_Instruction]]:
    computations: dict[str, list[_Instruction]] = {}
    instructions: list[_Instruction] = []
    sizes: dict[str, int] = {}
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            instructions = computations.setdefault(match[1], [])
            sizes = {}
        elif match := _INSTRUCTION.match(line):
            name, shape, opcode, rest = match.groups()
            operands = _OPERAND.findall(rest.split(')')[0])
            sizes[name] = _elements(shape)
            reads = [sizes.get(operand, 0) for operand in operands]
            elements = max([sizes[name], *reads]) if opcode.startswith('reduce') else sizes[name]
            op_name = _OP_NAME.search(rest)
            instructions.append(
                _Instruction(
                    name,
                    opcode,
                    op_name[1] if op_name else '',
                    elements,
                    operands,
                    _CALLED.findall(rest),
                )
            )
    return computations


def _elements(shape: str) -> int:
    return sum(
        math.prod(int(n) for n in size.split(',')) if size else 1 for size in _SHAPE.findall(shape)
    )


def _votes(instruction: _Instruction, computations) -> dict[str, float]:
    """Returns the work of an instruction by kind, without what is unknown."""
    votes: dict[str, float] = collections.defaultdict(float)
    called = [each for name in instruction.called for each in computations.get(name, ())]
    for each in called:
        for kind, work in _votes(each, computations).items():
            votes[kind] += work
    if not called and instruction.opcode not in _FREE:
        kind = _kind(instruction.opcode, instruction.op_name)
        if kind is not None:
            votes[kind] += math.inf if instruction.opcode == 'dot' else instruction.elements
    return votes


def _kind(opcode: str, op_name: str) -> str | None:
    layers = _LAYER.findall(op_name)
    if re.search(r'\boptimizer\b', op_name):
        return timeline.OPTIMIZER
    if opcode in _MOVES:
        return timeline.MOVES
    if _DENSE.search(op_name):
        return timeline.MATMUL
    if match := _PASS.search(op_name):
        return _PASSES[match[1]]
    if opcode == 'dot':
        return timeline.MATMUL
    if re.search(r'\bloss\b', op_name):
        return timeline.REST
    if layers:
        return _LAYERS.get(layers[-1], timeline.ELEMENTWISE)
    return timeline.REST if op_name else None
