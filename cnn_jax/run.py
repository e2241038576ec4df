"""Runs an unmodified JAX program with the kernels of this package.

    python -m cnn_jax.run train.py --epochs=3        # instead of: python train.py --epochs=3
    python -m cnn_jax.run -m mypackage.train         # instead of: python -m mypackage.train

Calls `cnn_jax.install()`, then runs the program as `python` would.
"""

import os
import runpy
import sys

import cnn_jax


def main(argv: list[str]) -> None:
    """Runs the program given by `argv`, which does not include the name of this module."""
    if not argv or argv[0] in ('-h', '--help'):
        print(__doc__)
        sys.exit(0 if argv else 2)
    is_module = argv[0] == '-m'
    if is_module and len(argv) == 1:
        sys.exit('cnn_jax.run: -m needs the name of a module')
    if not is_module and not os.path.exists(argv[0]):
        sys.exit(f'cnn_jax.run: there is no file {argv[0]}')
    cnn_jax.install()
    sys.argv = argv[1:] if is_module else argv
    if is_module:
        sys.path[0] = os.getcwd()
        runpy.run_module(argv[1], run_name='__main__', alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(argv[0]))
        runpy.run_path(argv[0], run_name='__main__')


if __name__ == '__main__':
    main(sys.argv[1:])
