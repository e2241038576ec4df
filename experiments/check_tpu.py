"""Compiles the training step for TPUs without one: python experiments/check_tpu.py --model=NAME

Compiles the step that training runs for the model and recipe given by the flags.
launch/check_tpu.sh sets up an environment with the TPU compiler. For every slice, the script prints
the memory used and available on the chip, operations per chip, and collectives with their bytes. It
then prints the weak scaling that these figures imply, and lowers the same step for TPU and CUDA
with `jax.export`, which does not need the TPU compiler:

    python experiments/check_tpu.py --model=vgg16 --input_shape=224,224,3 --num_classes=1000 \
        --dtype=bfloat16 --batch_per_chip=128
    python experiments/check_tpu.py --model=vgg16 --input_shape=224,224,3 --slices=

Exit codes: 0 the step fits every slice; 1 it does not fit some slice (the largest batch that fits
is printed); 2 a flag is wrong, or the TPU compiler is missing.
"""

import dataclasses
import json
import pathlib

from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError
from cnn_jax.training.config import TrainConfig

cli.define_flags(TrainConfig)
flags.DEFINE_list('slices', 'v5e-1,v5e-4,v5e-16,v5e-256,v6e-1', 'slices to compile for, or none')
flags.DEFINE_integer(
    'batch_per_chip',
    0,
    'examples per chip, or per group of chips that divide an image (default: batch_size)',
    lower_bound=0,
)
flags.DEFINE_list(
    'input_shape', '', 'height,width,channels of one uint8 image, instead of a data set'
)
flags.DEFINE_integer('num_classes', 1000, 'number of classes, with --input_shape', lower_bound=1)
flags.DEFINE_bool('export', True, 'also lower for TPU and CUDA by jax.export')
flags.DEFINE_bool('largest_batch', True, 'if it does not fit, find the largest that does')
flags.DEFINE_bool(
    'optimize',
    False,
    'compile as for a run: 3 to 20 times slower, but exact temporaries for small models',
)
flags.DEFINE_float('efficiency', 0.4, 'fraction of the peak assumed for the scaling table')
cli.define_path('output', '', 'also write the reports to this JSON file')


def main(argv):
    del argv
    with cli.bad_input():
        config = cli.from_flags(TrainConfig)
        import jax

        jax.config.update('jax_platforms', 'cpu')  # compiles for TPUs; must not search for one
        from cnn_jax.bench.tpu import aot, scaling
        from cnn_jax.training.devices import Devices
        from cnn_jax.training.job import batch_shapes

        slices = [_slice(name, aot.SLICES) for name in flags.FLAGS.slices]
        assumptions = scaling.Assumptions(efficiency=flags.FLAGS.efficiency)
        job = _job(config)
        meshes = {each.name: Devices.all(aot.tpu_devices(each), config.mesh) for each in slices}
        for devices in meshes.values():
            devices.check_strips(job.dataset.input_shape)
    per_chip = flags.FLAGS.batch_per_chip or config.batch_size
    state = job.state_like()
    state_bytes = scaling.tree_bytes(state)
    print(
        f'{config.model}, {config.dtype}, {per_chip} examples per chip; '
        f'state {state_bytes / 2**20:,.1f} MiB\n'
    )

    def compile_for(slice_, size):
        devices = meshes[slice_.name]
        return aot.compile_step(
            dataclasses.replace(job, devices=devices).step(),
            state,
            batch_shapes(job.dataset, size * devices.parts),
            slice_,
            devices=devices,
            optimize=flags.FLAGS.optimize,
        )

    reports, failed = {}, []
    if slices:
        print(_HEADER)
    for slice_ in slices:
        try:
            reports[slice_.name] = compile_for(slice_, per_chip)
            print(_row(slice_, reports[slice_.name]), flush=True)
        except aot.DoesNotFit as error:
            failed.append(slice_.name)
            size = per_chip * meshes[slice_.name].parts
            print(f'| {slice_.name} | {size:,} | does not fit: {error} |', flush=True)
            if flags.FLAGS.largest_batch and per_chip > 8:
                _print_largest(slice_, compile_for, per_chip)
    rows = [scaling.scale(reports[s.name], s, assumptions) for s in slices if s.name in reports]
    if rows:
        print(f'\nWeak scaling at {assumptions.efficiency:.0%} of the peak:')
        print(f'{scaling.table(rows)}\n')
    seconds = scaling.checkpoint_seconds(state_bytes, assumptions)
    print(f'checkpoint: {state_bytes / 1e9:.2f} GB, {seconds:.1f} s at 1 GB/s')
    if flags.FLAGS.export:
        for platform in ('tpu', 'cuda'):
            exported = aot.export_step(
                job.step(), state, batch_shapes(job.dataset, per_chip), (platform,)
            )
            print(_exported(platform, exported, aot.operations(exported)), flush=True)
    if flags.FLAGS.output:
        values = {name: dataclasses.asdict(report) for name, report in reports.items()}
        path = pathlib.Path(flags.FLAGS.output)
        path.write_text(json.dumps({'jax': jax.__version__, 'reports': values}, indent=2) + '\n')
        print(f'written to {path}')
    if failed:
        print(f'does not fit: {", ".join(failed)}')
        return 1
    print(f'fits: {", ".join(reports)}' if slices else 'compiled for no slice')
    return 0


def _exported(platform, exported, operations):
    """Returns one line that summarises what `jax.export` made of the step."""
    foreign = operations['custom_call']
    return (
        f'jax.export for {platform}: {len(exported.mlir_module_serialized) / 1e3:,.0f} kB of '
        f'StableHLO, {operations["convolution"]} convolutions, {operations["dot_general"]} matrix '
        f'products, {foreign} calls of libraries'
    )


def _slice(name, known):
    if name not in known:
        raise UserError(f'slices: unknown {name!r}; must be one of {", ".join(known)}')
    return known[name]


def _job(config):
    """Returns a job for these flags; the caller replaces its devices."""
    from cnn_jax.bench.tpu import steps
    from cnn_jax.training import job

    if not flags.FLAGS.input_shape:
        return steps.make_job(config, job.load_data(config))
    shape = cli.integers('input_shape', at_least=1)
    dataset = steps.shapes_only(shape, flags.FLAGS.num_classes, config.model)
    return steps.make_job(config, dataset)


_HEADER = (
    '| slice | batch | memory GiB | of | GFLOP per chip | collectives | MB per step | compiled |\n'
    '| --- | --: | --: | --: | --: | --- | --: | --: |'
)


def _row(slice_, report):
    kinds = ', '.join(
        f'{c.count} {kind} ({c.bytes / 1e6:.2f} MB)' for kind, c in report.collectives.items()
    )
    return (
        f'| {slice_.name} | {report.batch_size:,} | {report.hbm_bytes / 2**30:.3f} '
        f'| {slice_.chip.hbm_bytes / 2**30:.2f} | {report.flops / 1e9:,.1f} | {kinds or "none"} '
        f'| {report.collective_bytes / 1e6:.2f} | {report.seconds:.0f} s |'
    )


def _print_largest(slice_, compile_for, per_chip):
    from cnn_jax.bench.tpu import aot

    try:
        best = aot.largest_batch(lambda size: compile_for(slice_, size), per_chip // 2)
        print(f'| largest that fits: {best.batch_size // slice_.chips} per chip ', end='')
        print(_row(slice_, best), flush=True)
    except aot.DoesNotFit as error:
        print(f'| not even 8 per chip: {error} |', flush=True)


if __name__ == '__main__':
    cli.run(main)
