import pytest

from cnn_jax.errors import UserError
from cnn_jax.registry import Registry


def test_register_as_a_call_and_as_a_decorator():
    registry = Registry('shape')
    registry.register('square', 4)

    @registry.register('circle')
    def circle():
        return 0

    assert list(registry) == ['square', 'circle']
    assert registry.lookup('circle') is circle
    assert registry['square'] == 4


def test_an_unknown_name_is_answered_with_the_known_ones():
    registry = Registry('shape')
    registry.register('square', 4)
    message = "unknown shape 'sqare'; must be one of square; did you mean"
    with pytest.raises(UserError, match=message):
        registry.lookup('sqare')
    assert 'sqare' not in registry


def test_a_name_is_taken_once():
    registry = Registry('shape')
    registry.register('square', 4)
    registry.register('square', 4)  # as if the module were loaded again
    with pytest.raises(UserError, match="'square' is already registered"):
        registry.register('square', 5)
