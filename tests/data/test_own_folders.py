"""Folders as users have them: what counts as a split, a class or an example, and what does not."""

import os
import wave

import numpy as np
import PIL.Image
import pytest

from cnn_jax.data import images, load
from cnn_jax.errors import UserError
from cnn_jax.training import augment
from tools.scripts import start


def fill(root, *folders, count=2):
    """Writes a few small images into each folder."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            array = np.full((6, 6, 3), 10 * i + len(folder), np.uint8)
            PIL.Image.fromarray(array).save(root / folder / f'{i}.png')
    return root


def sizes(dataset):
    return {name: len(split) for name, split in dataset.splits.items()}


def test_what_is_hidden_is_no_class_and_no_example(tmp_path):
    fill(tmp_path, 'cat', 'dog', '.ipynb_checkpoints', '__MACOSX/cat', 'dog/@eaDir', count=3)
    (tmp_path / 'cat' / '._0.png').write_bytes(b'resource fork')
    (tmp_path / 'cat' / 'Thumbs.db').write_bytes(b'')
    dataset = load('image_folder:test=0.5', data_dir=tmp_path)
    assert dataset.class_names == ('cat', 'dog') and sizes(dataset) == {'train': 3, 'test': 3}


def test_links_inside_a_class_are_followed_once(tmp_path):
    fill(tmp_path / 'data', 'cat', 'dog')
    fill(tmp_path, 'elsewhere', count=4)
    os.symlink(tmp_path / 'elsewhere', tmp_path / 'data' / 'cat' / 'more')
    os.symlink(tmp_path / 'data' / 'dog', tmp_path / 'data' / 'dog' / 'itself')
    dataset = load('image_folder:test=0.5', data_dir=tmp_path / 'data')
    assert sum(sizes(dataset).values()) == 2 + 4 + 2


def test_a_class_without_images_is_named(tmp_path):
    fill(tmp_path, 'cat', 'dog')
    (tmp_path / 'eel').mkdir()
    (tmp_path / 'eel' / 'notes.txt').write_text('no image')
    with pytest.raises(UserError, match='class folder .*eel has no files'):
        load('image_folder:test=0.5', data_dir=tmp_path)


@pytest.mark.parametrize('train, val', [('Train', 'VAL'), ('training', 'valid'), ('train', 'dev')])
def test_a_validation_split_is_the_test_where_there_is_no_other(tmp_path, train, val):
    fill(tmp_path, f'{train}/cat', f'{train}/dog', f'{val}/cat', f'{val}/dog', count=3)
    assert sizes(load('image_folder', data_dir=tmp_path)) == {'train': 6, 'test': 6}
    drawn = load('image_folder:test=0.5', data_dir=tmp_path)
    assert sizes(drawn) == {'train': 3, 'test': 3, 'validation': 6}


def test_two_folders_for_one_split_are_refused(tmp_path):
    fill(tmp_path, 'train/cat', 'val/cat', 'validation/cat')
    with pytest.raises(UserError, match='val.* and .*validation are both the split validation'):
        load('image_folder', data_dir=tmp_path)


def test_another_folder_beside_the_splits_is_refused(tmp_path):
    fill(tmp_path, 'train/cat', 'test/cat', 'unlabelled')
    with pytest.raises(UserError, match='unlabelled is next to test/'):
        load('image_folder', data_dir=tmp_path)


def test_a_class_may_have_the_name_of_a_split(tmp_path):
    fill(tmp_path, 'bus', 'car', 'train')
    dataset = load('image_folder:test=0.5', data_dir=tmp_path)
    assert dataset.class_names == ('bus', 'car', 'train')


def test_a_test_split_alone_can_be_read(tmp_path):
    fill(tmp_path, 'test/cat', 'test/dog')
    dataset = load('image_folder', data_dir=tmp_path)
    assert sizes(dataset) == {'train': 0, 'test': 4} and dataset.input_shape == (6, 6, 3)


def test_heic_is_refused_with_advice(tmp_path):
    fill(tmp_path, 'cat', 'dog')
    (tmp_path / 'dog' / 'IMG_1.HEIC').write_bytes(b'ftypheic')
    with pytest.raises(UserError, match='IMG_1.HEIC cannot be read; convert it to JPEG'):
        load('image_folder:test=0.5', data_dir=tmp_path)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_orientation_of_a_photograph_is_applied(tmp_path, orientation):
    upright = np.zeros((8, 16, 3), np.uint8)
    upright[:4, :8] = 200  # bright in the upper left quarter
    # The transposition that turns the upright image into the stored one.
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = PIL.Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(PIL.Image.Transpose(undo[orientation]))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / 'photo.png', exif=exif)
    np.testing.assert_array_equal(images.decode(tmp_path / 'photo.png'), upright)


@pytest.mark.parametrize('text', ['crop:0.5', 'cutout:2.5'])
def test_pixels_are_whole(text):
    with pytest.raises(UserError, match='takes whole pixels'):
        augment.parse(text, 'image')
    assert augment.parse('crop:4,erase:0.3', 'image') == {'crop': 4, 'erase': 0.3}


def record(path, samples, rate=8000, extensible=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), 'wb') as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(np.asarray(samples, '<i2').tobytes())
    if extensible:
        plain = path.read_bytes()
        guid = b'\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71'
        fmt = b'\xfe\xff' + plain[22:36] + b'\x16\0\x10\0\4\0\0\0' + guid
        body = b'WAVEfmt ' + len(fmt).to_bytes(4, 'little') + fmt + plain[36:]
        path.write_bytes(b'RIFF' + len(body).to_bytes(4, 'little') + body)


def test_a_folder_of_recordings(tmp_path):
    for i in range(4):
        record(tmp_path / 'no' / f'{i}.wav', [i, 1, 2], extensible=i > 1)
        record(tmp_path / 'yes' / f'{i}.WAV', range(9), extensible=i > 1)
    dataset = load('audio_folder:length=5,rate=8000,test=0.5', data_dir=tmp_path)
    assert dataset.input_shape == (5, 1) and dataset.class_names == ('no', 'yes')
    rows = np.concatenate([split.inputs[..., 0] for split in dataset.splits.values()])
    wanted = [[i, 1, 2, 0, 0] for i in range(4)] + [[0, 1, 2, 3, 4]] * 4
    assert sorted(rows.tolist()) == sorted(wanted)
    with pytest.raises(UserError, match='resample it to 16000'):
        load('audio_folder:test=0.5', data_dir=tmp_path)


@pytest.mark.parametrize('samples, keep', [([], 100), ([1, 2, 3], -2), ([1, 2, 3], -1)])
def test_an_empty_or_cut_recording_is_refused(tmp_path, samples, keep):
    record(tmp_path / 'a.wav', samples)
    (tmp_path / 'a.wav').write_bytes((tmp_path / 'a.wav').read_bytes()[:keep])
    from cnn_jax.data import audio

    with pytest.raises(UserError, match='a.wav: its header gives . samples, but the file has'):
        audio.read_wav(tmp_path / 'a.wav', 8000)


def test_a_table_of_texts(tmp_path):
    rows = [('good film', 'yes'), ('bad, "really"\nbad', 'no')] * 3
    lines = ['id,text,label']
    lines += [f'{i},"{t.replace(chr(34), chr(34) * 2)}",{c}' for i, (t, c) in enumerate(rows)]
    (tmp_path / 'train.csv').write_text('\n'.join(lines) + '\n')
    dataset = load('text_table:test=0.5', data_dir=tmp_path)
    assert dataset.class_names == ('no', 'yes') and sizes(dataset) == {'train': 3, 'test': 3}
    (tmp_path / 'test.tsv').write_text('text\tlabel\ngood\tyes\n')
    assert sizes(load('text_table', data_dir=tmp_path)) == {'train': 6, 'test': 1}
    with pytest.raises(UserError, match="test.tsv has no column 'review'; it has text, label"):
        load('text_table:text=review,test=0.5', data_dir=tmp_path)
    (tmp_path / 'test.tsv').write_text('text\tlabel\ngood\tmaybe\n')
    with pytest.raises(UserError, match="split test has the class 'maybe', which the train"):
        load('text_table', data_dir=tmp_path)


def test_names_are_drawn_as_they_are(tmp_path):
    from cnn_jax.viz import figures, runs

    names = ['$5_$10', '猫', 'Кот', r'\frac', 'a\x1bb']
    matrix = np.eye(len(names), dtype=int)
    figure = runs.confusion_matrix(matrix, names, tmp_path / 'matrix.png', title='$x_$y')
    assert (tmp_path / 'matrix.png').is_file()
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == [r'\$5_\$10', '猫', 'Кот', r'\frac', r'a\x1bb']
    assert figures.plain('cat') == 'cat'


def test_a_picture_that_fails_does_not_lose_the_result(tmp_path):
    (tmp_path / 'broken.py').write_text(
        'from cnn_jax.training import job\n'
        'def fail(*arguments):\n    raise RuntimeError("no picture today")\n'
        'job.Job.draw = fail\n'
    )
    process = start(
        'train.py',
        '--steps=2',
        '--model_options=features=(2,),hidden=()',
        f'--plugin={tmp_path / "broken.py"}',
        f'--workdir={tmp_path / "run"}',
        CNN_JAX_NATIVE='0',  # would be built again, in the cache of this test
    )
    out, err = process.communicate()
    assert process.returncode == 0 and 'test accuracy' in out, err
    assert (tmp_path / 'run' / 'result.json').is_file()
    assert 'warning: not all pictures could be drawn (RuntimeError: no picture today)' in err
