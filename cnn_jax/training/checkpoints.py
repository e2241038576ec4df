"""Writes checkpoints, and verifies them when they are read.

Orbax writes and deletes the files. This module adds a CRC of every array (Orbax does not detect a
flipped bit), a fallback to the newest undamaged checkpoint, a ranking in which NaN never wins, and
waiting for pending writes on close.
"""

import contextlib
import json
import math
import pathlib
import shutil
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from cnn_jax.errors import UserError
from cnn_jax.training import processes

DAMAGED = 'damaged'


class DamagedError(UserError):
    """A checkpoint cannot be read or differs from what was written."""


class MismatchError(UserError):
    """An undamaged checkpoint holds different arrays than the model."""


class SaveError(OSError):
    """A checkpoint could not be written; earlier checkpoints are unchanged."""


class Checkpoints:
    """The checkpoints of one run, in `<folder>/<step>/`.

    Use this object as a context manager, or call `close`.

    Args:
        folder: the folder; created if it does not exist, unless `read_only`.
        keep_last: number of newest checkpoints to keep.
        keep_best: number of checkpoints with the highest scores to keep in addition.
        read_only: if True, nothing is created, moved or deleted.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        read_only: bool = False,
    ):
        self.folder = pathlib.Path(folder).absolute()
        self._read_only = read_only
        if not read_only and processes.is_first():
            # Orbax would do this too, but in a thread that is never joined.
            for left in self.folder.glob('*.orbax-checkpoint-tmp'):
                shutil.rmtree(left)
        policies = [preservation_policy.LatestN(keep_last)]
        if keep_best:
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=_rank, n=keep_best, keep_checkpoints_without_metrics=False
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            best_fn=_rank,
            best_mode='max',
            # Orbax writes nothing else unless it saves. Its own `read_only` would log warnings.
            create=not read_only,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_):
        self.close()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, damaged ones included, oldest first."""
        return sorted(self._manager.all_steps())

    def find(self, step: int | str) -> int:
        """Returns the step for 'best' (the newest with the highest score), or `step` itself.

        Raises:
            UserError: there is no such checkpoint, or no checkpoint has a score.
        """
        steps = self.steps()
        if step != 'best':
            if step not in steps:
                raise UserError(
                    f'step={step}: must be one of {steps}, the checkpoints in {self.folder}'
                )
            return int(step)
        scores = {step: score for step in steps if (score := self._score(step)) is not None}
        if not scores:
            raise UserError(f'step=best: no checkpoint in {self.folder} has a score')
        return max(scores, key=lambda step: (scores[step], step))

    def _score(self, step: int) -> float | None:
        try:
            return self._meta(step)['score']
        except DamagedError as error:
            processes.say(f'checkpoint {step} is damaged ({error})')
            return None

    def save(self, step: int, state: Any, *, score: float | None = None) -> None:
        """Starts to write `state`, and returns when its arrays may be reused.

        Args:
            step: the step, greater than the steps of all existing checkpoints.
            state: a tree of arrays.
            score: higher is better; NaN ranks below all other scores.

        Raises:
            ValueError: `step` is not greater than the steps of all existing checkpoints.
            SaveError: this save or the previous one failed.
        """
        if (there := self.steps()) and step <= there[-1]:
            raise UserError(f'step={step}: must be above {there[-1]}, the newest checkpoint')
        flat = named_leaves(state)
        meta = {'step': step, 'score': _json_number(score), 'digests': digests(flat)}
        text = json.dumps(meta)
        with _writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(flat),
                    meta=ocp.args.JsonSave({'text': text, 'crc': _crc(text)}),
                ),
                metrics=None if score is None else {'score': meta['score']},
                force=True,
            )

    def wait(self) -> None:
        """Waits until all pending saves are on disk.

        Raises:
            SaveError: a save failed.
        """
        with _writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._manager.close()

    def restore(self, step: int, like: Any, *, partial: bool = False) -> tuple[Any, dict[str, Any]]:
        """Returns the state saved at `step`, and its metadata (step, score, digests).

        Args:
            step: one of `steps()`.
            like: a tree of arrays or shapes; a leaf with a sharding is restored with that sharding.
            partial: whether `like` may be only a part of the saved state.

        Raises:
            DamagedError: the checkpoint cannot be read, or an array differs from what was written.
            MismatchError: the checkpoint is undamaged, but holds different arrays than `like`.
        """
        wanted = named_leaves(like)
        meta = self._meta(step)
        written = meta['digests']
        self._check_arrays(step, wanted, written, partial)
        with _reading():
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        wanted,
                        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                        partial_restore=True,
                    )
                ),
            )
            flat = restored['state']
        if lacking := sorted(set(wanted) - set(flat)):
            raise DamagedError(f'it lacks {first_of(lacking)}')
        try:
            found = digests(flat)
        except (TypeError, ValueError) as error:  # a leaf is not an array
            raise DamagedError(_cause(error)) from error
        wrong = sorted(name for name in found if found[name] != written.get(name))
        if wrong:
            raise DamagedError(f'differs from what was written: {first_of(wrong)}')
        leaves = [flat[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), meta

    def restore_newest(
        self, like: Any, *, partial: bool = False
    ) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest undamaged checkpoint; returns None if there are no checkpoints.

        Prints a message for every newer, damaged checkpoint and, unless `read_only`, moves it to
        `<folder>/../damaged`, so that its step can be written again.

        Raises:
            DamagedError: checkpoints exist, but all are damaged.
        """
        problems = []
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, like, partial=partial)
            except DamagedError as error:
                processes.say(f'checkpoint {step} is damaged ({error}); trying the previous one')
                problems.append(step)
                continue
            for damaged in problems:
                self._set_aside(damaged)
            return found
        if problems:
            raise DamagedError(
                f'all checkpoints in {self.folder} are damaged '
                f'(tried {", ".join(map(str, problems))})'
            )
        return None

    def shapes(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shapes and dtypes in the checkpoint at `step` by name, from its metadata only.

        Raises:
            DamagedError: the metadata cannot be read.
        """
        return {name: _shape(digest) for name, digest in self._meta(step)['digests'].items()}

    def _meta(self, step: int) -> dict[str, Any]:
        with _reading():
            restored = self._manager.restore(
                step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
            )
            text = restored['meta']['text']
            if _crc(text) != restored['meta']['crc']:
                raise DamagedError('its metadata does not match its checksum')
            return json.loads(text)

    def _check_arrays(self, step: int, wanted, written: dict[str, str], partial: bool) -> None:
        problems = [
            f'{name} is missing from the checkpoint' for name in wanted if name not in written
        ]
        for name in set(wanted) & set(written):
            there, here = _shape(written[name]).shape, tuple(np.shape(wanted[name]))
            if there != here:
                problems.append(f'{name} is {there} in the checkpoint, {here} in this model')
        if not partial:
            problems += [
                f'{name} is missing from this model' for name in written if name not in wanted
            ]
        if problems:
            raise MismatchError(
                f'checkpoint {self.folder / str(step)} belongs to another model: '
                f'{first_of(sorted(problems))}'
            )

    def _set_aside(self, step: int) -> None:
        if self._read_only:
            return
        target = self.folder.parent / DAMAGED / str(step)
        if processes.is_first():
            while target.exists():
                target = target.with_name(target.name + '+')
            target.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
        processes.agree(None)
        self._manager.reload()
        processes.say(f'moved the damaged checkpoint {step} to {target}')


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    # Orbax passes on any error of its readers, even a bare Exception.
    try:
        yield
    except DamagedError:
        raise
    except Exception as error:
        if processes.of_peers(error):
            raise
        raise DamagedError(_cause(error)) from error


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    # Orbax raises an error of its background thread, of any type, from the next method called.
    try:
        yield
    except Exception as error:
        if processes.of_peers(error):
            raise
        raise SaveError(f'a checkpoint could not be written: {_first_line(error)}') from error


def named_leaves(tree: Any) -> dict[str, Any]:
    """Returns leaves by path ('params/layers/conv1/kernel') in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {'/'.join(_key(entry) for entry in path): leaf for path, leaf in leaves}


def _key(entry) -> str:
    for attribute in ('key', 'name', 'idx'):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def digests(flat: dict[str, Any]) -> dict[str, str]:
    """Returns '<dtype><shape>:<CRC-32>' for every array."""
    result = {}
    for name, leaf in jax.device_get(flat).items():
        array = np.ascontiguousarray(leaf)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8))
        result[name] = f'{array.dtype}{list(np.shape(leaf))}:{crc:08x}'
    return result


def _shape(digest: str) -> jax.ShapeDtypeStruct:
    """Parses the shape and dtype from one of `digests`."""
    dtype, _, shape = digest.partition(':')[0].partition('[')
    return jax.ShapeDtypeStruct(json.loads('[' + shape), jnp.dtype(dtype))


def _crc(text: str) -> int:
    return zlib.crc32(text.encode())


def _rank(metrics: dict[str, Any] | None) -> float:
    score = (metrics or {}).get('score')
    return -math.inf if score is None or math.isnan(score) else score


def _json_number(score: float | None) -> float | None:
    return None if score is None or math.isnan(score) else float(score)


def first_of(names: Sequence[str]) -> str:
    """Returns the first name and the number of others: 'a', or 'a and 2 more'."""
    return names[0] + (f' and {len(names) - 1} more' if len(names) > 1 else '')


def _cause(error: BaseException) -> str:
    """Describes the innermost error, which names the file; outer errors are internal to Orbax."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f'{type(error).__name__}: {_first_line(error)}'


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [''])[0]
    return line.partition(' [tensorstore_spec')[0][:400]
