"""Training loops to measure: examples, steps and metrics as in `training.train`, nothing else."""

import time

import jax

from cnn_jax import training
from cnn_jax.bench.tpu import aot
from cnn_jax.training.prefetch import Prefetcher
from cnn_jax.training.step import several_steps


class Loop:
    """The loop of `training.train` without evaluation, checkpoints or writing metrics."""

    def __init__(self, job: training.Job, *, resident: bool = True):
        config = job.config
        self.call = job.parallel.compile(several_steps(job.step(), 1, resident), resident)
        self.prefetcher = Prefetcher(
            job.dataset.splits['train'],
            config.batch_size,
            seed=config.seed,
            steps_per_call=1,
            parallel=job.parallel,
            resident=resident,
        )
        self.state, self.step = job.init(), 0

    def __call__(self, steps: int) -> None:
        pending = None
        for _ in range(steps):
            self.state, metrics = self.call(self.state, *self.prefetcher.get(self.step, 1))
            if pending is not None:
                jax.device_get(pending)
            pending = metrics
            self.step += 1
        jax.device_get(pending)

    def waits(self, steps: int) -> float:
        """Returns the share of the time of `steps` steps that the loop waits for examples."""
        waited, begun = self.prefetcher.waited, time.monotonic()
        self(steps)
        return (self.prefetcher.waited - waited) / (time.monotonic() - begun)

    def collectives(self) -> dict[str, aot.Collective]:
        """Returns the collectives of one step, by kind."""
        lowered = self.call.lower(self.state, *self.prefetcher.get(self.step, 1))
        return aot.collectives(lowered.compile().as_text())


class StepAlone:
    """Calls the compiled step of a loop repeatedly with the same examples."""

    def __init__(self, loop: Loop):
        self.loop = loop

    def __call__(self, steps: int) -> None:
        loop = self.loop
        arguments = loop.prefetcher.get(0, 1)
        for _ in range(steps):
            loop.state, metrics = loop.call(loop.state, *arguments)
        jax.block_until_ready(metrics)
