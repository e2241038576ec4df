"""Training a user's own arrays, models, losses and optimisers with `training.fit`."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnn_jax import data, training
from cnn_jax.errors import UserError
from cnn_jax.training.interrupt import Interrupt
from tests.training.tiny import CLASSES, tiny_dataset

DATA = tiny_dataset()


class Count(nnx.Variable):
    """State that is neither a parameter nor a batch statistic."""


class Net(nnx.Module):
    """A convolution with batch norm, dropout, and a count of its training calls."""

    def __init__(self, num_outputs=CLASSES, *, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(100, num_outputs, rngs=rngs)
        self.calls = Count(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        if not self.drop.deterministic:
            self.calls[...] += 1
        x = nnx.relu(self.norm(self.conv(x)))
        return self.out(self.drop(x.reshape(len(x), -1)))


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def fit(folder, model=Net, given=DATA, **options):
    options = {'batch_size': 16, 'steps': 6, 'eval_every': '3steps'} | options
    return training.fit(model, given, workdir=folder / 'run', **options)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


OWN = {
    'loss': cross_entropy,
    'metrics': {'margin': lambda logits, labels: jnp.sort(logits)[:, -1] - jnp.sort(logits)[:, -2]},
    'optimizer': optax.adam(optax.cosine_decay_schedule(1e-2, 6)),
    'augment': lambda key, x, y: (x + 0.1 * jax.random.normal(key, x.shape, x.dtype), y),
    'ema': 0.9,
}


def test_an_interrupted_run_of_own_objects_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole = fit(tmp_path / 'a', **OWN)
    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, 'at', lambda self, step: 'SIGTERM' if step == 4 else None)
        with pytest.raises(training.Interrupted, match='stopped after step 4 of 6, saved'):
            fit(tmp_path / 'b', **OWN)
    again = fit(tmp_path / 'b', **OWN)
    same(again.state, whole.state)
    assert again.metrics == whole.metrics
    assert int(again.state.model_state['calls']) == int(again.state.step) == 6
    finished = fit(tmp_path / 'b', **OWN)
    same(finished.state, whole.state)
    assert finished.metrics == again.metrics
    assert set(whole.metrics['test']) == {'loss', 'accuracy', 'margin', 'confusion'}
    assert whole.metrics['metric'] == 'loss'
    steps = [row['step'] for row in again.history if 'test_loss' in row]
    assert steps == [3, 6] and (again.workdir.pictures / 'learning_curves.png').exists()


def test_predictions_are_those_of_the_returned_model(tmp_path):
    run = fit(tmp_path)
    test = DATA.splits['test']
    model, inputs = run.model, DATA.normalize(test.inputs)
    assert isinstance(model, Net)
    expected = jax.nn.softmax(model(inputs))
    found = run.predict(test.inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    accuracy = (found.argmax(-1) == test.labels).mean()
    assert run.metrics['test']['accuracy'] == pytest.approx(accuracy)
    assert 'learning_rate' in run.history[0]
    with pytest.raises(UserError, match=r'inputs: uint8 of shape \(2, 4, 5, 1\); must be uint8'):
        run.predict(np.zeros((2, 4, 5, 1), np.uint8))
    with pytest.raises(UserError, match='inputs: float32'):
        run.predict(np.zeros((2, 5, 5, 1), np.float32))


def test_names_train_as_by_the_script(tmp_path):
    options = {'steps': 3, 'batch_size': 64, 'model_options': 'features=(4,),hidden=()', 'seed': 3}
    run = training.fit('lecture_cnn', 'digits', workdir=tmp_path / 'fit', **options)
    config = training.TrainConfig(dataset='digits', model='lecture_cnn', **options)
    job, workdir = training.make_job(config), training.Workdir(tmp_path / 'script', config)
    with workdir.hold():
        state, result = training.train(job, workdir)
    same(run.state, state)
    assert run.metrics == result
    saved = training.load_run(tmp_path / 'fit')
    found = saved.objective.summary(saved.evaluate('test'))
    assert found['accuracy'] == pytest.approx(result['test']['accuracy'])


def test_a_model_brings_its_own_weights(tmp_path):
    model = Net(rngs=nnx.Rngs(5))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    run = fit(tmp_path, model, learning_rate=0.0, weight_decay=0.0, steps=2)
    for name, value in run.state.params.items():
        layer, _, parameter = name.partition('/')
        np.testing.assert_array_equal(value, before[layer][parameter])
    assert int(model.calls[...]) == 0  # the caller's model is not changed
    with pytest.raises(UserError, match='initial weights have changed'):
        fit(tmp_path, Net(rngs=nnx.Rngs(6)), learning_rate=0.0, weight_decay=0.0, steps=2)


@pytest.mark.parametrize(
    ('labels', 'outputs', 'metric', 'above'),
    [
        (lambda x, y: np.stack([y == 0, y > 0], 1), 2, 'macro_f1', 0.8),
        (lambda x, y: 1 + y / 2, 1, 'r2', 0.8),
    ],
    ids=['multilabel', 'regression'],
)
def test_other_tasks_learn(tmp_path, labels, outputs, metric, above):
    parts = {
        name: (split.inputs, labels(split.inputs.astype('f4'), split.labels))
        for name, split in DATA.splits.items()
    }
    make = functools.partial(Net, outputs)
    run = fit(tmp_path, make, parts, steps=150, learning_rate=1e-2, eval_every='150steps')
    assert run.metrics['metric'] == metric and run.metrics['test'][metric] > above
    assert run.predict(parts['test'][0][:3]).shape == (3, outputs)


def test_without_a_test_split_nothing_is_evaluated(tmp_path, capsys):
    split = DATA.splits['train']
    run = fit(tmp_path, given=(split.inputs, split.labels), steps=2)
    assert set(run.metrics) == {'step', 'metric'} and len(run.history) == 2
    assert 'not evaluated' in capsys.readouterr().out


X, Y = DATA.splits['train'].inputs, DATA.splits['train'].labels
PAIR = {'x': functools.partial(Net, 7), 'y': lambda rngs: rngs}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model': PAIR['x']}, r'own:.*its output has shape \(N, 7\); must be \(N, 3\)'),
        ({'model': PAIR['y']}, 'makes Rngs; must make an nnx.Module'),
        ({'model': 3}, 'must be a class or a function that makes an nnx.Module'),
        ({'model': lambda width, rngs: None}, 'width has no default; give it'),
        ({'model': 'lecture_net'}, "unknown model 'lecture_net'"),
        ({'loss': lambda o, y: o}, r'loss: returns an array of shape \(2, 3\) for 2 examples'),
        ({'metrics': {'top': lambda o, y: o.max(0)}}, 'top: returns an array of shape'),
        ({'optimizer': 'adamw2'}, "optimizer='adamw2': must be one of sgd"),
        ({'optimizer': 0.1}, 'optimizer: got float; must be an optax.GradientTransformation'),
        ({'augment': lambda k, x, y: (x[:, 1:], y)}, r'augment: returns arrays of shape \(2, 4'),
        ({'best': 'auc'}, "best='auc': must be one of loss, accuracy"),
        ({'epochz': 3}, 'epochz: fit has no such argument'),
        ({'batch_size': 0}, 'batch_size=0: must be at least 1'),
        ({'given': (X, Y[:-1])}, 'labels has 47 rows, but inputs has 48'),
        ({'given': (X, np.where(Y == 1, np.nan, Y))}, 'labels of example .* contain nan'),
        ({'loss': cross_entropy, 'label_smoothing': 0.1}, 'label_smoothing=0.1: .*own'),
        ({'loss': cross_entropy, 'class_weights': 'balanced'}, "class_weights='balanced': .*own"),
    ],
)
def test_what_cannot_work_is_one_line_before_training(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as found:
        fit(tmp_path, **options)
    assert '\n' not in str(found.value) and not (tmp_path / 'run').exists()


def test_another_program_does_not_resume_the_run(tmp_path):
    fit(tmp_path, steps=2, **{k: v for k, v in OWN.items() if k != 'ema'})
    for name, other in (
        ('loss', lambda logits, labels: 2 * cross_entropy(logits, labels)),
        ('optimizer', optax.adam(optax.cosine_decay_schedule(1e-3, 6))),
        ('augment', lambda key, x, y: (x, y)),
        ('metrics', {}),
    ):
        changed = {k: v for k, v in OWN.items() if k != 'ema'} | {name: other}
        with pytest.raises(UserError, match='belongs to another program'):
            fit(tmp_path, steps=2, **changed)
    with pytest.raises(UserError, match='batch_size=16 in the run, 8 now'):
        fit(tmp_path, steps=2, batch_size=8, **{k: v for k, v in OWN.items() if k != 'ema'})
    other = data.as_dataset({'train': (X[::-1], Y[::-1]), 'test': (X, Y)})
    with pytest.raises(UserError, match='trained on different data'):
        fit(tmp_path, given=other, steps=2, **{k: v for k, v in OWN.items() if k != 'ema'})
    program = tmp_path / 'run' / 'program.json'
    told = json.loads(program.read_text())
    program.write_text(json.dumps(told | {'traced_by': {'jax': '0.0'}}))
    fit(tmp_path, steps=2, **{k: v for k, v in OWN.items() if k != 'ema'} | {'metrics': {}})
    with pytest.raises(UserError, match='holds a run of training.fit'):
        training.load_run(tmp_path / 'run')
