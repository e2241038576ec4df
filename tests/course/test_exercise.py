"""What an exercise says about answers that are not numbers of the right shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.bench.kernels.problem import parse
from cnn_jax.course.exercise import Exercise


def halves(x, n):
    return x[:n], x[n:]


CHECK = Exercise(
    name='halves',
    right=halves,
    cases=lambda: [(np.float32([1, 2, 3]), 1), (np.float32([4, 5]), 2)],
    verified='both halves.',
    shape='n and len(x) - n.',
    wrong=((lambda x, n: (x[n:], x[:n]), 'the halves are exchanged.'),),
)
VALUE = Exercise(
    name='value',
    right=lambda: 12,
    cases=lambda: [()],
    verified='3 * 4.',
    shape='A number.',
    wrong=((lambda: 7, 'this is the sum.'),),
)


def in_place(x, n):
    x *= 0
    return x[:n], x[n:]


@jax.jit
def unequal(x, n):
    return x + jnp.zeros(7), x


def too_far(x, n):
    return x[n + 5], x


@pytest.mark.parametrize(
    ('answer', 'hint'),
    [
        (lambda x, n: (x[n:], x[:n]), 'not yet: the halves are exchanged.'),
        (None, 'halves is None, not a function. Pass it without calling it: check.halves(halves).'),
        (3.5, 'halves is a value of type float, not a function'),
        (lambda x, n: None, 'halves returns nothing for x of shape (3,), n = 1. Fill in'),
        (
            lambda x, n: x[:n],
            'returns one value for x of shape (3,), n = 1; wanted is a tuple of 2',
        ),
        (
            lambda x, n: ('a', 'b'),
            'returns a value of type str for x of shape (3,), n = 1; wanted are real',
        ),
        (lambda x, n: (1j * x, x), 'wanted are real numbers'),
        (lambda x, n: ([[1], [1, 2]], x), 'returns a value of type list for'),
        (
            lambda x, n: (x, x, x),
            'returns a tuple of 3 for x of shape (3,), n = 1; wanted is a tuple of 2',
        ),
        (lambda x: x, 'TypeError'),
        (unequal, 'TypeError: add got incompatible shapes for broadcasting: (3,), (7,). (line '),
        (too_far, 'IndexError: index 6 is out of bounds for axis 0 with size 3 (line '),
        (too_far, 'return x[n + 5], x) for x of shape (3,), n = 1. To try it: x, n ='),
        (in_place, 'changes its argument x, which belongs to the caller'),
        (lambda x, n: (x[:n], x), 'result 2 of 2 has the shape (3,), wanted is (2,) for x of'),
        (lambda x, n: (x[:n] * np.nan, x[n:]), 'result 1 of 2 has NaN at [0]'),
        (lambda x, n: (x[:n], x[n:] + 2), 'result 2 of 2 is 4 at [0], wanted is 2 for x of'),
        (
            lambda x, n: (x[:n], x[n:] + 2),
            '2 of 2 numbers differ. To try it: x, n = check.halves.cases()[0]',
        ),
    ],
)
def test_hints(answer, hint):
    outcome = CHECK(answer)
    assert not outcome and hint in outcome.message and '\n' not in outcome.message


def test_a_hint_needs_only_the_cases_that_are_wrong():
    exchanged_if_long = CHECK(lambda x, n: (x[n:], x[:n]) if len(x) > 2 else (x[:n], x[n:]))
    assert exchanged_if_long.message == 'not yet: the halves are exchanged.'


def test_a_hint_is_found_although_other_cases_raise():
    def exchanged_or_fails(x, n):
        return x[n:][:, None][: {3: 2}[len(x)], 0], x[:n]

    assert CHECK(exchanged_or_fails).message == 'not yet: the halves are exchanged.'


def test_arrays_of_jax_and_lists_are_accepted(capsys):
    assert CHECK(lambda x, n: (jnp.asarray(x)[:n], list(x[n:])))
    assert capsys.readouterr().out == 'correct: both halves.\n'


def test_long_values_are_named_by_their_type():
    spec = parse('mb1_ic1ih4oc1kh2').spec()
    check = Exercise('ndim', lambda spec: spec.ndim, lambda: [(spec,)], '', '', ())
    assert 'returns nothing for spec = a ConvSpec. Fill in' in check(lambda spec: None).message


def test_an_exercise_without_arguments_takes_a_value():
    assert VALUE(12) and VALUE(lambda: np.int64(12))
    assert VALUE(7).message == 'not yet: this is the sum.'
    assert VALUE(8).message == 'not yet: the result is 8, wanted is 12.'
    assert VALUE(...).message == 'not yet: value is Ellipsis, not a number.'
    assert 'None, not a number' in VALUE(None).message


def test_observe_returns_what_is_compared():
    size = Exercise(
        name='make',
        right=lambda n: np.zeros(n),
        cases=lambda: [(3,)],
        verified='the size.',
        shape='',
        wrong=(),
        observe=lambda function, case: function(*case).size,
    )
    assert size(lambda n: np.ones(n)) and not size(lambda n: np.ones(n + 1))


def test_long_arguments_are_named_by_their_type():
    last = Exercise(
        name='last',
        right=lambda numbers: numbers[-1],
        cases=lambda: [(list(range(99)),)],
        verified='the last.',
        shape='',
        wrong=(),
    )
    assert 'wanted is 98 for numbers = a list.' in last(lambda numbers: numbers[0]).message
