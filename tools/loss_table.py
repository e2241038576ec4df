"""Trains 50 steps in every arrangement of devices and processes and compares the losses.

    python tools/loss_table.py [--dtype=bfloat16] [other flags of train.py]

The model has no batch norm, which is global under jit but per device under pmap, and no dropout,
whose masks pmap draws per device. All arrangements therefore compute the same function and differ
only in the order of summation. Prints a table in Markdown.
"""

import dataclasses
import pathlib
import sys
import tempfile

import numpy as np
import scripts

STEPS = 50
SHOWN = (1, 10, 20, 30, 40, 50)
FLAGS = (
    '--dataset=digits',
    '--model=lecture_cnn',
    f'--steps={STEPS}',
    '--log_every=1',
    f'--eval_every={STEPS}steps',
    f'--checkpoint_every={STEPS}steps',
)


@dataclasses.dataclass(frozen=True)
class Arrangement:
    processes: int
    devices: int  # per process
    parallel: str = 'jit'
    accumulate: int = 1

    def losses(self, workdir: pathlib.Path, flags: tuple[str, ...]) -> np.ndarray:
        """Returns the losses of all steps, (STEPS,) float64."""
        flags = (
            f'--workdir={workdir}',
            f'--parallel={self.parallel}',
            f'--accumulate={self.accumulate}',
            *FLAGS,
            *flags,
        )
        running = [
            scripts.start('train.py', *flags, *own, JAX_NUM_CPU_DEVICES=str(self.devices))
            for own in scripts.together(self.processes)
        ]
        said = [process.communicate() for process in running]
        if any(process.returncode for process in running):
            raise SystemExit(f'{self}: {said}')
        return np.array(scripts.losses(workdir))


ARRANGEMENTS = (
    Arrangement(1, 1),
    Arrangement(1, 2),
    Arrangement(1, 8),
    Arrangement(1, 1, accumulate=4),
    Arrangement(1, 8, accumulate=4),
    Arrangement(1, 1, 'pmap'),
    Arrangement(1, 2, 'pmap'),
    Arrangement(1, 8, 'pmap'),
    Arrangement(1, 8, 'pmap', accumulate=4),
    Arrangement(2, 1),
    Arrangement(4, 1),
    Arrangement(2, 4),
    Arrangement(4, 1, accumulate=4),
)


def main():
    flags = tuple(sys.argv[1:])
    steps = ''.join(f' step {step} |' for step in SHOWN)
    print(f'| mode | processes x devices | parts |{steps} largest difference |')
    print('| --- | --- | --: |' + ' --: |' * (len(SHOWN) + 1))
    wanted = None
    with tempfile.TemporaryDirectory() as folder:
        for i, each in enumerate(ARRANGEMENTS):
            found = each.losses(pathlib.Path(folder) / str(i), flags)
            assert found.shape == (STEPS,)
            wanted = found if wanted is None else wanted
            shown = ''.join(f' {found[step - 1]:.6f} |' for step in SHOWN)
            difference = np.abs(found - wanted).max()
            where = f'{each.processes} x {each.devices}'
            print(
                f'| {each.parallel} | {where} | {each.accumulate} |{shown} {difference:.1e} |',
                flush=True,
            )


if __name__ == '__main__':
    main()
