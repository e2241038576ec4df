"""Tests that the metrics at the end of a run belong to its last state."""

import jax
import numpy as np
import optax

from cnn_jax.training.devices import Devices
from cnn_jax.training.evaluation import ObjectiveEvaluator
from cnn_jax.training.objectives import Classification
from cnn_jax.training.state import FunctionalModel, init_state
from tests.training.tiny import CLASSES, Tiny, tiny_dataset


def test_final_metrics_are_those_of_the_state_even_if_another_was_evaluated_last():
    net, dataset = FunctionalModel(Tiny), tiny_dataset()
    objective = Classification(CLASSES)
    make = lambda: ObjectiveEvaluator(net, objective, dataset, Devices.all(), 16)  # noqa: E731
    first, second = (init_state(net, optax.sgd(0.1), seed) for seed in (0, 1))
    expected = make().final(second, 2)
    assert make().final(first, 2)['test']['loss'] != expected['test']['loss']
    evaluator = make()
    evaluator.evaluate(first, 1, 'test')
    jax.tree.map(np.testing.assert_array_equal, evaluator.final(second, 2), expected)
    found = evaluator.evaluate(second, 2, 'test').metrics
    jax.tree.map(np.testing.assert_array_equal, evaluator.final(second, 2), expected)
    assert found['test_loss'] == expected['test']['loss']
