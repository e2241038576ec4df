"""Runs the training loop: steps, evaluations, checkpoints, and one output line per evaluation."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from cnn_jax.training.checkpoints import Checkpoints, first_of
from cnn_jax.training.devices import peak_memory
from cnn_jax.training.early_stopping import Progress, progress
from cnn_jax.training.evaluation import NOT_EVALUATED, Evaluation
from cnn_jax.training.interrupt import Interrupt
from cnn_jax.training.job import BaseJob
from cnn_jax.training.prefetch import Prefetcher
from cnn_jax.training.processes import end_with_peers, is_first, say
from cnn_jax.training.profile import Profiler
from cnn_jax.training.state import TrainState
from cnn_jax.training.step import several_steps
from cnn_jax.training.tracking import TensorBoard, Trackers
from cnn_jax.training.workdir import MetricsLog, Workdir, WorkdirError, read_metrics

STEPS_PER_CALL = 50  # on accelerators; see `step.several_steps`
OF_THE_STEP = ('grad_norm', 'learning_rate')  # metrics that do not describe training examples


class NotFiniteError(ArithmeticError):
    """The loss or a gradient became NaN or infinite."""


class Interrupted(Exception):
    """Training stopped because of a signal, after saving everything."""


def train(job: BaseJob, workdir: Workdir) -> tuple[TrainState, dict[str, Any]]:
    """Trains to the last step, starting from the newest checkpoint in the folder if there is one.

    With a `patience` of the job, training may end earlier, and a checkpoint with the best score
    is kept, too.

    Returns:
        The final state, and the content for `result.json`: the step, the metrics of every split
        that was evaluated, and under 'early_stopping' the step and score of the best evaluation.

    Raises:
        Interrupted: SIGTERM or SIGINT was received; the state has been saved.
        NotFiniteError: the loss or a gradient is not finite. The message names the step and the
            value; nothing is saved after it.
        DamagedError: checkpoints exist, but all are damaged.
    """
    config = job.config
    with end_with_peers(), contextlib.ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir.checkpoints,
                keep_last=config.keep_last,
                keep_best=config.keep_best,
            )
        )
        stack.enter_context(end_with_peers())  # exits before checkpoints.close, which waits
        state, start = _begin(job, workdir, checkpoints)
        log = None
        if is_first():
            sinks = TensorBoard(workdir.path, start), Trackers(workdir.path, config)
            log = MetricsLog(workdir.path, start, sinks)
            stack.callback(log.close)
        profiler = Profiler(config.read_profile_steps(), workdir.path / 'profile')
        stack.callback(profiler.close)
        so_far = progress(read_metrics(workdir.path), _score_name(job), start)
        run = _Run(job, checkpoints, log, interrupt, profiler, so_far)
        stack.callback(run.prefetcher.close)
        state, step = run.to_end(state, start)
        result = run.evaluator.final(state, step)
        if job.patience:
            best = run.progress
            stopped = step < job.total_steps
            result['early_stopping'] = {
                'stopped_early': stopped,
                'best_step': best.best_step,
                'best_score': best.best_score,
            }
            if stopped:
                say(
                    f'stopped early at step {step} of {job.total_steps}: no better {job.watched} '
                    f'score than {best.best_score:.4f} at step {best.best_step} in {best.since} '
                    'evaluations; a checkpoint with that score is kept (--step=best)'
                )
        return state, result


def load_state(job: BaseJob, workdir: Workdir) -> TrainState:
    """Returns the state in the newest checkpoint of a folder, which is not changed.

    Raises:
        WorkdirError: the folder holds no checkpoint that can be read.
    """
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        found = checkpoints.restore_newest(job.state_like().to_dict())
    if found is None:
        raise WorkdirError(f'workdir={str(workdir.path)!r} holds no checkpoint')
    return TrainState.from_dict(found[0])


def _begin(job: BaseJob, workdir: Workdir, checkpoints: Checkpoints) -> tuple[TrainState, int]:
    found = checkpoints.restore_newest(job.state_like().to_dict())
    if found is None:
        return job.init(), 0
    saved, meta = found
    say(f'resuming {workdir.path} at step {meta["step"]} of {job.total_steps}')
    return TrainState.from_dict(saved), meta['step']


def _score_name(job: BaseJob) -> str:
    return f'{job.watched}_score'


class _Run:
    """The parts of one run and its mutable state between steps."""

    def __init__(
        self,
        job: BaseJob,
        checkpoints: Checkpoints,
        log: MetricsLog | None,
        interrupt: Interrupt,
        profiler: Profiler,
        so_far: Progress,
    ):
        self.progress = so_far
        self.job, self.checkpoints, self.log = job, checkpoints, log
        self.interrupt, self.profiler = interrupt, profiler
        config, devices, dataset = job.config, job.devices, job.dataset
        on_cpu = devices.platform == 'cpu'
        self.steps_per_call = 1 if on_cpu else STEPS_PER_CALL
        # Accelerators run a call while the host reads the metrics of the previous one. On a CPU,
        # both would compete for the cores.
        self.calls_ahead = 0 if on_cpu else 1
        self.prefetcher = Prefetcher(
            dataset.splits['train'],
            config.batch_size,
            seed=config.seed,
            steps_per_call=self.steps_per_call,
            parallel=job.parallel,
        )
        resident = self.prefetcher.resident
        compile_ = lambda s: job.parallel.compile(  # noqa: E731
            several_steps(s, self.steps_per_call, resident), resident
        )
        self.stages = [(end, compile_(step)) for end, step in job.stages()]
        self.evaluator = job.evaluator()
        self.stopwatch = _Stopwatch(config.batch_size, self.prefetcher)
        # Intervals in steps; evaluations and checkpoints also happen at the last step.
        every = lambda text: max(1, config.in_steps(text, job.steps_per_epoch))  # noqa: E731
        self.eval_every, self.save_every = every(config.eval_every), every(config.checkpoint_every)

    def is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.job.total_steps

    def is_out_of_patience(self) -> bool:
        return 0 < self.job.patience <= self.progress.since

    def to_end(self, state: TrainState, start: int) -> tuple[TrainState, int]:
        """Trains to the last step, or until patience runs out; returns the state and its step."""
        step, total = start, self.job.total_steps
        hidden = None if is_first() else True  # None hides the bar only where there is no terminal
        with tqdm(total=total, initial=start, unit='step', disable=hidden, leave=False) as bar:
            while step < total and not self.is_out_of_patience():
                until, call = self.stage(step)
                ends = [step + each - step % each for each in (self.eval_every, self.save_every)]
                state, step, stop = self.to_step(call, state, step, min(*ends, until), bar)
                evaluates = self.is_due(step, self.eval_every)
                score = self.report(self.evaluate(state, step), step) if evaluates else None
                stop = stop or self.interrupt.at(step)
                is_best = self.job.patience > 0 and evaluates and self.progress.since == 0
                is_last = stop or self.is_out_of_patience()
                if is_last or is_best or self.is_due(step, self.save_every):
                    self.checkpoints.save(step, state.to_dict(), score=score)
                if stop:
                    self.checkpoints.wait()
                    raise Interrupted(f'{stop}: stopped after step {step} of {total}, saved')
        return state, step

    def stage(self, step: int) -> tuple[int, Callable[..., Any]]:
        """Returns where the stage ends that `step` belongs to, and the function for its steps."""
        while self.stages[0][0] <= step:
            self.stages.pop(0)
            self.stopwatch.expect_compilation()
        return self.stages[0]

    def to_step(
        self, call: Callable[..., Any], state: TrainState, step: int, end: int, bar: tqdm
    ) -> tuple[TrainState, int, str | None]:
        """Trains to step `end` or until a signal arrives; checks and logs all metrics."""
        self.stopwatch.resume()
        pending: list[tuple[int, int, dict[str, jax.Array]]] = []
        stop = None
        while step < end and not stop:
            count = self.profiler.at(step, min(self.prefetcher.room(step), end - step))
            with jax.profiler.StepTraceAnnotation('train', step_num=step + 1):
                state, metrics = call(state, *self.prefetcher.get(step, count))
            pending.append((step, count, metrics))
            if len(pending) > self.calls_ahead:
                self.record(*pending.pop(0), bar)
            step += count
            if step < end:
                stop = self.interrupt.at(step)
        for each in pending:
            self.record(*each, bar)
        self.stopwatch.pause()
        return state, step, stop

    def record(self, step: int, count: int, metrics: dict[str, jax.Array], bar: tqdm) -> None:
        """Checks and logs the metrics of the steps `step` to `step + count - 1` (from 0)."""
        # `jax.device_get` would copy in the background, which takes 0.3 ms on a CPU of two cores.
        metrics = {name: np.asarray(values)[:count] for name, values in metrics.items()}
        self.stopwatch.count(count)
        bar.update(count)
        for i in range(count):
            done = step + i + 1
            row = {name: float(values[i]) for name, values in metrics.items() if values.ndim == 1}
            if not np.isfinite(list(row.values())).all():
                raise NotFiniteError(self.what_is_not_finite(done, row, metrics['leaf_norms'][i]))
            if self.log and (done % self.job.config.log_every == 0 or done == 1):
                named = {n if n in OF_THE_STEP else f'train_{n}': v for n, v in row.items()}
                self.log.write(self.at(done) | named)
        self.last = row

    def at(self, step: int) -> dict[str, float]:
        return {'step': step, 'epoch': step / self.job.steps_per_epoch}

    def what_is_not_finite(self, step: int, row: dict[str, float], leaf_norms: np.ndarray) -> str:
        names = np.array(sorted(self.job.state_like().params))[~np.isfinite(leaf_norms)]
        losses = {name.replace('_', ' '): row[name] for name in self.job.losses}
        what = [f'the {name} is {v}' for name, v in losses.items() if not np.isfinite(v)]
        if len(names):
            what.append(f'the gradient of {first_of(names)} is not finite')
        kept = self.checkpoints.steps()
        return (
            f'step {step}: {" and ".join(what) or "the norm of the gradient overflows"}; '
            f'nothing saved since {f"step {kept[-1]}" if kept else "the start"}; a lower '
            'learning_rate or clip_norm may help'
        )

    def evaluate(self, state: TrainState, step: int) -> Evaluation:
        """Evaluates the watched split, if any."""
        watched = self.job.watched
        return self.evaluator.evaluate(state, step, watched) if watched else NOT_EVALUATED

    def report(self, found: Evaluation, step: int) -> float | None:
        """Logs and prints an evaluation, and returns the score of the checkpoint."""
        epochs = self.job.total_steps / self.job.steps_per_epoch
        speed = self.stopwatch.read()
        row = self.at(step) | speed | {'memory_peak_bytes': peak_memory()} | found.metrics
        self.progress = self.progress.after(step, found.score)
        if self.job.patience:
            row[_score_name(self.job)] = found.score
        if self.log:
            self.log.write(row)
        losses = [f'{n.replace("_", " ")} {self.last[n]:.4f}' for n in self.job.losses]
        line = f'epoch {row["epoch"]:.4g}/{epochs:.4g}  step {step}  train {"  ".join(losses)}'
        line += f'  {found.line}'
        if speed:
            line += f'  {speed["examples_per_second"]:,.0f} examples/s'
        self.tell(line)
        return found.score

    def tell(self, line: str) -> None:
        """Prints a line about this run."""
        say(line)


class _Stopwatch:
    """Measures the speed of training steps.

    Excludes evaluations, saves, and calls that compile: the first one of every stage.
    """

    def __init__(self, batch_size: int, prefetcher: Prefetcher):
        self._batch_size, self._prefetcher = batch_size, prefetcher
        self._begun: float | None = None
        self.expect_compilation()

    def expect_compilation(self) -> None:
        """Discards what was measured since the last reading, and excludes the next call."""
        self._compiled = False
        self._reset()

    def _reset(self) -> None:
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0

    def resume(self) -> None:
        self._begun, self._waited_before = time.monotonic(), self._prefetcher.waited

    def count(self, steps: int) -> None:
        """Adds `steps` finished steps."""
        self._steps += steps
        if not self._compiled:
            self._compiled = True
            self._reset()
            self.resume()

    def pause(self) -> None:
        self._seconds += time.monotonic() - self._begun
        self._waited += self._prefetcher.waited - self._waited_before

    def read(self) -> dict[str, float]:
        """Returns the speed since the last reading; empty if nothing was measured."""
        steps, seconds, waited = self._steps, self._seconds, self._waited
        self._reset()
        if not steps or seconds <= 0:
            return {}
        return {
            'examples_per_second': steps * self._batch_size / seconds,
            'input_wait_share': waited / seconds,
        }
