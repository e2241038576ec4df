# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train a convolutional network with cnn_jax
#
# Runs on the hardware of this machine: one TPU chip, a GPU, or the CPU. To choose it, use Runtime >
# Change runtime type. The steps are: versions, install, a report on the machine (if wanted), train,
# look at the pictures, compare kernels, resume after a disconnect.
#
# This notebook is generated from `launch/colab.py` (`jupytext --to ipynb launch/colab.py`).

# %% tags=["parameters"]
REPOSITORY = ''  # address to clone from; not needed if this notebook is in a checkout
DATASET = 'fashion_mnist'  # downloaded on first use; 'digits' needs no network
DATA_DIR = ''  # folder of prepared data sets, if there is one
MODEL = 'lecture_cnn'
EPOCHS = 5.0
BATCH_SIZE = 128
DTYPE = 'float32'  # 'bfloat16' is faster on a TPU and on recent GPUs
USE_DRIVE = False  # True: keep the run on Google Drive, so that a disconnect loses nothing
WORKDIR = 'runs/colab'
REPORT = None  # ['--minutes=10'] measures this machine first; the list holds flags, if any

# %% [markdown]
# ## Installed versions

# %% tags=["install"]
import importlib.metadata
import importlib.util
import pathlib
import platform
import subprocess
import sys


def versions():
    return {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'numpy')}


before = versions()
print(f'Python {platform.python_version()},', ', '.join(f'{k} {v}' for k, v in before.items()))

# %% [markdown]
# ## Install
#
# The package uses the installed versions of JAX and Flax (JAX from 0.7.2, Flax from 0.11.2): pip
# adds missing packages and upgrades nothing.

# %% tags=["install"]
here = pathlib.Path.cwd()
root = next((p for p in (here, *here.parents) if (p / 'cnn_jax').is_dir()), None)
if root is None:
    root = here / 'checkout'
    if not root.exists():
        if not REPOSITORY:
            raise SystemExit('Set REPOSITORY above to the address of the cnn_jax repository.')
        subprocess.run(['git', 'clone', '--depth=1', REPOSITORY, str(root)], check=True)
if importlib.util.find_spec('cnn_jax') is None:
    install = [
        sys.executable,
        '-m',
        'pip',
        'install',
        '--quiet',
        '--editable',
        f'{root}[bench]',
    ]
    subprocess.run(install, check=True)
    sys.path.insert(0, str(root))  # Python sees an editable install only after a restart
assert versions() == before, f'pip changed {before} to {versions()}'

# %% [markdown]
# ## A report on this machine
#
# Runs only if `REPORT` is set. Checks the kernels, times them and the training of well-known
# networks, and writes one file to send back. It comes before this notebook uses JAX: a TPU belongs
# to one process at a time.

# %%
if REPORT is not None:
    from IPython.display import Markdown, display

    script = root / 'experiments' / 'accelerator_report.py'
    subprocess.run([sys.executable, str(script), f'--output={WORKDIR}-report', *REPORT], check=True)
    display(Markdown(pathlib.Path(f'{WORKDIR}-report', 'report.md').read_text()))
    print(f'to send back: {WORKDIR}-report/report.json')

# %%
import jax

print(f'{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})')

# %% [markdown]
# ## Where the run is saved
#
# Checkpoints, metrics and pictures go to one folder. On Google Drive, it outlives this machine.

# %%
if USE_DRIVE:
    from google.colab import drive

    drive.mount('/content/drive')
    WORKDIR = f'/content/drive/MyDrive/cnn_jax/{pathlib.Path(WORKDIR).name}'

# %% [markdown]
# ## Train
#
# Your own `nnx.Module` can stand in the place of `MODEL`, and your own arrays, as a pair (images,
# labels) or `{'train': ..., 'test': ...}`, in the place of `DATASET`.

# %%
from cnn_jax import training


def train():
    """Trains to the end, from the newest checkpoint in the folder if there is one."""
    return training.fit(
        MODEL,
        DATASET,
        workdir=WORKDIR,
        data_dir=DATA_DIR,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        dtype=DTYPE,
    )


run = train()
print(f'test accuracy {run.metrics["test"]["accuracy"]:.4f}')

# %% [markdown]
# ## Learning curves, confusion matrix, filters of the first layer, and feature maps

# %%
from IPython.display import Image, display

for name in ('learning_curves', 'confusion_matrix', 'filters', 'feature_maps'):
    display(Image(filename=run.workdir.pictures / f'{name}.png'))

# %% [markdown]
# ## The same convolution with every kernel
#
# All kernels compute the same function. The time is the median of a few calls after the first.

# %%
import time

import numpy as np

import cnn_jax

random = np.random.default_rng(0)
x = random.standard_normal((32, 28, 28, 32), np.float32)
kernel = random.standard_normal((3, 3, 32, 64), np.float32) / 17
wanted = np.asarray(cnn_jax.conv(x, kernel, implementation='lax', precision='highest'))

for name in cnn_jax.implementations('conv'):
    run = jax.jit(
        lambda x, k, name=name: cnn_jax.conv(x, k, implementation=name, precision='highest')
    )
    try:
        result = jax.block_until_ready(run(x, kernel))
    except ValueError as reason:
        print(f'{name:10s} {reason}')
        continue
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(run(x, kernel))
        seconds.append(time.perf_counter() - start)
    error = np.abs(np.asarray(result) - wanted).max()
    print(
        f'{name:10s} {1e3 * np.median(seconds):8.2f} ms   largest difference from lax {error:.1e}'
    )

# %% [markdown]
# ## After a disconnect
#
# Run all cells again with the same parameters. Training resumes from the newest checkpoint, or
# reports that it is finished. Without Google Drive, the folder is lost with the machine.

# %%
train()
