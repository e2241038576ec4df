"""A small checkout that the launch scripts can actually install, offline and in seconds.

It contains the real scripts and a package without dependencies. Its build backend is part of the
checkout, so that pip needs no package index.
"""

import os
import shutil
import subprocess
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PYPROJECT = """
[build-system]
requires = []
build-backend = 'backend'
backend-path = ['.']

[project]
name = 'cnn_jax'
version = '0'
optional-dependencies = { train = [], bench = [], test = [], cpu = [], cuda = [], tpu = [] }
"""

# Writes the files of an editable wheel; waits while the file `hold` exists.
_BACKEND = """
import pathlib, time, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    root = pathlib.Path(__file__).parent
    (root / 'building').touch()
    while (root / 'hold').exists():
        time.sleep(0.05)
    info = 'cnn_jax-0.dist-info/'
    names = ('train', 'bench', 'test', 'cpu', 'cuda', 'tpu')
    extras = ''.join(f'Provides-Extra: {name}\\n' for name in names)
    files = {
        'cnn_jax.pth': f'{root}\\n',
        info + 'METADATA': f'Metadata-Version: 2.1\\nName: cnn_jax\\nVersion: 0\\n{extras}',
        info + 'WHEEL': 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n',
        info + 'RECORD': '',
    }
    name = 'cnn_jax-0-py3-none-any.whl'
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, 'w') as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
"""

# Prints its flags and writes a file into its workdir; --code=N sets the exit code.
_TRAIN = """
import pathlib, sys, cnn_jax
print('trained', *sys.argv[1:])
flags = dict(flag[2:].split('=', 1) for flag in sys.argv[1:])
if 'workdir' in flags:
    workdir = pathlib.Path(flags['workdir'])
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / 'result.json').write_text('{}')
sys.exit(int(flags.get('code', 0)))
"""


def make(folder: Path) -> Path:
    """Writes the checkout into `folder` and returns it."""
    shutil.copytree(ROOT / 'launch', folder / 'launch')
    for path, text in {
        'pyproject.toml': _PYPROJECT,
        'backend.py': _BACKEND,
        'experiments/train.py': _TRAIN,
        'cnn_jax/__init__.py': '',
        '.gitignore': '.venv*\nhome/\nruns/\n',
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(textwrap.dedent(text))
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Environment variables of a user with an empty home folder and none of this project's."""
    ours = ('CNN_JAX_', 'JAX_COMPILATION_', 'JAX_PERSISTENT_', 'PYTHON')
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {**kept, 'HOME': str(folder / 'home'), **more}


def executable(path: Path, text: str) -> None:
    """Writes an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    path.chmod(0o755)


def launch(folder: Path, script: str, *flags: str, **variables: str):
    """Runs `bash launch/SCRIPT FLAGS` in the checkout and returns the completed process."""
    return subprocess.run(
        ['bash', f'launch/{script}', *flags],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
