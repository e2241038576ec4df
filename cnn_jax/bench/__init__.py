"""Benchmarks of kernels, training steps, parity with PyTorch, and programs compiled for TPUs."""
