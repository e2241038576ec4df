"""Checkpoints: a saved state is restored unchanged, and damage is always reported."""

import json
import math
import os
import pathlib
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.errors import UserError
from cnn_jax.training import processes
from cnn_jax.training.checkpoints import (
    Checkpoints,
    DamagedError,
    MismatchError,
    SaveError,
    named_leaves,
)


def state(value):
    """A state with every kind of leaf of a training state; large enough for its own data file."""
    chance = np.random.default_rng(value)
    return {
        'step': jnp.int32(value),
        'params': {
            'layers/conv/kernel': jnp.asarray(chance.normal(size=(3, 3, 8, 64)), jnp.float32),
            'layers/conv/bias': jnp.asarray(chance.normal(size=64), jnp.bfloat16),
        },
        'rest': {},
        'opt': (jnp.zeros((), jnp.int32), {'mu': jnp.full(5, float(value))}),
    }


def shapes(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree)


LIKE = shapes(state(0))

# Orbax leaves its tasks that fail on a damaged file to the garbage collector.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """A folder with checkpoints 1 and 2, for tests to copy."""
    folder = tmp_path_factory.mktemp('written') / 'checkpoints'
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / 'checkpoints')


def assert_is(found, step):
    jax.tree.map(np.testing.assert_array_equal, found, state(step))
    jax.tree.map(lambda a, b: None if a.dtype == b.dtype else pytest.fail('dtype'), found, LIKE)


def restore_newest(folder, **options):
    said = []
    say = mock.patch.object(processes, 'say', said.append)
    with say, Checkpoints(folder, **options) as checkpoints:
        found, meta = checkpoints.restore_newest(LIKE)
        return found, meta['step'], said, checkpoints.steps()


def test_what_was_saved_comes_back(folder):
    found, step, said, steps = restore_newest(folder)
    assert (step, said, steps) == (2, [], [1, 2])
    assert_is(found, 2)


def test_a_part_comes_back(folder):
    like = {'params': LIKE['params']}
    with Checkpoints(folder, read_only=True) as checkpoints:
        found, _ = checkpoints.restore(1, like, partial=True)
        assert_is(found | {k: v for k, v in state(1).items() if k != 'params'}, 1)
        with pytest.raises(MismatchError, match='is missing from this model'):
            checkpoints.restore(1, like)


def files(folder):
    return sorted(p for p in pathlib.Path(folder).rglob('*') if p.is_file())


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize('damage', [flip, cut, pathlib.Path.unlink], ids=['flip', 'cut', 'delete'])
def test_damage_to_any_file_is_seen_or_harmless(folder, damage):
    """Damages each file of the newest step in turn.

    Either that step is restored unchanged, or the one before it.
    """
    reports = []
    originals = {file: file.read_bytes() for file in files(folder / '2')}
    assert len(originals) >= 8
    for file, content in originals.items():
        if not content:
            continue
        damage(file)
        found, step, said, _ = restore_newest(folder, read_only=True)
        assert_is(found, step)
        assert step == 2 or (step == 1 and 'checkpoint 2 is damaged' in said[0]), file
        reports.append(step)
        file.write_bytes(content)
    assert 1 in reports  # otherwise no damage was detected
    assert restore_newest(folder, read_only=True)[1] == 2


def test_a_damaged_step_is_set_aside_and_its_number_used_again(folder):
    for file in files(folder / '2' / 'state'):
        flip(file)
    found, step, said, steps = restore_newest(folder)
    assert (step, steps) == (1, [1])
    assert 'checkpoint 2 is damaged' in said[0] and 'moved' in said[1]
    assert (folder.parent / 'damaged' / '2').is_dir()
    assert_is(found, 1)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, state(7))
    assert_is(restore_newest(folder)[0], 7)


def test_an_emptied_step_is_set_aside(folder):
    shutil.rmtree(folder / '2')
    (folder / '2').mkdir()
    assert restore_newest(folder)[1] == 1


def test_none_whole_is_an_error_and_nothing_is_moved(folder):
    for step in '12':
        for file in files(folder / step / 'state'):
            flip(file)
    before = files(folder)
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(DamagedError, match='are damaged .tried 2, 1.'):
            checkpoints.restore_newest(LIKE)
    assert files(folder) == before


def test_another_model_is_an_error(folder):
    other = {'params': LIKE['params'] | {'layers/more': LIKE['step']}}
    with Checkpoints(folder, read_only=True) as checkpoints:
        with pytest.raises(MismatchError, match='params/layers/more is missing from the'):
            checkpoints.restore(2, LIKE | other)


