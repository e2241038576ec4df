"""Running the scripts of experiments/ as a user does, each in a process of its own."""

import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def start(script: str, *flags: str, **environment: str) -> subprocess.Popen:
    """Starts `python experiments/<script> <flags>`, or a module where the name has no '.py'.

    `environment`: additional variables.
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
    """The environment in which what one process compiled is not compiled again."""
    return {
        'JAX_COMPILATION_CACHE_DIR': str(folder),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }


def together(count: int, heartbeat_seconds: int = 100) -> list[tuple[str, ...]]:
    """The flags with which each of `count` processes finds the others on this machine."""
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
    """The metrics of a run so far; a line that is being written is left out."""
    try:
        text = (workdir / 'metrics.jsonl').read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(True) if line.endswith('\n')]


def losses(workdir: pathlib.Path) -> list[float]:
    """The training loss of every step that is logged."""
    return [row['train_loss'] for row in rows(workdir) if 'train_loss' in row]


def saving(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint is being written, or was when the run was killed."""
    return any(workdir.glob('checkpoints/*.orbax-checkpoint-tmp'))


def last_state(workdir: pathlib.Path) -> tuple[int, dict[str, str]]:
    """The newest step and its digests, which `save` took from the arrays themselves."""
    folder = workdir / 'checkpoints'
    step = max(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    metadata = json.loads((folder / str(step) / 'meta' / 'metadata').read_text())
    return step, json.loads(metadata['text'])['digests']


def run(script: str, *flags: str) -> str:
    """Returns what the script prints; fails if it does not exit with 0."""
    process = start(script, *flags)
    output, errors = process.communicate()
    assert process.returncode == 0, f'exit code {process.returncode}\n{output}\n{errors}'
    return output


def errors(script: str, *cases: tuple[str, ...]) -> list[str]:
    """The one line on stderr with which each case of flags is refused, all run at once."""
    processes = [start(script, *flags) for flags in cases]
    lines = []
    for flags, process in zip(cases, processes, strict=True):
        output, problem = process.communicate()
        assert process.returncode == 2, f'{flags}: exit code {process.returncode}\n{problem}'
        assert output == '' and problem.count('\n') == 1, f'{flags}:\n{output}{problem}'
        lines.append(problem.strip())
    return lines
