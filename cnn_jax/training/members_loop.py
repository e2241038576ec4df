"""Trains several runs in one program; each has the folder of a run of its own."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cnn_jax.training.checkpoints import Checkpoints
from cnn_jax.training.delayed import DelayedCheckpoints
from cnn_jax.training.early_stopping import Progress
from cnn_jax.training.evaluation import NOT_EVALUATED, Evaluation, evaluation, final_metrics
from cnn_jax.training.interrupt import Interrupt
from cnn_jax.training.job import Job
from cnn_jax.training.loop import (
    Interrupted,
    NotFiniteError,
    _Run,
    _Stopwatch,
)
from cnn_jax.training.members import Members
from cnn_jax.training.prefetch import Prefetcher
from cnn_jax.training.processes import say
from cnn_jax.training.state import TrainState
from cnn_jax.training.tracking import TensorBoard
from cnn_jax.training.workdir import MetricsLog, Workdir

Result = tuple[TrainState, dict[str, Any]]


def train_members(members: Members, workdirs: Sequence[Workdir]) -> list[Result | NotFiniteError]:
    """Trains every member to its last step, each from the newest checkpoint in its folder.

    Members whose checkpoints are at different steps train in one program per step, one after the
    other. A member whose loss or gradient is not finite is given up; the others continue.

    Args:
        members: the runs.
        workdirs: their folders, which the caller holds.

    Returns:
        For each member, what `loop.train` would return or raise.

    Raises:
        Interrupted: SIGTERM or SIGINT was received; the states have been saved.
        DamagedError: checkpoints of a member exist, but all are damaged.
    """
    with contextlib.ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        like = members.jobs[0].state_like().to_dict()
        checkpoints, found = [], []
        for job, workdir in zip(members.jobs, workdirs, strict=True):
            config = job.config
            keep = {'keep_last': config.keep_last, 'keep_best': config.keep_best}
            each = stack.enter_context(Checkpoints(workdir.checkpoints, **keep))
            checkpoints.append(each)
            found.append(each.restore_newest(like))
        starts = [saved[1]['step'] if saved else 0 for saved in found]
        results: dict[int, Result | NotFiniteError] = {}
        for start in sorted(set(starts)):
            chosen = [i for i, each in enumerate(starts) if each == start]
            some = members.take(chosen)
            if start:
                say(f'resuming {len(some)} runs at step {start} of {some.jobs[0].total_steps}')
            states = [TrainState.from_dict(found[i][0]) for i in chosen] if start else some.init()
            with contextlib.ExitStack() as closing:
                logs = [
                    MetricsLog(path := workdirs[i].path, start, [TensorBoard(path, start)])
                    for i in chosen
                ]
                for log in logs:
                    closing.callback(log.close)
                run = _Together(some, [checkpoints[i] for i in chosen], logs, interrupt)
                closing.callback(run.prefetcher.close)
                results |= zip(chosen, run.to_end(states, start), strict=True)
        return [results[i] for i in range(len(members))]


class _Member(_Run):
    """Records and evaluates one member; `_Together` does the steps of all of them."""

    def __init__(
        self,
        name: str,
        job: Job,
        checkpoints: Checkpoints,
        log: MetricsLog,
        prefetcher: Prefetcher,
    ):
        self.name, self.job, self.checkpoints, self.log = name, job, checkpoints, log
        self.prefetcher = prefetcher
        self.stopwatch = _Stopwatch(job.config.batch_size, prefetcher)
        self.progress = Progress()
        self.failed: NotFiniteError | None = None
        keep = {'keep_last': job.config.keep_last, 'keep_best': job.config.keep_best}
        self.delayed = DelayedCheckpoints(checkpoints, job.devices, **keep)

    def tell(self, line: str) -> None:
        say(f'{self.name}: {line}')

    def what_is_not_finite(self, *found) -> str:
        self.delayed.write()  # nothing will follow, and the message names the newest checkpoint
        return super().what_is_not_finite(*found)


class _Together:
    """The steps, evaluations and checkpoints of members that start at the same step."""

    def __init__(
        self,
        members: Members,
        checkpoints: Sequence[Checkpoints],
        logs: Sequence[MetricsLog],
        interrupt: Interrupt,
    ):
        self.members, self.interrupt = members, interrupt
        self.job = first = members.jobs[0]
        self.prefetcher = members.prefetcher()
        self.call = members.compile()
        splits = [name for name in first.dataset.splits if name != 'train']
        self.evaluators = {split: members.evaluator(split) for split in splits}
        self.runs = [
            _Member(*each, self.prefetcher)
            for each in zip(members.names, members.jobs, checkpoints, logs, strict=True)
        ]
        every = lambda text: max(1, first.config.in_steps(text, first.steps_per_epoch))  # noqa: E731
        self.eval_every = every(first.config.eval_every)
        self.save_every = every(first.config.checkpoint_every)

    @property
    def active(self) -> list[tuple[int, _Member]]:
        return [(i, run) for i, run in enumerate(self.runs) if run.failed is None]

    def to_end(self, states: list[TrainState], start: int) -> list[Result | NotFiniteError]:
        step, total = start, self.job.total_steps
        stacked = self.members.stack(states)
        bar = tqdm(total=total, initial=start, unit='step', disable=None, leave=False)
        with bar:
            while step < total and self.active:
                ends = [step + each - step % each for each in (self.eval_every, self.save_every)]
                stacked, step, stop = self.to_step(stacked, step, min(*ends, total), bar)
                stop = self.visit(stacked, step, stop)
                if stop:
                    for _, run in self.active:
                        run.checkpoints.wait()
                    raise Interrupted(f'{stop}: stopped after step {step} of {total}, saved')
        states = self.members.unstack(stacked)
        found = {split: evaluate(stacked) for split, evaluate in self.evaluators.items()}
        result = functools.partial(final_metrics, self.job.objective, total)
        return [
            run.failed
            or (run.job.devices.put(states[i]), result({n: sums[i] for n, sums in found.items()}))
            for i, run in enumerate(self.runs)
        ]

    def to_step(
        self, stacked: TrainState, step: int, end: int, bar: tqdm
    ) -> tuple[TrainState, int, str | None]:
        """Trains to step `end` or until a signal arrives; checks and logs all metrics."""
        for run in self.runs:
            run.stopwatch.resume()
        pending = stop = None
        while step < end and not stop and self.active:
            count = min(self.prefetcher.room(step), end - step)
            stacked, metrics = self.call(stacked, *self.prefetcher.get(step, count))
            # The devices run this call while the host reads the metrics of the previous call.
            if pending is not None:
                self.record(*pending, bar)
            pending = step, count, metrics
            step += count
            if step < end:
                stop = self.interrupt.at(step)
        if pending is not None:
            self.record(*pending, bar)
        for run in self.runs:
            run.stopwatch.pause()
        return stacked, step, stop

    def record(self, step: int, count: int, metrics: dict[str, jax.Array], bar: tqdm) -> None:
        found: dict[str, np.ndarray] = jax.device_get(metrics)
        bar.update(count)
        hidden = tqdm(disable=True)
        for i, run in self.active:
            try:
                run.record(step, count, {name: a[i] for name, a in found.items()}, hidden)
            except NotFiniteError as error:
                run.failed = error
                run.tell(f'given up: {error}')

    def evaluate(self, stacked: TrainState) -> list[Evaluation]:
        watched = self.job.watched
        if watched is None:
            return [NOT_EVALUATED] * len(self.runs)
        return [
            evaluation(self.job.objective, watched, sums)
            for sums in self.evaluators[watched](stacked)
        ]

    def visit(self, stacked: TrainState, step: int, stop: str | None) -> str | None:
        """Evaluates and saves the members if either is due; returns the signal, if any."""
        is_due = lambda every: step % every == 0 or step == self.job.total_steps  # noqa: E731
        scores: list[float | None] = [None] * len(self.runs)
        if is_due(self.eval_every):
            found = self.evaluate(stacked)
            for i, run in self.active:
                scores[i] = run.report(found[i], step)
        stop = stop or self.interrupt.at(step)
        if stop or is_due(self.save_every):
            states = self.members.unstack(stacked)
            for i, run in self.active:
                run.delayed.add(step, states[i].to_dict(), score=scores[i])
        is_last = bool(stop) or step == self.job.total_steps
        for _, run in self.active:
            run.delayed.write(now=is_last)
        return stop
