"""The same network trained in JAX and in PyTorch, step by step."""
