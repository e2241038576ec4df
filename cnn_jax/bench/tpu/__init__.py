"""Training steps compiled ahead of time for TPUs, and what scaling they promise."""
