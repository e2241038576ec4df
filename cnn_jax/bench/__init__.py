"""Measurements: kernels, training steps, parity with PyTorch, programs compiled for TPUs."""
