"""Tests the trackers of metrics: what they receive, how a run continues, and their failures.

The tests of W&B and MLflow use the real packages, offline, and skip where they are not installed.
"""

import json

import pytest

from cnn_jax.errors import MissingPackageError
from cnn_jax.training import TrainConfig, tracking

ROWS = [
    {'step': 1, 'epoch': 0.5, 'train_loss': 2.5, 'learning_rate': 0.1},
    {'step': 2, 'epoch': 1.0, 'validation_accuracy': 0.25},
]


@pytest.fixture
def registered(monkeypatch):
    """A tracker 'mine' that keeps what it is given, and 'broken', whose writing fails."""
    opened = []

    class Mine:
        def __init__(self, folder, config, run_id):
            self.rows, self.is_closed = [], False
            self.run_id = run_id or f'id{len(opened)}'
            opened.append(self)

        @staticmethod
        def check():
            pass

        def write(self, row):
            self.rows.append(row)

        def close(self):
            self.is_closed = True

    class Broken(Mine):
        def write(self, row):
            raise OSError('the network is gone')

    class Closed(Mine):
        def __init__(self, folder, config, run_id):
            raise RuntimeError('no account')

    for name, kind in (('mine', Mine), ('broken', Broken), ('closed', Closed)):
        monkeypatch.setitem(tracking.TRACKERS._values, name, kind)
    return opened


def test_a_run_goes_on_under_its_id(registered, tmp_path):
    config = TrainConfig(track='mine')
    for row in ROWS:  # two processes, one after the other
        trackers = tracking.Trackers(tmp_path, config)
        trackers.write(row)
        trackers.close()
    assert [each.run_id for each in registered] == ['id0', 'id0']
    assert [each.rows for each in registered] == [ROWS[:1], ROWS[1:]]
    assert all(each.is_closed for each in registered)
    assert json.loads((tmp_path / tracking.RUN_IDS).read_text()) == {'mine': 'id0'}


def test_a_tracker_that_fails_is_given_up_with_a_warning(registered, tmp_path, capsys):
    trackers = tracking.Trackers(tmp_path, TrainConfig(track='broken,mine'))
    for row in ROWS:
        trackers.write(row)
    trackers.close()
    broken, mine = registered
    assert mine.rows == ROWS and mine.is_closed and not broken.is_closed
    warning = 'warning: broken gets no more metrics (OSError: the network is gone)\n'
    assert capsys.readouterr().out == warning


def test_a_tracker_that_cannot_be_opened_is_said_and_the_others_closed(registered, tmp_path):
    with pytest.raises(ValueError, match="track='closed': RuntimeError: no account"):
        tracking.Trackers(tmp_path, TrainConfig(track='mine, closed'))
    assert registered[0].is_closed


def test_names_and_packages_are_checked(monkeypatch):
    with pytest.raises(ValueError, match="track='wand': unknown tracker .*did you mean 'wandb'"):
        TrainConfig(track='wand')
    assert TrainConfig(track='wandb').differences(TrainConfig()) == {}
    for name in ('wandb', 'mlflow'):
        monkeypatch.setitem(__import__('sys').modules, name, None)
        with pytest.raises(MissingPackageError, match=f"pip install 'cnn_jax.{name}.'"):
            tracking.check([name])


def test_wandb_offline_continues_its_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    rows, log = [], wandb.Run.log
    monkeypatch.setattr(wandb.Run, 'log', lambda run, row: (rows.append(row), log(run, row)))
    config = TrainConfig(track='wandb', epochs=3.0)
    for row in ROWS:
        trackers = tracking.Trackers(tmp_path, config)
        trackers.write(row)
        assert wandb.run.config['epochs'] == 3.0
        trackers.close()
    assert rows == ROWS
    run_id = json.loads((tmp_path / tracking.RUN_IDS).read_text())['wandb']
    # Each process writes one file, which `wandb sync` sends to the run of this id.
    assert len(list(tmp_path.glob(f'wandb/offline-run-*/run-{run_id}.wandb'))) == len(ROWS)


def test_mlflow_continues_its_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    mlflow.set_tracking_uri((tmp_path / 'store').as_uri())
    config = TrainConfig(track='mlflow', epochs=3.0)
    for row in ROWS:
        trackers = tracking.Trackers(tmp_path, config)
        trackers.write(row)
        trackers.close()
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'cnn_jax'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == tmp_path.name and run.info.status == 'FINISHED'
    assert run.data.params['epochs'] == '3.0'
    wanted = {(name, row['step'], row[name]) for row in ROWS for name in tracking._numbers(row)}
    histories = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    assert {(m.key, m.step, m.value) for history in histories for m in history} == wanted
