"""Checks and times every kernel on a convolution problem."""
