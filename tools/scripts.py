"""Runs the scripts of experiments/ as a user does, each in its own process."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def start(script: str, *flags: str, **environment: str) -> subprocess.Popen:
    """Starts `python experiments/<script> <flags>`, or a module if the name has no '.py'.

    `environment`: additional environment variables.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    what = [str(ROOT / 'experiments' / script)] if script.endswith('.py') else ['-m', script]
    return subprocess.Popen(
        [sys.executable, *what, *flags],
        env=os.environ | {'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu'} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def compilation_cache(folder: pathlib.Path) -> dict[str, str]:
    """Returns environment variables that let processes share a compilation cache."""
    return {
        'JAX_COMPILATION_CACHE_DIR': str(folder),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }


def together(count: int, heartbeat_seconds: int = 100) -> list[tuple[str, ...]]:
    """Returns, for each of `count` processes on this machine, the flags to find the others."""
    if count == 1:
        return [()]
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    common = (
        f'--coordinator=127.0.0.1:{port}',
        f'--num_processes={count}',
        f'--heartbeat_seconds={heartbeat_seconds}',
    )
    return [(*common, f'--process_id={i}') for i in range(count)]


def rows(workdir: pathlib.Path) -> list[dict]:
    """Returns the metrics of a run so far, without a line that is still being written."""
    try:
        text = (workdir / 'metrics.jsonl').read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(True) if line.endswith('\n')]


def losses(workdir: pathlib.Path) -> list[float]:
    """Returns the training loss of every logged step."""
    return [row['train_loss'] for row in rows(workdir) if 'train_loss' in row]


def saving(workdir: pathlib.Path) -> bool:
    """Returns whether a checkpoint is being written, or was when the run was killed."""
    return any(workdir.glob('checkpoints/*.orbax-checkpoint-tmp'))


def last_state(workdir: pathlib.Path) -> tuple[int, dict[str, str]]:
    """Returns the newest step and its digests, which `save` computed from the arrays."""
    folder = workdir / 'checkpoints'
    step = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    metadata = json.loads((folder / str(step) / 'meta' / 'metadata').read_text())
    return step, json.loads(metadata['text'])['digests']


def run(script: str, *flags: str, **environment: str) -> str:
    """Returns what the script prints; fails if it does not exit with 0."""
    process = start(script, *flags, **environment)
    output, errors = process.communicate()
    assert process.returncode == 0, f'exit code {process.returncode}\n{output}\n{errors}'
    return output


def errors(script: str, *cases: tuple[str, ...]) -> list[str]:
    """Runs all cases of flags at once; returns the one line on stderr that rejects each."""
    processes = [start(script, *flags) for flags in cases]
    lines = []
    for flags, process in zip(cases, processes, strict=True):
        output, problem = process.communicate()
        assert process.returncode == 2, f'{flags}: exit code {process.returncode}\n{problem}'
        assert output == '' and problem.count('\n') == 1, f'{flags}:\n{output}{problem}'
        lines.append(problem.strip())
    return lines
