"""Compiles training steps ahead of time for TPUs and estimates how they scale."""
