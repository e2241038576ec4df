"""Kills training runs with SIGKILL at random moments and resumes them until they are finished.

    python tools/kill_resume.py --kills=30 --seed=0

Every resumed run must end with the same bits as an uninterrupted run: parameters, optimiser state
and batch statistics. The last line reports how often runs were killed in each phase.
"""

import argparse
import collections
import json
import pathlib
import random
import signal
import tempfile
import time

import scripts

# Uses dropout, batch norm, augmentation and averaged weights, whose state must all be restored.
FLAGS = (
    '--dataset=digits',
    '--model=small_cnn',
    '--model_options=stages=((4,),(8,))',
    '--epochs=2',
    '--log_every=1',
    '--checkpoint_every=3steps',
    '--augment=crop:1,cutout:2',
    '--ema=0.9',
)


def start(workdir):
    return scripts.start('train.py', f'--workdir={workdir}', *FLAGS)


def finish(workdir):
    process = start(workdir)
    errors = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f'a resumed run failed with {process.returncode}:\n{errors}')


def kill_somewhere(workdir, chance):
    """Starts the run and kills it; returns the phase, or None if the run finished first."""
    process = start(workdir)
    before = len(scripts.rows(workdir))
    if chance.random() < 0.2:
        deadline = time.monotonic() + chance.uniform(0, 12)  # start, restore, compilation
    else:
        while len(scripts.rows(workdir)) <= before and process.poll() is None:
            time.sleep(0.02)
        deadline = time.monotonic() + chance.uniform(0, 0.8)
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    steps = len(scripts.rows(workdir))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        return None
    if scripts.saving(workdir):
        return 'during a save'
    return 'between saves' if steps > before else 'before the first step'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    phases, runs = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        finish(folder / 'whole')
        wanted = scripts.last_state(folder / 'whole')
        while phases.total() < arguments.kills:
            workdir = folder / str(runs)
            while phases.total() < arguments.kills and not (workdir / 'result.json').exists():
                if phase := kill_somewhere(workdir, chance):
                    phases[phase] += 1
            finish(workdir)
            found = scripts.last_state(workdir)
            if found != wanted:
                differ = [n for n in wanted[1] if found[1].get(n) != wanted[1][n]]
                raise SystemExit(f'run {runs}: step {found[0]}, other bits in {differ}')
            runs += 1
    report = {'kills': phases.total(), 'runs': runs, 'bit-identical': runs} | phases
    print(json.dumps(report))


if __name__ == '__main__':
    main()
