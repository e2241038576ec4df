"""Reads input files of oneDNN's benchmark benchdnn as suites of problems.

A file has words separated by white space: problem descriptors, `--option=values`, and comments from
a word that begins with `#` to the end of the line. A backslash after a word, or at its end, joins
the next word to it. An option applies to the problems after it, also in files that `--batch=FILE`
includes, until it is given again or `--reset`.

Descriptors are read as benchdnn reads them, which differs from `problem.parse` in three ways: the
batch size defaults to 2; if the output size is given without the padding, the padding is half of
what that size needs; and an axis of which anything is given has all its values from the file, with
strides of 1 and no padding by default. A name ends the descriptor (`n"resnet:conv1*4"`); a number
after an asterisk says how often the network has this layer. A word such as
`conv_transpose:ic8ih8oc4kh4sh2` is a problem string of this package.

Sources: oneDNN, tests/benchdnn/doc/ (driver_conv.md, knobs_desc.md, benchdnn_general_info.md),
tests/benchdnn/conv/conv_aux.cpp (`str2desc`) and tests/benchdnn/common.cpp (`batch`,
`sanitize_desc`).
"""

import dataclasses
import pathlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from cnn_jax.bench.kernels import compare
from cnn_jax.bench.kernels.problem import AXES, OPS, Problem, from_values, parse
from cnn_jax.errors import UserError
from cnn_jax.ops.spec import MAPS as PASSES
from cnn_jax.ops.spec import dilated

# The option --dir: the passes of each propagation kind. The bias is left out.
PASSES_OF = {
    'fwd_b': ('forward',),
    'fwd_d': ('forward',),
    'fwd_i': ('forward',),
    'bwd_d': ('input_grad',),
    'bwd_w': ('filter_grad',),
    'bwd_wb': ('filter_grad',),
    'bwd_dw': ('input_grad', 'filter_grad'),
}
# The option --dt: source, weights and destination that this package computes.
DTYPES = {
    'f64': 'float64',
    'f32': 'float32',
    'bf16': 'bfloat16',
    'f16': 'float16',
    's8': 'int8',
}
OPTIONS = ('batch', 'dir', 'dt', 'match', 'mb', 'reset')  # honoured; all others are ignored

Task = tuple[Problem, str, str]  # problem, dtype, pass

_VALUE = re.compile(r'(mb|ic|oc|g|[iokspd][dhw])(\d+)')
_REPEATS = re.compile(r'\*(\d+)"?$')


@dataclasses.dataclass(frozen=True)
class Entry:
    """A problem of a file with the options that apply to it.

    Attributes:
        problem: the problem, with the batch size of `--mb`.
        file, line: where it is written.
        name: its name in the file; '' if it has none.
        repeats: how often the network has this layer.
        passes: of `--dir`; empty if the file does not say.
        dtypes: of `--dt`; None if the file does not say.
    """

    problem: Problem
    file: pathlib.Path
    line: int
    name: str = ''
    repeats: int = 1
    passes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Suite:
    """The problems of a file, in order.

    Attributes:
        entries: the problems.
        ignored: options that are read and not honoured.
        mixed: values of `--dt` that are not computed here -> number of problems.
    """

    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()
    mixed: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def tasks(self, dtypes: Sequence[str] = (), passes: Sequence[str] = ()) -> dict[Task, int]:
        """Returns what to compute, each with how often the networks run it.

        Args:
            dtypes: replace those of the file; empty: the file's, or float32.
            passes: replace those of the file; empty: the file's, or all.
        """
        # A file may repeat a line under options that are ignored; this counts once.
        found = {
            (entry.file, entry.line, (entry.problem, dtype, one)): entry.repeats
            for entry in self.entries
            for dtype in dtypes or (('float32',) if entry.dtypes is None else entry.dtypes)
            for one in passes or entry.passes or PASSES
            if one in compare.passes(entry.problem)
        }
        counts: dict[Task, int] = {}
        for (_, _, task), repeats in found.items():
            counts[task] = counts.get(task, 0) + repeats
        return counts

    def notes(self, dtypes: Sequence[str] = ()) -> list[str]:
        """Returns lines on what `tasks` does not honour."""
        lines = [f'ignored: {", ".join(self.ignored)}'] if self.ignored else []
        if self.mixed and not dtypes:
            types = ', '.join(f'{value} ({count})' for value, count in self.mixed.items())
            lines.append(f'left out: problems of --dt={types}; --dtypes=bfloat16 would run them')
        return lines

    def sample(self, count: int, seed: int) -> 'Suite':
        """Returns at most `count` problems of each file, chosen by `seed`, in order."""
        lines: dict[pathlib.Path, dict[int, None]] = {}
        for entry in self.entries:
            lines.setdefault(entry.file, {})[entry.line] = None
        # The choice from one file does not depend on the others.
        kept = {
            (file, line)
            for file, some in lines.items()
            for line in random.Random(seed).sample(list(some), min(count, len(some)))
        }
        entries = tuple(e for e in self.entries if (e.file, e.line) in kept)
        return dataclasses.replace(self, entries=entries)

    def with_batch(self, batch: int) -> 'Suite':
        """Returns the same problems with another batch size."""
        entries = tuple(
            dataclasses.replace(e, problem=e.problem.replace(batch=batch)) for e in self.entries
        )
        return dataclasses.replace(self, entries=entries)


