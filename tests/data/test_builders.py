"""Tests of the builders on small archives with the layout of the published ones."""

import numpy as np
import pytest
import scipy.io

from cnn_jax.data import load, prepare
from tests.data import originals


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that loads a data set from small original files."""

    def make(name, prepared_name, files, accept=True, **options):
        if accept:
            originals.accept(monkeypatch, prepared_name, files)
        (tmp_path / 'tfds').mkdir(exist_ok=True)
        raw = originals.write(tmp_path / 'raw', files)
        return load(name, data_dir=tmp_path / 'tfds', manual_dir=raw, download=False, **options)

    return make


def pairs(split):
    """The examples of a split in sorted order."""
    rows = zip(split.inputs, split.labels, strict=True)
    return sorted((int(label), bytes(np.ascontiguousarray(x))) for x, label in rows)


def expected(images, labels):
    rows = zip(images, labels, strict=True)
    return sorted((int(label), bytes(np.ascontiguousarray(x))) for x, label in rows)


def cifar_rows(rng, n, label_bytes, classes):
    labels = np.stack([rng.integers(0, count, n) for count in classes], 1).astype(np.uint8)
    pixels = rng.integers(0, 256, (n, 3, 32, 32)).astype(np.uint8)
    data = np.concatenate([labels, pixels.reshape(n, -1)], axis=1).tobytes()
    return data, pixels.transpose(0, 2, 3, 1), labels[:, label_bytes - 1]


def test_cifar10(made):
    rng = np.random.default_rng(0)
    names = ['airplane', 'automobile', *(f'class{i}' for i in range(8))]
    archive, train = {'batches.meta.txt': '\n'.join([*names, '', '']).encode()}, []
    for i in range(1, 6):
        archive[f'data_batch_{i}.bin'], *rows = cifar_rows(rng, 3, 1, [10])
        train.append(rows)
    archive['test_batch.bin'], *test = cifar_rows(rng, 4, 1, [10])
    archive = {f'cifar-10-batches-bin/{name}': data for name, data in archive.items()}
    dataset = made('cifar10', 'cifar10', {'cifar-10-binary.tar.gz': originals.tar(archive)})
    assert dataset.class_names == tuple(names)
    images, labels = (np.concatenate(part) for part in zip(*train, strict=True))
    assert pairs(dataset.splits['train']) == expected(images, labels)
    assert pairs(dataset.splits['test']) == expected(*test)
    assert dataset.input_shape == (32, 32, 3)


def test_cifar100_is_labelled_by_the_fine_class(made):
    rng = np.random.default_rng(0)
    train, *train_rows = cifar_rows(rng, 5, 2, [20, 100])
    test, *test_rows = cifar_rows(rng, 3, 2, [20, 100])
    archive = {
        'coarse_label_names.txt': '\n'.join(f'coarse{i}' for i in range(20)).encode(),
        'fine_label_names.txt': '\n'.join(f'fine{i}' for i in range(100)).encode(),
        'train.bin': train,
        'test.bin': test,
    }
    archive = {f'cifar-100-binary/{name}': data for name, data in archive.items()}
    dataset = made('cifar100', 'cifar100', {'cifar-100-binary.tar.gz': originals.tar(archive)})
    assert dataset.class_names[99] == 'fine99' and dataset.num_classes == 100
    assert pairs(dataset.splits['train']) == expected(*train_rows)
    assert pairs(dataset.splits['test']) == expected(*test_rows)


def svhn_file(tmp_path, rng, labels):
    pixels = rng.integers(0, 256, (32, 32, 3, len(labels))).astype(np.uint8)
    scipy.io.savemat(tmp_path / 'file.mat', {'X': pixels, 'y': np.array(labels)[:, None]})
    return (tmp_path / 'file.mat').read_bytes(), pixels.transpose(3, 0, 1, 2)


def test_svhn_writes_its_zero_as_ten(made, tmp_path):
    rng, files, images = np.random.default_rng(0), {}, {}
    for split in ('train', 'test', 'extra'):
        files[f'{split}_32x32.mat'], images[split] = svhn_file(tmp_path, rng, [1, 10, 9])
    dataset = made('svhn_cropped', 'svhn_cropped', files)
    assert set(dataset.splits) == {'train', 'test'}
    for name, split in dataset.splits.items():
        assert pairs(split) == expected(images[name], [1, 0, 9])


def test_a_label_out_of_range_is_refused(made, tmp_path):
    files = {}
    for split in ('train', 'test', 'extra'):
        files[f'{split}_32x32.mat'], _ = svhn_file(tmp_path, np.random.default_rng(0), [1, 11])
    with pytest.raises(ValueError, match='svhn_cropped.*label 11 is outside 1..10'):
        made('svhn_cropped', 'svhn_cropped', files)


def test_imagenette_is_made_square_and_tested_on_its_validation_split(made):
    flat = np.zeros((40, 60, 3)) + [200, 100, 50]
    archive = {
        'imagenette2-160/train/n01440764/a.JPEG': originals.encoded(flat, 'JPEG'),
        'imagenette2-160/train/n02102040/b.JPEG': originals.encoded(flat[:, :45] // 2, 'JPEG'),
        'imagenette2-160/val/n03888257/c.JPEG': originals.encoded(flat[..., 0], 'JPEG'),
        'imagenette2-160/noisy.csv': b'not an image',
    }
    files = {'imagenette2-160.tgz': originals.tar(archive)}
    dataset = made('imagenette', 'imagenette/160px-v2', files, size=16)
    assert dataset.input_shape == (16, 16, 3)
    assert [dataset.class_names[i] for i in dataset.splits['test'].labels] == ['n03888257']
    means = {
        dataset.class_names[label]: image.mean((0, 1))
        for image, label in zip(
            dataset.splits['train'].inputs, dataset.splits['train'].labels, strict=True
        )
    }
    # JPEG at quality 75 keeps a flat colour within a few levels.
    np.testing.assert_allclose(means['n01440764'], [200, 100, 50], atol=3)
    np.testing.assert_allclose(means['n02102040'], [100, 50, 25], atol=3)
    grey = dataset.splits['test'].inputs[0]
    np.testing.assert_allclose(grey, 200, atol=3)


def imagenet_files():
    rng = np.random.default_rng(0)

    def image(form='JPEG', mode='RGB'):
        picture = originals.PIL.Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8))
        out = originals.io.BytesIO()
        picture.convert(mode).save(out, form)
        return out.getvalue()

    classes = {
        'n01440764.tar': {'n01440764_1.JPEG': image(), 'n01440764_2.JPEG': image(mode='CMYK')},
        'n15075141.tar': {'n15075141_9.JPEG': image('PNG')},
    }
    inner = {name: originals.tar(files, 'w') for name, files in classes.items()}
    validation = {f'ILSVRC2012_val_0000000{i}.JPEG': image() for i in (2, 1)}
    return {
        'ILSVRC2012_img_train.tar': originals.tar(inner, 'w'),
        'ILSVRC2012_img_val.tar': originals.tar(validation, 'w'),
    }


def test_imagenet_from_its_archives(made):
    dataset = made('imagenet2012', 'imagenet2012', imagenet_files(), accept=False, size=24)
    assert dataset.num_classes == 1000 and dataset.input_shape == (24, 24, 3)
    train = sorted(dataset.class_names[label] for label in dataset.splits['train'].labels)
    assert train == ['n01440764', 'n01440764', 'n15075141']
    # The first two labels of the published ground-truth list.
    test = sorted(dataset.class_names[label] for label in dataset.splits['test'].labels)
    assert test == ['n01751748', 'n09193705']


def test_imagenet_needs_its_archives(tmp_path):
    with pytest.raises(FileNotFoundError, match='be downloaded automatically; get ILSVRC2012'):
        load('imagenet2012', data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match='lacks ILSVRC2012_img_train.tar'):
        load('imagenet2012', data_dir=tmp_path, manual_dir=tmp_path)


def test_speech_commands(made):
    rng = np.random.default_rng(0)

    def sound(n):
        return rng.integers(-9000, 9000, n).astype('<i2')

    down, cat, yes, noise, tap = sound(16000), sound(9000), sound(16000), sound(40000), sound(33000)
    archive = {
        'testing_list.txt': b'yes/t.wav\n',
        'validation_list.txt': b'yes/v.wav\n',
        'down/a.wav': originals.wav(down),
        'cat/a.wav': originals.wav(cat),
        'yes/t.wav': originals.wav(sound(100)),
        'yes/v.wav': originals.wav(yes),
        '_background_noise_/white.wav': originals.wav(noise),
        '_background_noise_/running_tap.wav': originals.wav(tap),
        '_background_noise_/README.md': b'words',
    }
    test = {'yes/t.wav': originals.wav(yes), '_silence_/s.wav': originals.wav(noise[:16000])}
    files = {
        'speech_commands_v0.02.tar.gz': originals.tar(archive),
        'speech_commands_test_set_v0.02.tar.gz': originals.tar(test),
    }
    dataset = made('speech_commands', 'speech_commands', files)
    assert dataset.meta['sample_rate'] == 16000 and dataset.input_shape == (16000, 1)

    def found(split):
        split = dataset.splits[split]
        rows = zip(split.inputs[..., 0], split.labels, strict=True)
        return sorted((dataset.class_names[label], x.tobytes()) for x, label in rows)

    def wanted(*rows):
        return sorted((name, np.pad(x, (0, 16000 - len(x))).tobytes()) for name, x in rows)

    seconds = [('_silence_', noise[i : i + 16000]) for i in (0, 8000, 16000)]
    assert found('train') == wanted(('down', down), ('_unknown_', cat), *seconds)
    taps = [('_silence_', tap[i : i + 16000]) for i in (0, 8000, 16000)]
    assert found('validation') == wanted(('yes', yes), *taps)
    assert found('test') == wanted(('yes', yes), ('_silence_', noise[:16000]))


def test_a_recording_of_another_rate_is_refused(made):
    archive = {
        'testing_list.txt': b'',
        'validation_list.txt': b'',
        'down/a.wav': originals.wav(np.zeros(10, '<i2'), rate=8000),
    }
    files = {
        'speech_commands_v0.02.tar.gz': originals.tar(archive),
        'speech_commands_test_set_v0.02.tar.gz': originals.tar({}),
    }
    with pytest.raises(ValueError, match='speech_commands.*down/a.wav: 8000 samples per second'):
        made('speech_commands', 'speech_commands', files)


def words(dataset, split):
    vocabulary = dataset.meta['vocabulary']
    rows = dataset.splits[split]
    return sorted(
        (dataset.class_names[label], ' '.join(vocabulary[i] for i in ids if i))
        for ids, label in zip(rows.inputs, rows.labels, strict=True)
    )


def test_trec(made):
    files = {
        'train_5500.label': b'NUM:dist How far is it ?\nHUM:ind Who sees a sister\xf0city ?\n',
        'TREC_10.label': b'NUM:dist How far ?\n',
    }
    dataset = made('trec', 'trec', files)
    assert words(dataset, 'train') == [
        ('HUM', 'Who sees a sister city ?'),
        ('NUM', 'How far is it ?'),
    ]
    assert words(dataset, 'test') == [('NUM', 'How far ?')]


def test_ag_news_joins_title_and_description(made):
    archive = {
        'ag_news_csv/train.csv': b'"3","Oil up","It rose, ""again"" today"\n"1","War","Peace"\n',
        'ag_news_csv/test.csv': b'"4","Oil","Unseen"\n',
    }
    dataset = made(
        'ag_news_subset', 'ag_news_subset', {'ag_news_csv.tar.gz': originals.tar(archive)}
    )
    assert words(dataset, 'train') == [
        ('Business', 'oil up it rose , again today'),
        ('World', 'war peace'),
    ]
    assert words(dataset, 'test') == [('Sci/Tech', 'oil <unknown>')]


def test_imdb_leaves_out_the_unlabelled(made):
    archive = {
        'aclImdb/train/pos/1_9.txt': b'Good film ',
        'aclImdb/train/neg/1_2.txt': b'bad film',
        'aclImdb/train/unsup/1_0.txt': b'a film',
        'aclImdb/test/pos/7_9.txt': b'good',
        'aclImdb/train/urls_pos.txt': b'http://',
    }
    files = {'aclImdb_v1.tar.gz': originals.tar(archive)}
    dataset = made('imdb_reviews', 'imdb_reviews/plain_text', files, length=3)
    assert words(dataset, 'train') == [('neg', 'bad film'), ('pos', 'good film')]
    assert words(dataset, 'test') == [('pos', 'good')]


@pytest.mark.parametrize(
    'damage',
    [
        lambda archive: archive[: len(archive) // 2],
        lambda archive: archive[:-200] + bytes(200),
        lambda archive: b'<html>not found</html>',
        lambda archive: originals.tar({'other/file': b''}),
    ],
)
def test_a_damaged_archive_is_refused_in_one_line(made, tmp_path, damage):
    rng = np.random.default_rng(0)
    archive = {'cifar-100-binary/train.bin': rng.bytes(5000)}
    files = {'cifar-100-binary.tar.gz': damage(originals.tar(archive))}
    with pytest.raises(ValueError, match='cifar100: its original files cannot be read') as caught:
        made('cifar100', 'cifar100', files)
    assert '\n' not in str(caught.value)
    assert prepare.prepared.find('cifar100', tmp_path / 'tfds') is None
