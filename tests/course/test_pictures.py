"""Pictures of students: any mode and size, and a line that helps if the file is no picture."""

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest

from cnn_jax.course.pictures import photo, show


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGBA', 'CMYK', 'I;16'])
def test_any_mode_and_size(mode, tmp_path):
    path = tmp_path / ('picture.tiff' if mode == 'CMYK' else 'picture.png')
    if mode == 'I;16':
        PIL.Image.fromarray(np.full((30, 400), 51 << 8, np.uint16)).save(path)
    else:
        PIL.Image.new('RGB', (400, 30), (51, 51, 51)).convert(mode).save(path)
    x = photo(path, size=100)
    assert x.shape == (8, 100, 3) and x.dtype == np.float32
    np.testing.assert_allclose(x.mean(), 0.2, atol=0.02)


@pytest.mark.parametrize('content', [b'no picture', b''])
def test_the_sample_takes_the_place_of_what_is_no_picture(content, tmp_path, capsys):
    path = tmp_path / 'notes.txt'
    path.write_bytes(content)
    np.testing.assert_array_equal(photo(path), photo())
    said = capsys.readouterr().out
    assert str(path) in said and 'not an image' in said and said.count('\n') == 1


def test_a_missing_file_is_named(tmp_path, capsys):
    assert photo(tmp_path / 'missing.jpg').max() <= 1
    assert 'missing.jpg' in capsys.readouterr().out


def test_brightness_runs_from_the_smallest_to_the_largest_number(monkeypatch):
    """A constant picture has neither, and is half bright."""
    shown = []
    monkeypatch.setattr(plt.Axes, 'imshow', lambda *_, **options: shown.append(options))
    show({'ramp': np.array([[2.0, 5.0]]), 'constant': np.full((2, 2), 7.0)})
    grey = [plt.Normalize(each['vmin'], each['vmax']) for each in shown]
    assert [grey[0](2), grey[0](5), grey[1](7)] == [0, 1, 0.5]
