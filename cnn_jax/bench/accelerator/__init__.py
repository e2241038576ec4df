"""A report on a device: right results, times of kernels, training throughput, waiting for input.

`parts` measures on the device, each part in a process of its own. `report` starts these processes
within a budget of time and collects what they find; `tables` formats it; `choices` turns reports
into a table of measured choices.
"""
