"""Disturbs training runs in many ways and reports the outcomes; for kill -9 see kill_resume.py.

    python tools/faults.py [--only=signals,clock] [--times=3] [--seed=0]

The same command then finishes every disturbed run, which must end with the same bits as an
undisturbed run. Prints a table in Markdown: what was tried, how often, and what happened. The
script ends with an error if a run behaves differently from what docs/training.md promises.

Full disks and read-only folders are mounted, which requires root; otherwise they are not tried.
"""

import argparse
import collections
import contextlib
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

import scripts
from kill_resume import FLAGS
from lab import EPOCH, HEARTBEAT, STEPS, Lab

sys.path.insert(0, str(scripts.ROOT))

Outcomes = Iterator[tuple[str, str]]  # what was tried, what happened


def damage(lab: Lab) -> Outcomes:
    """Damages files of the newest checkpoint and restores it in this process."""
    workdir = lab.killed_run()
    newest = max(int(p.name) for p in workdir.glob('checkpoints/*') if p.name.isdigit())
    original = workdir / 'checkpoints'

    def flip(path):
        content = bytearray(path.read_bytes())
        content[lab.chance.randrange(len(content))] ^= 1 << lab.chance.randrange(8)
        path.write_bytes(content)

    def cut(path):
        os.truncate(path, lab.chance.randrange(path.stat().st_size))

    def empty(path):
        shutil.rmtree(path)
        path.mkdir()

    everything = sorted((original / str(newest)).rglob('*'))
    files = [p for p in everything if p.is_file() and p.stat().st_size]
    folders = [original / str(newest), *(p for p in everything if p.is_dir())]
    kinds = {'a flipped bit': (flip, files), 'a file cut': (cut, files)}
    kinds |= {'a file deleted': (os.unlink, files), 'a folder emptied': (empty, folders)}
    for what, (do, paths) in kinds.items():
        for path in paths * (lab.times if what in ('a flipped bit', 'a file cut') else 1):
            copy = lab.new()
            shutil.copytree(original, copy)
            do(copy / path.relative_to(original))
            step = restored(copy)
            harmless = 'harmless: the newest, as it was written'
            yield what, harmless if step == newest else 'seen and named, the one before used'
            shutil.rmtree(copy)
    for what, do in (('a flipped bit', flip), ('a file cut', cut)):
        largest = max(files, key=lambda p: p.stat().st_size)
        copy = lab.new()
        shutil.copytree(workdir, copy)
        do(copy / largest.relative_to(workdir))
        yield f'{what} in the largest file, then resumed', lab.check(copy)


def restored(folder: pathlib.Path) -> int:
    """Returns the step that is restored, and checks that its arrays are those that were written."""
    from absl import logging

    from cnn_jax.training import processes
    from cnn_jax.training.checkpoints import Checkpoints, digests, named_leaves

    logging.set_verbosity(logging.FATAL)  # Orbax logs every problem that it finds
    said = []
    say = mock.patch.object(processes, 'say', said.append)
    with say, Checkpoints(folder, read_only=True) as checkpoints:
        steps = checkpoints.steps()
        like = checkpoints.shapes(min(steps))  # an undamaged one
        found, meta = checkpoints.restore_newest(like)
        _, written = checkpoints.restore(meta['step'], like)
    assert digests(named_leaves(found)) == written['digests']
    assert meta['step'] == max(steps) or f'checkpoint {max(steps)} is damaged' in said[0]
    return meta['step']


def signals(lab: Lab) -> Outcomes:
    """Sends SIGTERM and SIGINT in every phase; runs must finish and save the step, exit code 75."""

    def during_compilation(workdir, running):
        running[0].stdout.readline()  # 'training ...', printed before anything is compiled
        time.sleep(lab.chance.uniform(0, 2))
        return not scripts.rows(workdir)

    def during_a_step(workdir, running):
        lab.until(workdir, lab.chance.randint(1, EPOCH - 2), running)
        time.sleep(lab.chance.uniform(0, 0.02))
        return True

    def during_evaluation(workdir, running):
        lab.until(workdir, EPOCH, running)
        return 'test_loss' not in scripts.rows(workdir)[-1]

    def during_a_save(workdir, running):
        lab.until_a_save(workdir, running)
        return scripts.saving(workdir)

    phases = {
        'before the first step (compilation)': during_compilation,
        'in a step': during_a_step,
        'in an evaluation': during_evaluation,
        'in a save': during_a_save,
    }
    for phase, reach in phases.items():
        for number in [signal.SIGTERM] * lab.times + [signal.SIGINT]:
            hit = False
            while not hit:  # tries again if the phase ended too soon
                workdir = lab.new()
                running = lab.start(workdir, cached=phase != 'before the first step (compilation)')
                hit = reach(workdir, running)
                running[0].send_signal(number)
                _, errors = running[0].communicate()
                code = running[0].returncode
                assert code == 75 and f'{number.name}: stopped after step' in errors, (code, errors)
            yield f'{number.name} {phase}', f'saved, exit code 75; {lab.check(workdir)}'


