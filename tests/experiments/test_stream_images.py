"""experiments/stream_images.py: prepares a small ImageNet and reads it in several processes."""

import sys

import numpy as np
import pytest

from tools import scripts

sys.path.insert(0, str(scripts.ROOT / 'experiments'))
import stream_images  # noqa: E402


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return stream_images._make(tmp_path_factory.mktemp('data'), 24)


def test_processes_share_each_batch_out(data_dir):
    task = {'dataset': 'imagenet2012', 'data_dir': data_dir, 'size': 16, 'batch_size': 4}
    whole = stream_images.Batches(task | {'batch_size': 8, 'index': 0, 'count': 1})(1)
    shares = [stream_images.Batches(task | {'index': i, 'count': 2})(1) for i in range(2)]
    assert whole.shape == (8, 16, 16, 3) and whole.dtype == np.uint8
    assert len({image.tobytes() for image in whole}) == 8
    assert sorted(i.tobytes() for i in np.concatenate(shares)) == sorted(i.tobytes() for i in whole)


@pytest.mark.slow
def test_script_and_what_is_refused(data_dir):
    text = scripts.run(
        'stream_images.py', f'--data_dir={data_dir}', '--processes=1,2', '--size=32',
        '--batch_size=4', '--batches=2',
    )  # fmt: skip
    rows = [line.split('|')[1:-1] for line in text.splitlines() if line.startswith('| ')][2:]
    assert [(way.strip(), int(count)) for way, count, *_ in rows] == [
        (way, count) for way in stream_images.WAYS for count in (1, 2)
    ]
    for _, count, each, together in rows:
        rates = [float(rate) for rate in each.split(',')]
        assert len(rates) == int(count) and min(rates) > 0
        assert sum(rates) == pytest.approx(float(together.replace(',', '')), abs=1)
    lines = scripts.errors(
        'stream_images.py', ('--processes=0',), ('--ways=none',), (f'--data_dir={data_dir}/none',)
    )
    for line, part in zip(lines, ("processes='0'", "ways: 'none'", 'not a folder'), strict=True):
        assert line.startswith('error: ') and part in line
