"""Whole training steps of the same networks in cnn_jax, Flax and PyTorch, timed side by side.

`networks` describes them as data; `jax_side` and `torch_side` build and time them, each in a
process of its own; `compare` starts those processes in turns.
"""
