"""Measures the overhead of the training loop: python experiments/benchmark_training.py

Prints three tables in Markdown:

1. Milliseconds per step of this library's loop and of two loops from Flax's documentation
   (`nnx.jit` and the functional one). All use the same model, batches, optimiser and loss, and take
   turns on one device. The table also has the compiled step alone, called repeatedly with the same
   arguments.
2. The share of the time that the loop waits for examples, with the data set on the device and with
   batches read ahead.
3. Milliseconds per step on 1, 2, 4, ... devices with a fixed global batch size, and the collectives
   of one step in the compiled program.

A small batch shows the overhead of a loop; a large batch shows whether the overhead matters.
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from absl import flags
from flax import nnx

from cnn_jax import cli, models, training
from cnn_jax.bench import machine
from cnn_jax.bench.loops import Loop, StepAlone
from cnn_jax.training.devices import Devices

DATASET = flags.DEFINE_string('dataset', 'digits', 'data set, by name')
MODEL = flags.DEFINE_string('model', 'small_cnn', 'model, by name')
BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['8', '64'], 'examples per step, for tables 1 and 2')
SCALING_BATCH = flags.DEFINE_integer('scaling_batch', 64, 'examples per step, for table 3')
TABLES = flags.DEFINE_multi_enum(
    'table', ['loops', 'scaling'], ['loops', 'scaling'], 'tables to make'
)
DEVICES = flags.DEFINE_integer('devices', 8, 'virtual devices of a CPU', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 7, 'samples of each loop, taken in turn', lower_bound=1)
STEPS = flags.DEFINE_integer('steps', 20, 'steps per sample', lower_bound=1)


def flax_loops(job: training.Job) -> dict[str, Callable[[int], None]]:
    """Returns the two loops of Flax's documentation, as functions of the number of steps."""
    dataset, config = job.dataset, job.config
    split, size = dataset.splits['train'], config.batch_size
    order = np.random.default_rng(0).permutation(len(split))
    batches = [split.take(order[i : i + size]) for i in range(0, len(split) - size + 1, size)]

    def make():
        model = models.create(
            config.model,
            input_shape=dataset.input_shape,
            num_classes=dataset.num_classes,
            kind=dataset.kind,
            rngs=nnx.Rngs(0),
        )
        model.train()
        return model, nnx.Optimizer(model, optax.adam(job.schedule), wrt=nnx.Param)

    def update(model, optimizer, inputs, labels):
        def loss_of(model):
            logits = model(dataset.normalize(inputs))
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits.argmax(-1) == labels).mean()

        (loss, accuracy), grads = nnx.value_and_grad(loss_of, has_aux=True)(model)
        optimizer.update(model, grads)
        return {'loss': loss, 'accuracy': accuracy, 'grad_norm': optax.global_norm(grads)}

    def stepper(step: Callable) -> Callable[[int], None]:
        def run(steps):
            pending = None
            for i in range(steps):
                batch = batches[i % len(batches)]
                metrics = step(batch.inputs, batch.labels)
                if pending is not None:
                    jax.device_get(pending)
                pending = metrics
            jax.device_get(pending)

        return run

    whole, compiled = make(), nnx.jit(update)
    graph, state = nnx.split(make())
    states = [state]

    def pure(state, inputs, labels):
        model, optimizer = nnx.merge(graph, state, copy=True)
        metrics = update(model, optimizer, inputs, labels)
        return nnx.split((model, optimizer))[1], metrics

    jitted = jax.jit(pure, donate_argnums=0)

    def functional(inputs, labels):
        states[0], metrics = jitted(states[0], inputs, labels)
        return metrics

    return {
        'Flax, functional': stepper(functional),
        'Flax, `nnx.jit`': stepper(lambda inputs, labels: compiled(*whole, inputs, labels)),
    }


def milliseconds(loops: dict[str, Callable[[int], None]]) -> dict[str, np.ndarray]:
    """Returns milliseconds per step of every loop: one sample per round, with loops interleaved."""
    samples = {name: [] for name in loops}
    for loop in loops.values():
        loop(3)  # compiles
    for _ in range(ROUNDS.value):
        for name, loop in loops.items():
            begun = time.perf_counter()
            loop(STEPS.value)
            samples[name].append(1e3 * (time.perf_counter() - begun) / STEPS.value)
    return {name: np.array(values) for name, values in samples.items()}


def make_job(batch_size: int, count: int, parallel: str = 'jit') -> training.Job:
    config = training.TrainConfig(
        dataset=DATASET.value,
        model=MODEL.value,
        batch_size=batch_size,
        optimizer='adam',
        weight_decay=0.0,
        parallel=parallel,
    )
    devices = Devices.all(jax.devices()[:count])
    return dataclasses.replace(training.make_job(config), devices=devices)


def overhead() -> None:
    waits = []
    print('\n| batch | loop | ms per step, median | quartiles |\n| --: | --- | --: | --: |')
    for size in map(int, BATCH_SIZES.value):
        job = make_job(size, 1)
        here, ahead = Loop(job), Loop(job, resident=False)
        loops = {
            'the compiled step alone': StepAlone(here),
            'cnn_jax, set on the device': here,
            'cnn_jax, batches read ahead': ahead,
        } | flax_loops(job)
        for name, samples in milliseconds(loops).items():
            low, middle, high = np.percentile(samples, (25, 50, 75))
            print(f'| {size} | {name} | {middle:.2f} | {low:.2f} to {high:.2f} |', flush=True)
        for name, loop in (('set on the device', here), ('batches read ahead', ahead)):
            waits.append(f'| {size} | {name} | {loop.waits(10 * STEPS.value):.2%} |')
    print('\n| batch | examples | time spent waiting for them |\n| --: | --- | --: |')
    print('\n'.join(waits))


def scaling() -> None:
    print('\n| mode | devices | ms per step, median | collectives | MB per step |')
    print('| --- | --: | --: | --- | --: |')
    counts = [n for n in (1, 2, 4, 8, 16) if n <= min(DEVICES.value, jax.device_count())]
    for parallel in ('jit', 'pmap'):
        loops = {n: Loop(make_job(SCALING_BATCH.value, n, parallel)) for n in counts}
        for n, samples in milliseconds(loops).items():
            found = loops[n].collectives()
            kinds = ', '.join(f'{each.count} {kind}' for kind, each in found.items()) or 'none'
            size = sum(each.bytes for each in found.values()) / 1e6
            print(f'| {parallel} | {n} | {np.median(samples):.1f} | {kinds} | {size:.3f} |')


def main(argv):
    del argv
    jax.config.update('jax_num_cpu_devices', DEVICES.value)
    with cli.bad_input():
        job = make_job(SCALING_BATCH.value, 1)
    print(f'{machine.one_line()}; {MODEL.value}, {job.net.num_parameters:,} parameters', flush=True)
    for table in TABLES.value:
        {'loops': overhead, 'scaling': scaling}[table]()
    print('\nnothing is written: the tables above are all')


if __name__ == '__main__':
    cli.run(main)
