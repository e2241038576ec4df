"""experiments/filters.py: its pictures are correct; unreadable files give an error in one line."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from cnn_jax.ops import filters
from cnn_jax.viz import filter_gallery
from tools import scripts

IMAGE = np.random.default_rng(0).random((52, 60, 3)).astype(np.float32)


def test_script_writes_pictures_and_errors(tmp_path):
    output = scripts.run(
        'filters.py', '--filters=edge', '--kernels=lax,scan', '--size=48', f'--output={tmp_path}'
    )
    assert f'4 pictures written to {tmp_path}' in output.splitlines()[-1]
    for name in ('filters', 'strides', 'separable', 'audio'):
        assert imread(tmp_path / f'{name}.png').std() > 0.01
    found = json.loads((tmp_path / 'filters.json').read_text())
    assert set(found['filters']) == {'edge by lax', 'edge by scan'}
    assert max(found['filters'].values()) < 1e-5


def test_bad_input(tmp_path):
    text = tmp_path / 'text.png'
    text.write_text('no image')
    lines = scripts.errors(
        'filters.py', (f'--image={text}',), (f'--audio={text}',), ('--filters=blurr',)
    )
    for line, part in zip(lines, ('not an image', 'not a WAV file', 'must be one of'), strict=True):
        assert line.startswith('error: ') and part in line


@pytest.mark.parametrize('mode', filter_gallery.MODES)
@pytest.mark.parametrize('name', ['edge', 'gaussian'])
def test_padding_modes_agree_with_scipy(name, mode):
    filter = filters.FILTERS[name]()
    ours = filter_gallery.apply(IMAGE, filter, padding_mode=mode, implementation='lax')
    np.testing.assert_allclose(ours, filter_gallery.by_scipy(IMAGE, filter, mode), atol=1e-5)


def test_gallery_states_errors_and_reasons():
    figure, found = filter_gallery.gallery(IMAGE, ['sharpen'], ['lax', 'dot'])
    assert found['sharpen', 'lax'] < 1e-5
    assert '1x1' in found['sharpen', 'dot']
    shown = figure.axes[1].images[0].get_array()
    expected = np.clip(filter_gallery.by_scipy(IMAGE, filters.sharpen()), 0, 1)
    np.testing.assert_allclose(shown, expected, atol=1e-5)


def test_separable_filters_give_the_same_image():
    _, differences = filter_gallery.separable(IMAGE, ['blur', 'sobel_x'])
    assert set(differences) == {'blur', 'sobel_x'} and max(differences.values()) < 1e-5


def test_strides_picture_marks_every_window():
    axes = filter_gallery.strides_and_paddings(IMAGE).axes
    marked = [len(a.lines[0].get_xdata()) for a in axes[:6]]
    assert marked == [25, 9, 4, 49, 16, 9]


def test_low_pass_keeps_low_tones_and_high_pass_high_ones():
    rate = 8000
    time = np.arange(4000) / rate
    tones = {100: np.sin(2 * np.pi * 100 * time), 3000: np.sin(2 * np.pi * 3000 * time)}
    low, high, _ = filter_gallery.audio_filters(31).values()
    for tone, signal in tones.items():
        kept_low = np.convolve(signal, low, 'valid').std() / signal.std()
        kept_high = np.convolve(signal, high, 'valid').std() / signal.std()
        assert (kept_low > 0.8 and kept_high < 0.2) == (tone == 100)
    figure, errors = filter_gallery.audio(tones[100], rate, kernels=['lax', 'scan'])
    assert set(errors) == {'lax', 'scan'} and max(errors.values()) < 1e-5
    assert figure.axes[0].get_ylabel() == 'amplitude'
