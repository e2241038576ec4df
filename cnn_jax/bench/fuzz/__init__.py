"""A fuzzer: random convolutions, products and pools, compared with NumPy.

The modules here import only JAX, NumPy and each other (relatively), so that `worker.py` can run in
an environment with any version of JAX. `campaign.py`, which starts workers, and `ours.py`, which
tests the operations of this package, are the exceptions.
"""