def is_file(text: str) -> bool:
    """Returns whether the name of a suite is the path of a file, or looks like one."""
    path = _split(text)[1]
    return '/' in path or pathlib.Path(path).is_file()


def read(text: str) -> Suite:
    """Reads a file and the files that it includes.

    Args:
        text: its path; the operation is transposed convolution if the path begins with
            'conv_transpose:', or if the file is in a folder `deconv` or has deconv in its name.

    Raises:
        UserError: a file is missing or includes itself, or a line cannot be read; the message has
            the file, the line and what would be right.
    """
    op, name = _split(text)
    path = pathlib.Path(name).expanduser()
    if not path.is_file():
        raise UserError(f'suite={name!r}: there is no such file')
    if not op:
        op = 'conv_transpose' if 'deconv' in (path.resolve().parent.name + path.name) else 'conv'
    return _Reader(op).read(path)


def describe(text: str, op: str = 'conv') -> tuple[Problem, str, int]:
    """Reads a descriptor without options, such as mb8ic3ih32oc16kh3ph1n"net:conv1*2".

    Returns:
        The problem, its name, and how often the network has it.

    Raises:
        UserError: the descriptor is malformed, incomplete or impossible.
    """
    if _split(text)[0]:
        return parse(text), '', 1
    body, _, name = text.partition('n')
    try:
        problem = from_values(op, _complete(op, _values(body)))
    except ValueError as error:
        raise UserError(f'problem {text!r}: {error}') from None
    repeats = _REPEATS.search(name)
    return problem, name.strip('"'), int(repeats[1]) if repeats else 1


def _split(text: str) -> tuple[str, str]:
    """Splits 'conv_transpose:path' into the operation, or '', and the path."""
    op, colon, path = text.partition(':')
    return (op, path) if colon and op in OPS else ('', text)


class _Reader:
    """Reads files with the options of benchdnn as its state."""

    def __init__(self, op: str):
        self.op = op
        self.options: dict[str, str] = {}
        self.folders: list[pathlib.Path] = []
        self.open: list[pathlib.Path] = []
        self.ignored: dict[str, None] = {}
        self.mixed: dict[str, int] = {}

    def read(self, path: pathlib.Path) -> Suite:
        return Suite(tuple(self.entries(path)), tuple(self.ignored), self.mixed)

    def entries(self, path: pathlib.Path) -> Iterator[Entry]:
        self.open.append(path)
        if path.parent not in self.folders:
            self.folders.append(path.parent)
        for line, word in _words(path):
            try:
                if not word.startswith('-'):
                    yield from self.states(path, line, word)
                elif (included := self.option(word)) is not None:
                    yield from self.entries(included)
            except _LineError:
                raise
            except ValueError as error:
                raise _LineError(f'{path}:{line}: {error}') from None
        self.open.pop()

    def states(self, path: pathlib.Path, line: int, word: str) -> Iterator[Entry]:
        problem, name, repeats = describe(word, self.op)
        if 'match' in self.options and not re.search(self.options['match'], word):
            return
        passes = [PASSES_OF[one] for one in _list(self.options.get('dir', '').lower())]
        dtypes = None
        if 'dt' in self.options:
            known = {value: _dtype(value) for value in _list(self.options['dt'])}
            dtypes = tuple(dict.fromkeys(one for one in known.values() if one))
            for value in (value for value, one in known.items() if not one):
                self.mixed[value] = self.mixed.get(value, 0) + 1
        for batch in map(int, _list(self.options.get('mb', '0'))):
            yield Entry(
                problem.replace(batch=batch) if batch else problem, path, line, name, repeats,
                tuple(dict.fromkeys(one for some in passes for one in some)), dtypes,
            )  # fmt: skip

    def option(self, word: str) -> pathlib.Path | None:
        """Keeps an option; returns the file that it includes, if it does."""
        match = re.fullmatch(r'--([a-z0-9-]+)(?:=(.*))?', word)
        if not match:
            raise UserError(f'option {word!r}: options are written --name=value')
        name, value = match[1], match[2] or ''
        if name == 'batch':
            return self.locate(value)
        if name == 'reset':
            self.options.clear()
        elif name in OPTIONS:
            _check(name, value)
            self.options[name] = value
            if name == 'dir' and '_b' in value.lower().replace('_wb', '_b'):
                self.ignored['biases'] = None
        elif value:  # an empty value returns to the default
            self.ignored[f'--{name}'] = None
        return None

    def locate(self, name: str) -> pathlib.Path:
        """Finds an included file, in the folders of the files read so far, as benchdnn does."""
        for folder in reversed(self.folders):
            if (path := folder / name).is_file():
                if path in self.open:
                    raise UserError(f'--batch={name}: the file includes itself')
                return path
        tried = ', '.join(map(str, self.folders))
        raise UserError(f'--batch={name}: there is no such file in {tried}')