def test_reading_changes_nothing_and_logs_nothing(folder, caplog):
    left = folder / '3.orbax-checkpoint-tmp'
    shutil.copytree(folder / '2', left)
    before = [(path, path.stat().st_mtime_ns) for path in (folder, *files(folder))]
    assert restore_newest(folder, read_only=True)[1] == 2
    assert [(path, path.stat().st_mtime_ns) for path in (folder, *files(folder))] == before
    assert not [record for record in caplog.records if record.levelname == 'WARNING']


def test_an_interrupted_save_is_cleaned_up(folder):
    left = folder / '3.orbax-checkpoint-tmp'
    shutil.copytree(folder / '2', left)
    assert restore_newest(folder)[1] == 2
    assert not left.exists()
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(3, state(3))
    assert restore_newest(folder)[1] == 3


def test_times_play_no_part(folder):
    """Simulates a clock that jumped: the newer checkpoint has a time stamp that is years older."""
    for step, when in ('1', 2e9), ('2', 1e9):
        for path in [folder / step, *(folder / step).rglob('*')]:
            if path.name == '_CHECKPOINT_METADATA':
                stamps = json.loads(path.read_text())
                stamps |= {name: int(when * 1e9) for name in stamps if name.endswith('_nsecs')}
                assert 'init_timestamp_nsecs' in stamps
                path.write_text(json.dumps(stamps))
            os.utime(path, (when, when))
    assert restore_newest(folder)[1:] == (2, [], [1, 2])
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(3, state(3))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]


def test_newest_and_best_are_kept_and_nan_is_never_best(tmp_path):
    with Checkpoints(tmp_path / 'c', keep_last=2, keep_best=1) as checkpoints:
        for step, score in enumerate([0.5, 0.9, math.nan, 0.3, None], start=1):
            checkpoints.save(step, state(step), score=score)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]
        with pytest.raises(ValueError, match='step=3: must be above 5, the newest'):
            checkpoints.save(3, state(3))


def test_a_full_disk_is_an_error_and_harms_nothing(folder):
    """Limits every file to 20 kB, so that writing fails as it does on a full disk."""
    import resource

    before = {file: file.read_bytes() for file in files(folder)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(folder)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(SaveError, match='could not be written'):
            # Noise, which Orbax cannot compress to a size below the limit.
            checkpoints.save(3, {'large': np.random.default_rng(0).normal(size=10**5)})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    checkpoints.close()
    found, step, said, _ = restore_newest(folder)
    assert (step, said) == (2, [])
    assert_is(found, 2)
    assert before == {file: file.read_bytes() for file in files(folder)}


def test_other_devices(tmp_path):
    """Saves on eight devices and restores on two, and the reverse; also on another mesh."""
    from cnn_jax.training.devices import Devices

    meshes = (8, ''), (2, ''), (8, 'data:2,space:4'), (8, 'data:8')
    for step, (size, mesh) in enumerate(meshes, start=1):
        devices = Devices.all(jax.devices()[:size], mesh)
        with Checkpoints(tmp_path / 'c') as checkpoints:
            lie = shapes(devices.put(jax.tree.map(np.asarray, state(0))))
            if step > 1:
                found, _ = checkpoints.restore_newest(lie)
                assert_is(found, step - 1)
                assert {len(a.sharding.device_set) for a in jax.tree.leaves(found)} == {size}
            checkpoints.save(step, devices.put(jax.tree.map(np.asarray, state(step))))


def test_the_best_checkpoint(tmp_path):
    """Prefers the later of equal scores and never NaN; damaged metadata do not hide the others."""
    with Checkpoints(tmp_path / 'c', keep_last=9) as checkpoints:
        checkpoints.save(1, state(1))
        with pytest.raises(UserError, match='step=best: no checkpoint in .* has a score'):
            checkpoints.find('best')
        for step, score in enumerate([0.5, 0.9, 0.9, math.nan, 0.3], start=2):
            checkpoints.save(step, state(step), score=score)
    for step, wanted in ((None, 4), (4, 3), (3, 2)):
        if step:
            (tmp_path / 'c' / str(step) / 'meta' / 'metadata').write_text('{')
        with Checkpoints(tmp_path / 'c', read_only=True) as checkpoints:
            assert checkpoints.find('best') == wanted


def test_names_are_paths():
    assert list(named_leaves(state(0))) == [
        'opt/0',
        'opt/1/mu',
        'params/layers/conv/bias',
        'params/layers/conv/kernel',
        'step',
    ]
