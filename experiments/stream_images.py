"""Measures how many images per second processes read and decode from an ImageNet-like set.

    python experiments/stream_images.py --processes=1,2
    python experiments/stream_images.py --data_dir=DIR --dataset=imagenet2012 --processes=1,2,4,8

Every process loads its share of the same global batches, as in training, in one of two ways.
`threads` is what training does: cnn_jax.data.Loader decodes in a pool of threads. With `grain`,
Grain runs the same loader in its own worker processes (mp_prefetch). Without --data_dir, the script
prepares a set of --examples JPEG files of 500 x 375 pixels in a temporary folder, in the same way
as ImageNet: from tar archives to array_record shards. The images are crops of scikit-learn's sample
photographs.

Exit codes: 0 success; 2 a flag is wrong, or the data set does not exist.
"""

import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError

WAYS = ('threads', 'grain')

flags.DEFINE_string('dataset', 'imagenet2012', 'data set of images, prepared as array_record')
cli.define_path('data_dir', '', 'folder of prepared data sets (default: a generated data set)')
flags.DEFINE_integer('examples', 400, 'images in the generated data set', lower_bound=1)
flags.DEFINE_integer('size', 224, 'height and width that images are resized to', lower_bound=1)
flags.DEFINE_integer('batch_size', 64, 'images per batch of each process', lower_bound=1)
flags.DEFINE_integer('batches', 12, 'timed batches of each process', lower_bound=1)
flags.DEFINE_list('processes', ['1', '2'], 'numbers of processes to try')
flags.DEFINE_list('ways', list(WAYS), 'ways to read: ' + ', '.join(WAYS))
flags.DEFINE_integer('workers', 1, 'Grain worker processes per process', lower_bound=1)
flags.DEFINE_string('share', '', 'internal: the task of a process that this script starts')


def main(argv):
    del argv
    f = flags.FLAGS
    if f.share:
        return _stream(**json.loads(f.share))
    with cli.bad_input(), tempfile.TemporaryDirectory() as made:
        counts = cli.integers('processes', at_least=1)
        if unknown := set(f.ways) - set(WAYS):
            raise UserError(f'ways: {min(unknown)!r} must be one of {", ".join(WAYS)}')
        data_dir = f.data_dir or _make(pathlib.Path(made), f.examples)
        folder = _open(f.dataset, data_dir)
        stored = sum(path.stat().st_size for path in folder.shards('train'))
        print(
            f'{f.dataset}: {folder.sizes["train"]:,} images, '
            f'{stored / folder.sizes["train"] / 1e3:.0f} kB each, to {f.size} x {f.size}; '
            f'{len(os.sched_getaffinity(0))} cores'
        )
        print(
            '| way | processes | images/s of each | images/s together |\n| --- | --: | --- | --: |'
        )
        for way in f.ways:
            for count in counts:
                rates = _rates(way, count, data_dir)
                each = ', '.join(f'{rate:.0f}' for rate in rates)
                print(f'| {way} | {count} | {each} | {sum(rates):,.0f} |', flush=True)
    print(f'each process: {f.batches} batches of {f.batch_size} after the first, all at once')


def _rates(way, count, data_dir):
    """Starts the processes, releases them together, and returns their images per second."""
    f = flags.FLAGS
    task = {
        'way': way, 'count': count, 'data_dir': str(data_dir), 'dataset': f.dataset,
        'size': f.size, 'batch_size': f.batch_size, 'batches': f.batches, 'workers': f.workers,
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, __file__, f'--share={json.dumps(task | {"index": index})}'],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]  # fmt: skip
    for process in started:
        process.stdout.readline()
    for process in started:
        process.stdin.write('go\n')
        process.stdin.flush()
    lines = [process.communicate()[0].strip() for process in started]
    if any(process.returncode for process in started):
        raise UserError(f'a process of {way} failed; its error stands above')
    return [float(line) for line in lines]


class Batches:
    """Returns this process's share of the batch of a step.

    Opens the data set on the first call, because open files and threads cannot be pickled for
    another process.
    """

    def __init__(self, task):
        self.task, self.images, self.loader = task, None, None

    def __call__(self, step):
        if self.images is None:
            from cnn_jax.data import Loader, Split, readers, stored

            task = self.task
            folder = _open(task['dataset'], task['data_dir'])
            feature, _ = readers.supervised(folder, 'image')
            self.images = stored.prepared_images(folder, 'train', feature, task['size'])
            # Training reads the labels once, before it starts, so they are not timed here.
            split = Split(self.images, np.zeros(len(self.images), np.int32))
            self.loader = Loader(
                split, task['batch_size'] * task['count'],
                process_index=task['index'], process_count=task['count'],
            )  # fmt: skip
        return self.loader.batch(step)['inputs']


def _stream(**task):
    batches = Batches(task)
    steps = task['batches'] + 1
    if task['way'] == 'grain':
        import grain

        # Grain uses no threads in its workers: the thread pool of the images decodes, and the set
        # is opened once.
        alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        found = grain.MapDataset.range(steps).map(batches).to_iter_dataset(alone)
        source = iter(found.mp_prefetch(grain.MultiprocessingOptions(task['workers'])))
    else:
        source = map(batches, range(steps))
    next(source)
    print('ready', flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    images = sum(len(batch) for batch in source)
    print(images / (time.perf_counter() - start), flush=True)
    return 0


def _open(dataset, data_dir):
    from cnn_jax.data.prepare import find_or_prepare

    return find_or_prepare(dataset, data_dir, None, download=False)


def _make(folder, count):
    """Prepares an ImageNet-like set of `count` training images; returns the data folder."""
    import tensorflow_datasets as tfds
    from sklearn.datasets import load_sample_images

    from cnn_jax.data.prepare import prepare

    tfds.disable_progress_bar()
    rng = np.random.default_rng(0)
    photographs = load_sample_images().images

    def jpeg(number):
        import PIL.Image

        whole = photographs[number % 2]
        top, left = rng.integers(0, np.array(whole.shape[:2]) - (375, 500) + 1)
        content = io.BytesIO()
        PIL.Image.fromarray(whole[top : top + 375, left : left + 500]).save(
            content, 'JPEG', quality=90
        )
        return content.getvalue()

    def tar(members):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode='w') as archive:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return content.getvalue()

    originals = folder / 'originals'
    originals.mkdir()
    label = 'n01440764'
    train = tar({f'{label}_{i}.JPEG': jpeg(i) for i in range(count)})
    (originals / 'ILSVRC2012_img_train.tar').write_bytes(tar({f'{label}.tar': train}))
    test = tar({'ILSVRC2012_val_00000001.JPEG': jpeg(0)})
    (originals / 'ILSVRC2012_img_val.tar').write_bytes(test)
    prepare('imagenet2012', folder, originals)
    return folder


if __name__ == '__main__':
    cli.run(main)