class _LineError(UserError):
    """An error whose message already names the file and the line."""


def _words(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields the words of a file with their line numbers, without comments."""
    begun, start, is_continued = '', 0, False
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        for word in line.split():
            if word.startswith('#'):
                break
            if begun and not is_continued and word != '\\':
                yield start, begun
                begun = ''
            start = start if begun else number
            begun += word.removesuffix('\\')
            is_continued = word.endswith('\\')
    if begun:
        yield start, begun


def _list(text: str) -> list[str]:
    return [one for one in text.split(',') if one]


def _check(name: str, value: str) -> None:
    """Raises UserError if the value of an option that is honoured cannot be read."""
    if name == 'dir':
        for one in _list(value.lower()):
            if one not in PASSES_OF:
                known = ', '.join(PASSES_OF).upper()
                raise UserError(f'--dir={value}: {one!r} must be one of {known}')
    elif name == 'mb' and not all(one.isdecimal() for one in _list(value)):
        raise UserError(f'--mb={value}: must be whole numbers, such as 1,16')
    elif name == 'match':
        try:
            re.compile(value)
        except re.error as error:
            raise UserError(f'--match={value}: not a regular expression: {error}') from None


def _dtype(text: str) -> str | None:
    """Returns the dtype of a value of --dt; None for mixed types, which are not computed here."""
    parts = text.split(':')
    if parts in (['s8'], ['s8', 's8', 's32']):  # int8 has an int32 result
        return 'int8'
    return DTYPES.get(parts[0]) if len(set(parts)) == 1 and parts[0] != 's8' else None


def _values(body: str) -> dict[str, int]:
    values: dict[str, int] = {}
    position = 0
    while position < len(body):
        if body[position] == '_':
            position += 1
        elif match := _VALUE.match(body, position):
            values[match[1]] = int(match[2])  # the last counts if one is given twice
            position = match.end()
        else:
            raise UserError(
                f'cannot read {body[position:]!r}; write, for example, mb64_ic32ih28oc64kh3sh1ph1'
            )
    return values


def _complete(op: str, values: dict[str, int]) -> dict[str, int]:
    """Returns all values of the axes that the descriptor has, by benchdnn's rules."""
    result: dict[str, int] = {name: values[name] for name in ('g', 'ic', 'oc') if name in values}
    result['mb'] = values.get('mb', 2)
    present = [axis for axis in AXES if _has(values, axis)]
    if present and present not in (['d'], ['h'], ['w'], ['h', 'w'], list(AXES)):
        raise UserError(
            f'values on the axes {", ".join(present)}: give w (1-D), h or h and w (2-D), or d or '
            'd, h and w (3-D)'
        )
    for axis in present:
        n, k, o = (_required(values, f'{letter}{axis}') for letter in 'iko')
        stride, dilation = values.get(f's{axis}', 1), values.get(f'd{axis}', 0)
        result |= {f'i{axis}': n, f'k{axis}': k, f's{axis}': stride, f'd{axis}': dilation}
        span, padding = dilated(k, dilation + 1), values.get(f'p{axis}')
        if o:
            small, large = (o, n) if op == 'conv' else (n, o)
            if padding is None:  # a negative need is rounded towards zero, as C++ does
                padding = max(0, int(((small - 1) * stride - large + span) / 2))
        else:
            padding = padding or 0
            o = (n - 1) * stride + span - 2 * padding
            if op == 'conv':
                o = (n + 2 * padding - span) // stride + 1
        if o < 1:
            raise UserError(f'o{axis} would be {o}: enlarge i{axis} or change p{axis}')
        result |= {f'p{axis}': padding, f'o{axis}': o}
    return result


def _has(values: dict[str, int], axis: str) -> bool:
    return (
        any(values.get(f'{letter}{axis}') for letter in 'ikodp') or values.get(f's{axis}', 1) != 1
    )


def _required(values: dict[str, int], name: str) -> int:
    """Returns a value; an output size may be missing, and is then 0."""
    if not values.get(name) and name[0] != 'o':
        raise UserError(f'{name} is missing')
    return values.get(name, 0)
