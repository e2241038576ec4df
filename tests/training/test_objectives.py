"""Losses and metrics of the tasks, against float64 NumPy, scikit-learn and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sklearn_metrics

from cnn_jax.errors import UserError
from cnn_jax.training.objectives import Classification, MultiLabel, OwnLoss, Regression

N = 37


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def labels_of(objective):
    chance = np.random.default_rng(1)
    if isinstance(objective, Regression):
        return (1e4 + chance.normal(size=(N, 3))).astype(np.float32)
    if isinstance(objective, MultiLabel):
        return chance.integers(0, 2, (N, 4)).astype(np.int32)
    return chance.integers(0, 4, N).astype(np.int32)


def outputs_of(objective):
    if isinstance(objective, Regression):
        return labels_of(objective) + 0.5 * normal(N, 3)
    return 3 * normal(N, 4)


def absolute(outputs, labels):
    """A loss with one value per example."""
    return jnp.abs(outputs.sum(-1) - labels)


OBJECTIVES = [
    Classification(4),
    MultiLabel(4),
    Regression(3, (1e4, 1e4, 1e4)),
    OwnLoss(absolute, {'squared': lambda o, y: absolute(o, y) ** 2}, Classification(4)),
]


@pytest.mark.parametrize('objective', OBJECTIVES, ids=lambda o: type(o).__name__)
def test_sums_over_padded_parts_are_those_of_the_whole(objective):
    outputs, labels = outputs_of(objective), labels_of(objective)
    sums = jax.jit(objective.sums)
    whole = objective.summary(sums(outputs, labels, np.ones(N, np.float32)))
    total = None
    for start in range(0, N, 10):
        rows = np.arange(start, start + 10)
        weights = (rows < N).astype(np.float32)
        rows = np.minimum(rows, N - 1)
        part = np.where(weights[:, None] > 0, outputs[rows], np.nan)  # padding may hold anything
        found = sums(part, labels[rows], weights)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    parts = objective.summary(jax.device_get(total))
    assert set(parts) == set(whole)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=2e-5, err_msg=name)
    assert objective.metric in whole
    better = whole | {objective.metric: whole[objective.metric] + 0.1}
    is_loss = objective.metric == 'loss'
    assert (objective.score(better) < objective.score(whole)) == is_loss


def test_the_loss_of_multilabel_is_that_of_pytorch():
    torch = pytest.importorskip('torch')
    objective = MultiLabel(4)
    outputs, labels = outputs_of(objective), labels_of(objective)
    ours = jax.value_and_grad(lambda o: objective.loss(o, objective.targets(labels)))(outputs)
    theirs = torch.tensor(outputs, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(theirs, torch.tensor(labels) * 1.0)
    loss.backward()
    np.testing.assert_allclose(ours[0], loss.item(), rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs.grad.numpy(), rtol=1e-5, atol=1e-8)
    smoothed = MultiLabel(4, 0.2).targets(labels)
    np.testing.assert_allclose(smoothed, labels * 0.8 + 0.1, rtol=1e-6)


def test_the_metrics_of_multilabel_are_those_of_scikit_learn():
    objective = MultiLabel(5)
    outputs = np.concatenate([outputs_of(objective), np.full((N, 1), -1, np.float32)], 1)
    labels = np.concatenate([labels_of(objective), np.zeros((N, 1), np.int32)], 1)
    sums = jax.device_get(objective.sums(outputs, labels, np.ones(N, np.float32)))
    found, said = objective.summary(sums), outputs > 0
    assert found['exact_match'] == pytest.approx(sklearn_metrics.accuracy_score(labels, said))
    assert found['accuracy'] == pytest.approx((said == labels).mean())
    micro = sklearn_metrics.f1_score(labels, said, average='micro')
    assert found['micro_f1'] == pytest.approx(micro)
    # The last class is neither true nor predicted, and does not count.
    macro = sklearn_metrics.f1_score(labels[:, :4], said[:, :4], average='macro')
    assert found['macro_f1'] == pytest.approx(macro)
    assert objective.table(sums, 'abcde').count('\n') == 5
    empty = objective.sums(outputs, labels, np.zeros(N, np.float32))
    assert objective.summary(jax.device_get(empty))['macro_f1'] == 0


def test_the_metrics_of_regression_are_those_of_scikit_learn():
    """Labels are 1e4 with a deviation of 1: the sum of their squares has no digits left for it."""
    objective = OBJECTIVES[2]
    outputs, labels = outputs_of(objective), labels_of(objective)
    sums = jax.device_get(objective.sums(outputs, labels, np.ones(N, np.float32)))
    found = objective.summary(sums)
    exact = outputs.astype(np.float64), labels.astype(np.float64)
    r2 = sklearn_metrics.r2_score(exact[1], exact[0])
    assert found['r2'] == pytest.approx(r2, abs=1e-4)
    assert found['loss'] == pytest.approx(np.mean((exact[0] - exact[1]) ** 2), rel=1e-5)
    assert found['rmse'] == pytest.approx(found['loss'] ** 0.5)
    assert found['mae'] == pytest.approx(np.abs(exact[0] - exact[1]).mean(), rel=1e-5)
    loss = objective.loss(outputs, objective.targets(labels))
    assert float(loss) == pytest.approx(found['loss'], rel=1e-5)
    constant = objective.sums(outputs, labels * 0 + 7, np.ones(N, np.float32))
    assert np.isnan(objective.summary(jax.device_get(constant))['r2'])


def test_a_scalar_loss_counts_as_the_mean_of_its_examples():
    each = OwnLoss(absolute)
    mean = OwnLoss(lambda outputs, labels: absolute(outputs, labels).mean())
    outputs, labels = outputs_of(each), labels_of(each)
    weights = (np.arange(N) < 30).astype(np.float32)
    for objective in (each, mean):
        sums = jax.device_get(objective.sums(outputs, labels, weights))
        expected = np.abs(outputs[:30].sum(-1, dtype='f8') - labels[:30]).mean()
        assert objective.summary(sums) == {'loss': pytest.approx(expected, rel=1e-5)}
    assert each.loss(outputs, labels) == pytest.approx(float(mean.loss(outputs, labels)), rel=1e-6)


@pytest.mark.parametrize(
    ('function', 'message'),
    [
        (lambda o, y: o, r'loss: returns an array of shape \(2, 4\) for 2 examples'),
        (lambda o, y: {'a': o.sum()}, 'loss: returns dict for 2 examples'),
        (lambda o, y: o.argmax(-1) == y, 'loss: returns dtype bool; must be floating point'),
    ],
)
def test_a_loss_must_be_a_scalar_or_one_value_per_example(function, message):
    outputs = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    labels = jax.ShapeDtypeStruct((2,), jnp.int32)
    with pytest.raises(UserError, match=message):
        OwnLoss(function).check(outputs, labels)
    OwnLoss(optax.softmax_cross_entropy_with_integer_labels).check(outputs, labels)


@pytest.mark.parametrize('objective', OBJECTIVES[:3], ids=lambda o: type(o).__name__)
def test_outputs_of_another_shape_are_refused(objective):
    labels = labels_of(objective)
    for wrong in (jnp.zeros((N, 7)), jnp.zeros((N,)), (jnp.zeros((N, 4)), jnp.zeros((N, 4)))):
        with pytest.raises(UserError, match=r'its output has shape .*; must be \(N, [34]\)'):
            objective.check(wrong, labels)
    objective.check(outputs_of(objective), labels)
