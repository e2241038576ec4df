"""Runs training jobs to be disturbed, and an undisturbed job to compare them with."""

import pathlib
import random
import subprocess
import tempfile
import time

import scripts
from kill_resume import FLAGS

STEPS, EPOCH = 44, 22  # of a run with FLAGS
HEARTBEAT = 10  # seconds


class Lab:
    """Starts runs, finishes them, and compares them with an undisturbed run."""

    def __init__(self, folder: pathlib.Path, times: int, seed: int):
        self.folder, self.times, self.chance = folder, times, random.Random(seed)
        self.cache = scripts.compilation_cache(folder / 'cache')
        self._wanted = {}

    def new(self) -> pathlib.Path:
        return pathlib.Path(tempfile.mkdtemp(dir=self.folder)) / 'run'

    def start(self, workdir, *flags, count=1, devices=1, cached=True) -> list[subprocess.Popen]:
        environment = {'JAX_NUM_CPU_DEVICES': str(devices)} | (self.cache if cached else {})
        return [
            scripts.start('train.py', f'--workdir={workdir}', *FLAGS, *flags, *own, **environment)
            for own in scripts.together(count, HEARTBEAT)
        ]

    def finish(self, workdir, count=1, devices=1) -> str:
        """Runs to the end; returns the output of the first process."""
        running = self.start(workdir, count=count, devices=devices)
        said = [process.communicate() for process in running]
        assert not any(process.returncode for process in running), said
        return said[0][0]

    def wanted(self, count=1):
        """Returns the last state and the losses of an undisturbed run."""
        if count not in self._wanted:
            workdir = self.new()
            self.finish(workdir, count)
            self._wanted[count] = scripts.last_state(workdir), scripts.losses(workdir)
        return self._wanted[count]

    def check(self, workdir, count=1) -> str:
        """Finishes a disturbed run and checks that it equals an undisturbed run."""
        self.finish(workdir, count)
        (state, losses), found = self.wanted(count), scripts.last_state(workdir)
        assert found == state, f'{workdir}: step {found[0]}, other bits'
        assert scripts.losses(workdir) == losses, f'{workdir}: other metrics'
        return 'finished with the same bits'

    def until(self, workdir, step, running) -> None:
        """Waits until step `step` is logged."""
        self.wait(lambda: any(row['step'] >= step for row in scripts.rows(workdir)), running)

    def until_a_save(self, workdir, running) -> None:
        """Waits until a checkpoint is being saved."""
        self.until(workdir, self.chance.randint(3, 36), running)
        self.wait(lambda: scripts.saving(workdir), running)

    def wait(self, condition, running) -> None:
        while not condition():
            for process in running:
                assert process.poll() is None, process.communicate()
            time.sleep(0.002)

    def killed_run(self) -> pathlib.Path:
        """Returns the folder of a run that was killed after it had saved some checkpoints."""
        workdir = self.new()
        running = self.start(workdir)
        self.until(workdir, self.chance.randint(8, 30), running)
        running[0].kill()
        running[0].communicate()
        return workdir
