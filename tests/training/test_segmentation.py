"""Loss and metrics of segmentation against float64 NumPy, loops over pixels, and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.masks import IGNORE
from cnn_jax.training import segmentation

RNG = np.random.default_rng(0)


def batch(n=3, height=5, width=4, classes=4, ignored=0.3):
    logits = RNG.standard_normal((n, height, width, classes)).astype(np.float32) * 3
    labels = RNG.integers(0, classes, (n, height, width)).astype(np.int32)
    labels[RNG.uniform(size=labels.shape) < ignored] = IGNORE
    return logits, labels


def counted(logits, labels, rows=slice(None)):
    """Yields (logits in float64, label) of every pixel that counts."""
    pixels = logits[rows].reshape(-1, logits.shape[-1])
    for pixel, label in zip(pixels, labels[rows].ravel(), strict=True):
        if label != IGNORE:
            yield pixel.astype(np.float64), label


def loss_of(pixels):
    return [np.log(np.exp(z - z.max()).sum()) + z.max() - z[label] for z, label in pixels]


def test_cross_entropy_and_its_gradient_are_those_of_float64():
    logits, labels = batch()
    value, gradient = jax.value_and_grad(segmentation.cross_entropy)(logits, labels)
    expected = loss_of(counted(logits, labels))
    assert value == pytest.approx(np.mean(expected), rel=1e-6)
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(-1, keepdims=True)
    wanted = softmax - np.eye(4)[np.where(labels == IGNORE, 0, labels)]
    wanted[labels == IGNORE] = 0
    np.testing.assert_allclose(gradient, wanted / len(expected), atol=1e-7)


def test_cross_entropy_is_that_of_torch():
    torch = pytest.importorskip('torch', reason='the compare extra is not installed')
    logits, labels = batch()
    theirs = torch.tensor(logits).movedim(-1, 1).requires_grad_(True)
    loss = torch.nn.CrossEntropyLoss(ignore_index=IGNORE)(theirs, torch.tensor(labels).long())
    loss.backward()
    value, gradient = jax.value_and_grad(segmentation.cross_entropy)(logits, labels)
    assert value == pytest.approx(loss.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad.movedim(1, -1), atol=1e-7)


def test_a_batch_without_pixels_that_count_has_no_loss_and_no_gradient():
    logits, labels = batch(ignored=2)
    logits[0, 0, 0] = np.inf  # as an overflow in a pixel that does not count
    value, gradient = jax.value_and_grad(segmentation.cross_entropy)(logits, labels)
    assert value == 0 and segmentation.accuracy(logits, labels) == 0
    assert np.all(gradient == 0)
    assert segmentation.summary(segmentation.example_sums(logits, labels, np.ones(3))) == {
        'loss': 0,
        'pixel_accuracy': 0,
        'miou': 0,
        'mean_dice': 0,
    }


@pytest.mark.parametrize('dtype', [np.uint8, np.int32])
def test_sums_of_batches_are_metrics_of_the_split(dtype):
    logits, labels = batch(6)
    labels[labels == 2] = 1  # class 2 is predicted, but is no label
    weights = np.ones(6, np.float32)
    weights[4:] = 0
    logits[5] = np.nan  # padding may hold anything
    parts = [
        segmentation.example_sums(
            logits[i : i + 2], labels[i : i + 2].astype(dtype), weights[i:][:2]
        )
        for i in (0, 2, 4)
    ]
    sums = jax.tree.map(lambda *a: sum(a), *parts)
    pixels = list(counted(logits, labels, slice(4)))
    confusion = np.zeros((4, 4), int)
    for z, label in pixels:
        confusion[label, z.argmax()] += 1
    np.testing.assert_array_equal(segmentation.confusion_matrix(sums), confusion)
    found = segmentation.summary(sums)
    assert found['loss'] == pytest.approx(np.mean(loss_of(pixels)), rel=1e-6)
    assert found['pixel_accuracy'] == np.mean([z.argmax() == label for z, label in pixels])


def test_iou_and_dice_are_set_operations_on_pixels():
    labels, predicted = RNG.integers(0, 5, (2, 40))
    labels, predicted = labels % 4, np.where(predicted == 3, 4, predicted)  # 3: only a label
    confusion = np.zeros((6, 6), int)  # 5: neither a label nor a prediction
    np.add.at(confusion, (labels, predicted), 1)
    ious, dices = [], []
    for c in range(5):
        a, b = set(np.flatnonzero(labels == c)), set(np.flatnonzero(predicted == c))
        ious.append(len(a & b) / len(a | b))
        dices.append(2 * len(a & b) / (len(a) + len(b)))
    np.testing.assert_allclose(segmentation.iou(confusion), [*ious, np.nan])
    np.testing.assert_allclose(segmentation.dice(confusion), [*dices, np.nan])
    sums = {'loss': 0.0, 'confusion': np.stack([confusion, 0 * confusion])}
    found = segmentation.summary(sums)
    assert found['miou'] == pytest.approx(np.mean(ious))
    assert found['mean_dice'] == pytest.approx(np.mean(dices))
    assert 'nan' in segmentation.class_table(confusion, 'abcdef').splitlines()[-1]


def test_more_pixels_than_int32_can_be_counted():
    per_batch = 2**30 + 4095
    one = np.stack([[[per_batch % 4096]], [[per_batch // 4096]]]).astype(np.uint32)
    sums = jnp.zeros((2, 1, 1), jnp.uint32)
    for _ in range(9):
        sums = sums + one
    assert segmentation.confusion_matrix({'confusion': sums}) == [[9 * per_batch]]


def test_smaller_logits_belong_to_the_centre():
    logits, labels = batch(2, 3, 4)
    around = np.full((2, 7, 6), 1, np.int32)
    around[:, 2:5, 1:5] = labels
    np.testing.assert_array_equal(
        segmentation.cross_entropy(logits, around), segmentation.cross_entropy(logits, labels)
    )
    sums = [segmentation.example_sums(logits, mask, np.ones(2)) for mask in (labels, around)]
    np.testing.assert_array_equal(sums[0]['confusion'], sums[1]['confusion'])
    assert segmentation.accuracy(logits, around) == segmentation.accuracy(logits, labels)


@pytest.mark.parametrize('shape', [(0, 4, 4), (2, 1, 1)])
def test_degenerate_batches(shape):
    logits, labels = batch(*shape, classes=1, ignored=0)
    found = segmentation.summary(segmentation.example_sums(logits, labels, np.ones(shape[0])))
    assert found['loss'] == 0 and found['pixel_accuracy'] == (shape[0] > 0)