def clock(lab: Lab) -> Outcomes:
    """Changes every timestamp that a run has written, as if the clock had jumped."""
    years = 3 * 365 * 86400
    now = time.time()
    jumps = {
        # existing files are dated in the future
        'the clock jumps back by years': lambda: now + years,
        'the clock jumps ahead by years': lambda: 86400.0,
        'the clock jumps to and fro': lambda: now + lab.chance.uniform(-years, years),
    }
    for what, when in jumps.items():
        for _ in range(lab.times):
            workdir = lab.killed_run()
            for path in workdir.rglob('*'):
                if path.name == '_CHECKPOINT_METADATA':  # Orbax stores timestamps of its own
                    text = path.read_text()
                    stamps = json.loads(text)
                    stamps |= {k: int(when() * 1e9) for k in stamps if k.endswith('_nsecs')}
                    path.write_text(json.dumps(stamps))
                os.utime(path, (when(), when()))
            yield what, lab.check(workdir)


@contextlib.contextmanager
def mounted(path: pathlib.Path, *options: str) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(['mount', *options, str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(['umount', '--lazy', str(path)], check=True)


def full_disk(lab: Lab) -> Outcomes:
    """A small file system that is full when the run wants to save."""
    for _ in range(lab.times):
        disk = lab.new()
        with mounted(disk, '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs'):
            running = lab.start(disk / 'run')
            lab.until(disk / 'run', lab.chance.randint(4, 20), running)
            fill(disk / 'ballast', 4096 * lab.chance.randint(0, 8))
            _, errors = running[0].communicate()
            code = running[0].returncode
            # Writer threads may also have printed errors before the final line.
            said = [line for line in errors.splitlines() if line.startswith('error: ')]
            assert code == 78 and len(said) == 1 and 'No space' in said[0], (code, errors[-2000:])
            (disk / 'ballast').unlink()
            yield (
                'the disk is full',
                f'one line, exit code 78; with room again: {lab.check(disk / "run")}',
            )


def fill(path: pathlib.Path, left: int) -> None:
    """Writes until `left` bytes are free: enough for some metrics, but not for a checkpoint."""
    with contextlib.suppress(OSError), open(path, 'wb', buffering=0) as file:
        while (free := shutil.disk_usage(path).free - left) > 0:
            file.write(bytes(min(free, 1 << 16)))


def read_only(lab: Lab) -> Outcomes:
    """A folder that cannot be written."""
    for what in ['an empty folder is read-only'] + ['the folder of a run is read-only'] * lab.times:
        workdir = lab.new() if what.startswith('an empty') else lab.killed_run()
        workdir.mkdir(exist_ok=True)
        before = snapshot(workdir)
        with mounted(workdir, '-o', 'bind,ro', str(workdir)):
            refused(lab.start(workdir), 'cannot be written')
        assert before == snapshot(workdir)
        yield what, f'one line, exit code 2; writable again: {lab.check(workdir)}'


def other_runs(lab: Lab) -> Outcomes:
    """Starts runs in the folder of another configuration, and in one that is in use."""
    workdir = lab.killed_run()
    others = '--seed=1', '--batch_size=32', '--epochs=3', '--ema=0'
    before = snapshot(workdir)
    for flag in others:
        refused(lab.start(workdir, flag), 'belongs to another configuration')
        assert before == snapshot(workdir)
        yield 'the folder of another configuration', 'one line, exit code 2, nothing changed'
    lab.check(workdir)
    for _ in range(lab.times):
        workdir = lab.new()
        first = lab.start(workdir)
        lab.until(workdir, 1, first)
        # keeps the first run alive while the second is refused
        first[0].send_signal(signal.SIGSTOP)
        refused(lab.start(workdir), 'in use by another process')
        first[0].send_signal(signal.SIGCONT)
        first[0].communicate()
        yield (
            'a second run in the same folder',
            f'one line, exit code 2; first: {lab.check(workdir)}',
        )


def snapshot(folder: pathlib.Path) -> dict[pathlib.Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}


def refused(running: list[subprocess.Popen], said: str) -> None:
    output, errors = running[0].communicate()
    assert running[0].returncode == 2 and errors.count('\n') == 1 and said in errors, errors
    assert output == '', output


def peers(lab: Lab) -> Outcomes:
    """Runs two processes and kills, freezes (permanently or briefly) or delays one of them."""

    def between(low, high):
        return lambda workdir, running: lab.until(workdir, lab.chance.randint(low, high), running)

    ends = {
        'killed': (signal.SIGKILL, between(3, 30)),
        'frozen': (signal.SIGSTOP, between(3, 30)),
        'killed in a save': (signal.SIGKILL, lab.until_a_save),
        'killed after the last step': (signal.SIGKILL, between(STEPS, STEPS)),
    }
    for name, (number, reach) in ends.items():
        for index in (0, 1) * lab.times:
            workdir = lab.new()
            running = lab.start(workdir, count=2)
            reach(workdir, running)
            begun = time.monotonic()
            running[index].send_signal(number)
            _, errors = running[1 - index].communicate()
            seconds, code = time.monotonic() - begun, running[1 - index].returncode
            running[index].kill()
            running[index].communicate()
            assert code in (77, -signal.SIGABRT), (code, errors)
            assert seconds < 6 * HEARTBEAT, seconds
            code = 134 if code < 0 else code
            yield (
                f'process {index} of 2 {name}',
                (f'the other ends with {code}; run again: {lab.check(workdir, 2)}'),
            )
    for _ in range(lab.times):
        workdir = lab.new()
        running = lab.start(workdir, count=2)
        lab.until(workdir, lab.chance.randint(3, 20), running)
        running[1].send_signal(signal.SIGSTOP)
        time.sleep(HEARTBEAT / 3)
        running[1].send_signal(signal.SIGCONT)
        [process.communicate() for process in running]
        assert not any(process.returncode for process in running)
        yield 'process 1 of 2 frozen for 3 s', lab.check(workdir, 2)
    for _ in range(lab.times):
        workdir = lab.new()
        flags = scripts.together(2, HEARTBEAT)
        start = lambda own, to: scripts.start(  # noqa: E731
            'train.py', f'--workdir={to}', *FLAGS, *own, JAX_NUM_CPU_DEVICES='1', **lab.cache
        )
        first = start(flags[0], workdir)
        time.sleep(20)
        both = [first, start(flags[1], workdir)]
        said = [process.communicate() for process in both]
        assert not any(process.returncode for process in both), said
        yield 'process 1 of 2 comes 20 s late', lab.check(workdir, 2)


def elastic(lab: Lab) -> Outcomes:
    """Stops runs and resumes them with another number of processes or devices."""
    wanted = lab.wanted()[1]
    ways = {
        '2, then 1, then 4 processes': ((2, 1), (1, 1), (4, 1)),
        '8, then 2 devices': ((1, 8), (1, 2)),
        '1, then 8 devices': ((1, 1), (1, 8)),
    }
    for what, arrangements in ways.items():
        for _ in range(lab.times):
            workdir = lab.new()
            for count, devices in arrangements[:-1]:
                # a signal before training begins only ends the process
                done = len(scripts.losses(workdir))
                running = lab.start(workdir, count=count, devices=devices)
                lab.until(workdir, done + lab.chance.randint(2, 9), running)
                running[-1].send_signal(signal.SIGTERM)
                said = [process.communicate() for process in running]
                assert [process.returncode for process in running] == [75] * count, said
            count, devices = arrangements[-1]
            assert 'resuming' in lab.finish(workdir, count, devices)
            found = scripts.losses(workdir)
            assert len(found) == len(wanted) == STEPS
            largest = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
            assert largest < 1e-3, largest
            within = 10 ** math.ceil(math.log10(max(largest, 1e-9)))
            yield what, f'every step once, all losses within {within:.0e}'


FAULTS = (damage, signals, clock, full_disk, read_only, other_runs, peers, elastic)
MOUNTS = (full_disk, read_only)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    names = [fault.__name__ for fault in FAULTS]
    parser.add_argument('--only', default=','.join(names), help=f'of {", ".join(names)}')
    parser.add_argument('--times', type=int, default=3, help='how often each is tried')
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    chosen = arguments.only.split(',')
    if unknown := set(chosen) - set(names):
        parser.error(f'--only: unknown {sorted(unknown)[0]!r}; must be one of {", ".join(names)}')
    print('| what was done | times | what happened |\n| --- | --: | --- |')
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(pathlib.Path(folder), arguments.times, arguments.seed)
        for fault in FAULTS:
            if fault.__name__ not in chosen:
                continue
            if fault in MOUNTS and os.geteuid() != 0:
                print(f'| {fault.__doc__} | 0 | not tried: mounting takes root |')
                continue
            counts = collections.Counter()
            for what, happened in fault(lab):
                counts[what, happened] += 1
                print(f'{time.strftime("%X")}  {what}: {happened}', file=sys.stderr, flush=True)
            for (what, happened), count in counts.items():
                print(f'| {what} | {count} | {happened} |', flush=True)


if __name__ == '__main__':
    main()
