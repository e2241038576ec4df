"""Trains the same network in JAX and in PyTorch, and compares them step by step."""
