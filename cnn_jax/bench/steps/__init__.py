"""Times whole training steps of the same networks in cnn_jax, Flax and PyTorch.

`networks` describes the networks as data. `jax_side` and `torch_side` build and time them, each in
a separate process. `compare` starts these processes in turns.
"""
