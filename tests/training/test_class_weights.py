"""Tests the weighted cross entropy against PyTorch's CrossEntropyLoss(weight=...)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.training import TrainConfig, make_job
from cnn_jax.training.objectives import Classification
from cnn_jax.training.objectives.classification import balanced


def test_loss_and_gradient_are_those_of_pytorch():
    torch = pytest.importorskip('torch')
    chance = np.random.default_rng(0)
    logits = chance.normal(size=(9, 4)).astype(np.float32)
    labels = chance.integers(0, 4, 9).astype(np.int32)
    weights = (0.5, 0.0, 3.0, 1.25)
    objective = Classification(4, class_weights=weights)
    found = jax.value_and_grad(lambda x: objective.loss(x, objective.targets(labels)))(logits)
    leaf = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    wanted = torch.nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float64))(
        leaf, torch.tensor(labels, dtype=torch.int64)
    )
    wanted.backward()
    np.testing.assert_allclose(found[0], wanted.item(), rtol=1e-6)
    np.testing.assert_allclose(found[1], leaf.grad, rtol=1e-5, atol=1e-7)


def test_a_batch_without_weight_has_neither_loss_nor_gradient():
    objective = Classification(2, class_weights=(0.0, 1.0))
    loss = lambda x: objective.loss(x, jnp.zeros(3, jnp.int32))  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(jnp.ones((3, 2)))
    assert value == 0 and not np.any(gradient)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat(np.arange(3), (5, 1, 14)).astype(np.int32)
    wanted = compute_class_weight('balanced', classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced(labels, ('a', 'b', 'c')), wanted)
    with pytest.raises(ValueError, match="class 'd' has no training example"):
        balanced(labels, ('a', 'b', 'c', 'd'))


def test_the_flag_reaches_the_objective():
    job = make_job(TrainConfig(class_weights='balanced'))
    labels = job.dataset.splits['train'].labels
    assert job.objective.class_weights == balanced(labels, job.dataset.class_names)


@pytest.mark.parametrize(
    'values, said',
    [
        ({'class_weights': '1,2'}, 'has 2 numbers, must be one for each of the 10 classes'),
        ({'class_weights': '1,x'}, "class_weights='1,x': "),
        ({'class_weights': '0,0'}, 'must be balanced, or numbers of at least 0'),
        ({'class_weights': '1,nan'}, 'must be balanced, or numbers of at least 0'),
        ({'class_weights': 'balanced', 'label_smoothing': 0.1}, 'give one of them'),
        ({'class_weights': 'balanced', 'augment': 'mixup'}, 'mixed targets have no class'),
    ],
    ids=str,
)
def test_weights_without_sense_are_said(values, said):
    with pytest.raises(ValueError, match=said):
        make_job(TrainConfig(**values))
