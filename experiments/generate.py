"""Trains a model that makes images: python experiments/generate.py --model=vae --workdir=DIR

    python experiments/train.py --dataset=fashion_mnist --epochs=3 --workdir=runs/judge
    python experiments/generate.py --model=dcgan --epochs=5 --classifier_workdir=runs/judge

Run again with the same flags, it goes on where it stopped, or says that it is finished. Beside
what train.py writes, the folder gets samples, reconstructions and interpolations (pictures/).

With --model=dcgan the defaults are those of Radford et al. 2015: Adam, learning rate 2e-4, beta1
0.5, batches of 128, no decay. Exit codes are those of train.py.
"""

import pathlib

from absl import flags

from cnn_jax import training
from cnn_jax.training import cli
from cnn_jax.training.config import DCGAN, GenerateConfig
from cnn_jax.training.workdir import default_name

cli.define_flags(GenerateConfig)
flags.DEFINE_string(
    'workdir', '', 'folder of the run (default: runs/<dataset>-<model>-<digest of the flags>)'
)


def main(argv):
    del argv
    with cli.bad_input():
        from cnn_jax.training.generation_job import make_generation_job

        if flags.FLAGS.model == 'dcgan':
            for name, value in DCGAN.items():
                flags.FLAGS.set_default(name, value)
        config = cli.from_flags(GenerateConfig)
        path = flags.FLAGS.workdir or pathlib.Path('runs') / default_name(config)
        workdir = training.Workdir(path, config)
        result = workdir.result()
        # A classifier can also come afterwards.
        if result and ('images' in result or not config.classifier_workdir):
            print(f'already finished at step {result["step"]}: {last_line(result, workdir)}')
            return
        job = make_generation_job(config, workdir.path)
        lock = workdir.hold()
    parameters = ', '.join(f'{name} {n:,}' for name, n in job.num_parameters.items())
    print(
        f'training {config.model} (parameters: {parameters}) on {config.dataset} '
        f'({len(job.dataset.splits["train"]):,} examples), {job.total_steps} steps of '
        f'{config.batch_size}, on {job.devices}',
        flush=True,
    )
    with lock, cli.training_errors():
        _, result = training.train(job, workdir)
        workdir.finish(result)
        print(last_line(result, workdir))


def last_line(result, workdir):
    from cnn_jax.training.generation_job import describe

    lacking = '' if 'images' in result else ' (no --classifier_workdir: nobody judged the images)'
    return f'{describe(result)}{lacking}, written to {workdir.path}'


if __name__ == '__main__':
    cli.run(main)
