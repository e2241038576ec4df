"""Faults of the Pallas kernel: each with the gate of test_pallas.py that sees it on a CPU."""

from tools.mutations.fault import Fault

FILE = 'kernels/pallas/depthwise.py'
MEMORY = 'test_pallas.py -k reads_and_races'

FAULTS = [
    Fault('pallas: the border is not written', FILE, 'if border.start < border.stop:', 'if False:',
          MEMORY),
    Fault('pallas: rows below the image are read', FILE,
          '(first + row >= 0) & (first + row < spec.input_size[0])', 'first + row >= 0', MEMORY),
    Fault('pallas: a copy is not waited for', FILE,
          'padded[row, inside] = source.astype(padded.dtype)',
          """here = first + row - _first_row(i, spec, tiling)
            pl.run_scoped(
                lambda done: pltpu.make_async_copy(
                    x.at[here, kept], padded.at[row, inside], done
                ).start(),
                pltpu.SemaphoreType.DMA,
            )""", MEMORY),
    Fault('pallas: steps that add to one sum run in parallel', FILE,
          "'parallel', 'arbitrary', 'arbitrary'", "'parallel', 'parallel', 'arbitrary'", MEMORY),
]  # fmt: skip
