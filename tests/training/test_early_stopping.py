"""Tests when a run stops early, what it keeps, and that a resumed run stops at the same step."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest

from cnn_jax.training import Checkpoints, TrainConfig, Workdir, make_job, read_metrics, train
from cnn_jax.training.early_stopping import Progress, progress
from cnn_jax.training.evaluation import Evaluation
from cnn_jax.training.job import Job

SCORES = [0.1, 0.5, math.nan, 0.5, 0.4, 0.9, 0.9]  # of steps 2, 4, ...; patience ends at step 10
CONFIG = TrainConfig(
    model_options='features=(4,),hidden=()',
    validation=0.2,
    steps=14,
    early_stopping=3,
    log_every=100,
    eval_every='2steps',
    checkpoint_every='7steps',
    keep_last=1,
)


class Scripted:
    """An evaluator whose scores are given."""

    def evaluate(self, state, step, split):
        assert split == 'validation'
        score = SCORES[step // 2 - 1]
        return Evaluation({'validation_accuracy': score}, '', score)

    def final(self, state, step):
        return {'step': step}


@dataclasses.dataclass(frozen=True)
class ScriptedJob(Job):
    def evaluator(self):
        return Scripted()


def run(folder, config=CONFIG):
    job = make_job(config)
    job = ScriptedJob(**{f.name: getattr(job, f.name) for f in dataclasses.fields(job)})
    workdir = Workdir(folder, config)
    with workdir.hold():
        return train(job, workdir)


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stopped') / 'run'
    return *run(folder), folder


def test_it_stops_after_evaluations_without_improvement_and_keeps_the_best(stopped):
    state, result, folder = stopped
    assert int(state.step) == 10
    assert result == {
        'step': 10,
        'early_stopping': {'stopped_early': True, 'best_step': 4, 'best_score': 0.5},
    }
    with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.steps() == [4, 10] and checkpoints.find('best') == 4
    scores = [row['validation_score'] for row in read_metrics(folder) if 'validation_score' in row]
    assert scores == [0.1, 0.5, None, 0.5, 0.4]


@pytest.mark.parametrize('lost', [(), (10,)], ids=['after the stop', 'before it'])
def test_a_resumed_run_stops_at_the_same_step_with_the_same_bits(stopped, tmp_path, lost):
    state, result, folder = stopped
    copy = tmp_path / 'run'
    shutil.copytree(folder, copy)
    for step in lost:  # as if the process had been killed during the last steps
        shutil.rmtree(copy / 'checkpoints' / str(step))
    again, same = run(copy)
    assert same == result
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert (copy / 'metrics.jsonl').read_text().count('validation_score') == 5


def test_a_run_with_patience_to_spare_ends_at_its_last_step(tmp_path):
    config = dataclasses.replace(CONFIG, early_stopping=4)
    state, result = run(tmp_path / 'run', config)
    assert int(state.step) == result['step'] == 14
    assert result['early_stopping'] == {'stopped_early': False, 'best_step': 12, 'best_score': 0.9}
    assert json.loads(config.to_json())['early_stopping'] == 4


def test_progress_by_its_definition():
    scores = np.round(np.random.default_rng(0).normal(size=40), 1).tolist()
    found = Progress()
    for i, score in enumerate(scores):
        found = found.after(i, score)
        best = int(np.argmax(scores[: i + 1]))  # the first of equal ones
        assert found == (scores[best], best, i - best)
    rows = [{'step': i, 'a': score} for i, score in enumerate(scores)]
    assert progress(rows, 'a', 39) == found and progress(rows, 'b', 39) == Progress()
    assert progress(rows, 'a', 0) == (scores[0], 0, 0)
    assert Progress().after(3, math.nan) == (-math.inf, 0, 1)


def test_runs_that_have_nothing_to_watch_are_said():
    with pytest.raises(ValueError, match='early_stopping=2: digits has no validation split'):
        make_job(TrainConfig(early_stopping=2))
    with pytest.raises(ValueError, match='keep_best=0: must be at least 1 with early_stopping=2'):
        TrainConfig(early_stopping=2, keep_best=0)
