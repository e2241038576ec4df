"""Kernels in C++ that XLA calls as foreign functions: oneDNN's and Winograd's.

docs/kernels.md describes how they are built and how they use threads.
"""
