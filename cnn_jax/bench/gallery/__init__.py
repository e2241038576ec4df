"""Public threads about faults and slowness of convolutions, as programs that run.

`entry` defines an entry. `problems`, `faults` and `slow` hold the situations, `threads` the entries
with programs. `measure` runs them here, `torch_side` in PyTorch; `page` writes the table and the
reports.
"""
