"""Every exercise accepts the right function, and answers each typical wrong one with its hint."""

import importlib
import pkgutil

import pytest

import cnn_jax.course
from cnn_jax.course.exercise import Exercise

EXERCISES = [
    pytest.param(exercise, id=f'{module.name}.{exercise.name}')
    for module in pkgutil.iter_modules(cnn_jax.course.__path__)
    for exercise in vars(importlib.import_module(f'cnn_jax.course.{module.name}')).values()
    if isinstance(exercise, Exercise)
]


@pytest.mark.parametrize('exercise', EXERCISES)
def test_right_function_is_accepted(exercise):
    outcome = exercise(exercise.right)
    assert outcome and outcome.message == f'correct: {exercise.verified}'


@pytest.mark.parametrize('exercise', EXERCISES)
def test_each_wrong_function_gets_its_hint(exercise):
    """So no wrong function equals the right one, or one before it, on the cases."""
    assert len(exercise.wrong) >= 5
    for function, hint in exercise.wrong:
        outcome = exercise(function)
        assert not outcome and outcome.message == f'not yet: {hint}'
