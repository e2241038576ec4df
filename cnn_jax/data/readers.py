"""Functions that read a prepared set into the parts of a `Dataset`, one a kind of set.

Each takes a `Place` and the set's options by keyword, with defaults from which `load` also knows
their types, and returns {'splits', 'class_names'} and perhaps 'meta'.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.data import audio, cache, class_folders, digits, mnist1d
from cnn_jax.data import folder as folder_
from cnn_jax.data import text as text_module
from cnn_jax.data.dataset import Split
from cnn_jax.data.order import epoch_order
from cnn_jax.data.prepare import find_or_prepare
from cnn_jax.data.prepared import Prepared
from cnn_jax.data.stored import prepared_images
from cnn_jax.errors import UserError

Parts = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """The folders of prepared and of original data, see `find_or_prepare`."""

    data_dir: str | pathlib.Path | None = None
    manual_dir: str | pathlib.Path | None = None
    download: bool = True

    def open(self, name: str) -> Prepared:
        return find_or_prepare(name, self.data_dir, self.manual_dir, self.download)


def read_digits(place: Place) -> Parts:
    del place
    return {'splits': digits.read(), 'class_names': digits.CLASS_NAMES}


def roles(folder: Prepared) -> dict[str, str]:
    """{split of the data set: split of the folder}.

    A set whose test labels are not published is tested on its validation split, as is the custom.
    Of a set without either, `load` draws a test split.

    Raises:
        UserError: there is no training split.
    """
    found = {name: name for name in ('train', 'validation', 'test') if folder.sizes.get(name)}
    if 'test' not in found and 'validation' in found:
        found['test'] = found.pop('validation')
    if 'train' not in found:
        raise UserError(f'{folder.path} has the splits {", ".join(folder.sizes)}; train is needed')
    return found


def supervised(folder: Prepared, kind: str) -> tuple[str, str]:
    """Names of the features that are input and label: as the folder says, or the only ones.

    Raises:
        ValueError: neither, or the label is no class.
    """
    items = folder.info.get('supervisedKeys', {}).get('tuple', {}).get('items', ())
    keys = [item.get('featureKey') for item in items]
    if len(keys) != 2:
        keys = [*folder.features.named(kind), *folder.features.named('classLabel')]
    if len(keys) != 2 or folder.features.kinds.get(keys[1]) != 'classLabel':
        raise UserError(
            f'{folder.path}: it is not clear which feature is the input and which the class; '
            f'there are {folder.features.kinds}'
        )
    return keys[0], keys[1]


# Images beyond this many bytes, decoded, are read as they are needed.
MEMORY_BYTES = 1 << 30


def images(name: str, default_size: int = 0) -> Callable[..., Parts]:
    """Images with labels; `default_size` for a set whose images are of many sizes."""

    def read(place: Place, *, size: int = default_size) -> Parts:
        if size < 0:
            raise UserError(f'size={size}; it must be positive, or 0 for the size of the files')
        folder = place.open(name)
        image, label = supervised(folder, 'image')
        splits = {}
        for split, stored in roles(folder).items():
            if folder.sizes[stored] * size * size * 3 > MEMORY_BYTES:
                labels = cache.columns(folder, stored, {label: np.int32})[label]
                splits[split] = Split(prepared_images(folder, stored, image, size), labels)
            else:
                dtypes = {image: np.uint8, label: np.int32}
                columns = cache.columns(folder, stored, dtypes, size)
                splits[split] = Split(columns[image], columns[label])
        return {'splits': splits, 'class_names': folder.features.class_names(label)}

    return read


def read_image_folder(
    place: Place, *, size: int = 0, channels: int = 3, test: float = 0.0
) -> Parts:
    """Image files in <data_dir>/<class>/, or in <data_dir>/{train,test,val}/<class>/."""
    root = _own_folder(place, 'image_folder')
    splits, classes = folder_.read_images(
        root, size=size, channels=channels, test=test, memory=MEMORY_BYTES
    )
    return {'splits': splits, 'class_names': classes}


def read_audio_folder(
    place: Place, *, length: int = 16000, rate: int = 16000, test: float = 0.0
) -> Parts:
    """WAV files in <data_dir>/<class>/, or in <data_dir>/{train,test,val}/<class>/."""
    for name, value in (('length', length), ('rate', rate)):
        if value < 1:
            raise UserError(f'{name}={value}; it must be at least 1')
    root = _own_folder(place, 'audio_folder')
    splits, classes = folder_.read_recordings(root, length=length, rate=rate, test=test)
    return {'splits': splits, 'class_names': classes, 'meta': {'sample_rate': rate}}


def read_text_table(
    place: Place,
    *,
    text: str = 'text',
    label: str = 'label',
    test: float = 0.0,
    length: int = 0,
    min_count: int = 1,
) -> Parts:
    """Texts in <data_dir>/train.csv (or .tsv), test.csv and val.csv, with a header.

    Args:
        place: the folder.
        text: name of the column of texts.
        label: name of the column of classes.
        test: the share of the examples that is the test split where there is no test.csv.
        length: see `text.make_splits`.
        min_count: see `text.make_splits`.
    """
    root = _own_folder(place, 'text_table')
    if not root.is_dir():
        raise FileNotFoundError(f'data_dir={str(root)!r} is not a folder')
    found: dict[str, tuple[list[str], list[str]]] = {}
    for file in sorted(root.iterdir()):
        split = class_folders.SPLITS.get(file.stem.lower())
        if split and file.suffix.lower() in ('.csv', '.tsv'):
            found[split] = folder_.read_table(file, (text, label))
    if 'train' not in found:
        raise UserError(f'{root} has no train.csv or train.tsv')
    classes = tuple(sorted(set(found['train'][1])))
    texts = {split: each[0] for split, each in found.items()}
    labels = {split: _as_labels(root, split, each[1], classes) for split, each in found.items()}
    if 'test' not in found and 'validation' in found and not test:
        texts['test'], labels['test'] = texts.pop('validation'), labels.pop('validation')
    elif 'test' not in found:
        everything, classes_of = texts['train'], labels['train']
        held = round(test * len(everything))
        if not 0 < held < len(everything):
            raise UserError(
                f'{root} has no test.csv, and test={test} of its {len(everything)} texts is '
                f'{held}; give the share that is to be the test split, as in text_table:test=0.2'
            )
        order = epoch_order(0, 0, len(everything))
        for split, rows in (('test', np.sort(order[:held])), ('train', np.sort(order[held:]))):
            texts[split] = [everything[row] for row in rows]
            labels[split] = classes_of[rows]
    splits, words = text_module.make_splits(
        'text_table', texts, labels, length=length, min_count=min_count
    )
    return {
        'splits': splits,
        'class_names': classes,
        'meta': text_module.meta(words, lower=True),
    }


def _as_labels(
    root: pathlib.Path, split: str, names: Sequence[str], classes: Sequence[str]
) -> np.ndarray:
    if unknown := sorted(set(names) - set(classes)):
        raise UserError(f'{root}: split {split} has the class {unknown[0]!r}, training has not')
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in names], np.int32)


def _own_folder(place: Place, name: str) -> pathlib.Path:
    if place.data_dir is None:
        raise UserError(f'{name}: name the folder with data_dir')
    return pathlib.Path(place.data_dir).expanduser()


def recordings(name: str, default_length: int, default_rate: int = 0) -> Callable[..., Parts]:
    """Waveforms with labels: the first `length` samples, or all of them and silence."""

    def read(place: Place, *, length: int = default_length) -> Parts:
        if length < 1:
            raise UserError(f'length={length}; it must be at least 1: the samples that are kept')
        folder = place.open(name)
        sound, label = supervised(folder, 'audio')
        splits = {}
        for split, stored in roles(folder).items():
            n = folder.sizes[stored]
            waveforms, labels = np.zeros((n, length, 1), np.int16), np.zeros(n, np.int32)
            for i, example in enumerate(folder.examples(stored, [sound, label])):
                waveforms[i, :, 0] = audio.fit_length(example[sound], length)
                labels[i] = example[label]
            splits[split] = Split(waveforms, labels)
        rate = folder.features.sample_rate(sound) or default_rate
        return {
            'splits': splits,
            'class_names': folder.features.class_names(label),
            'meta': {'sample_rate': rate},
        }

    return read


def read_fsdd(place: Place, *, length: int = 8000, test_speaker: str = '') -> Parts:
    """Spoken digits: `length` samples (a second has 8000) from the beginning of each recording.

    Args:
        place: where the set lies.
        length: samples kept; shorter recordings are followed by silence.
        test_speaker: '' for the official split (recordings 0 to 4 of each speaker and digit are
            the test); a speaker's name to test on all of theirs and train on all of the others'.
    """
    if length < 1:
        raise UserError(f'length={length}; it must be at least 1')
    folder = place.open('fsdd')
    splits = {}
    for name in folder.sizes:
        examples = list(folder.examples(name, ['audio', 'label', 'speaker']))
        waveforms = np.stack([audio.fit_length(e['audio'], length) for e in examples])
        labels, speakers = (
            np.array([e[key] for e in examples], np.int32) for key in ('label', 'speaker')
        )
        splits[name] = Split(waveforms[..., None], labels, {'speaker': speakers})
    speakers = folder.features.class_names('speaker')
    if test_speaker:
        splits = _leave_out(splits, speakers, test_speaker)
    return {
        'splits': splits,
        'class_names': folder.features.class_names('label'),
        'meta': {'sample_rate': 8000, 'speakers': speakers},
    }


def _leave_out(splits: Mapping[str, Split], speakers, speaker: str) -> dict[str, Split]:
    if speaker not in speakers:
        raise UserError(f'test_speaker={speaker!r}; the speakers are {", ".join(speakers)}')
    both = [splits['train'], splits['test']]
    everything = Split(
        np.concatenate([split.inputs for split in both]),
        np.concatenate([split.labels for split in both]),
        {'speaker': np.concatenate([split.extra['speaker'] for split in both])},
    )
    theirs = everything.extra['speaker'] == speakers.index(speaker)
    return {'train': everything.take(~theirs), 'test': everything.take(theirs)}


def mnist1d_signals(shuffled: bool) -> Callable[[Place], Parts]:
    """MNIST-1D, prepared, or else computed where the package `mnist1d` is installed."""

    def read(place: Place) -> Parts:
        try:
            folder = place.open('mnist1d')
        except FileNotFoundError as missing:
            try:
                splits = mnist1d.generate()
            except ModuleNotFoundError as error:
                raise FileNotFoundError(
                    f"{missing}; or install 'cnn_jax[mnist1d]', which computes it"
                ) from error
        else:
            splits = {}
            for name in folder.sizes:
                columns = folder.columns(name, {'x': np.float32, 'label': np.int32})
                splits[name] = Split(columns['x'][..., None], columns['label'])
        if shuffled:
            splits = {name: mnist1d.shuffle(split) for name, split in splits.items()}
        return {'splits': splits, 'class_names': tuple(map(str, range(10)))}

    return read


def texts(
    name: str,
    *,
    content: Sequence[str] = (),
    label: str = '',
    lower: bool = True,
    default_length: int = 0,
) -> Callable[..., Parts]:
    """Labelled texts. `content` features are joined by a space; by default the supervised one."""

    def read(place: Place, *, length: int = default_length, min_count: int = 1) -> Parts:
        folder = place.open(name)
        parts, target = content, label
        if not parts:
            only, target = supervised(folder, 'text')
            parts = (only,)
        raw = {
            split: _raw_texts(folder, stored, parts, target)
            for split, stored in roles(folder).items()
        }
        splits, words = text_module.make_splits(
            name,
            {split: found for split, (found, _) in raw.items()},
            {split: labels for split, (_, labels) in raw.items()},
            lower=lower,
            length=length,
            min_count=min_count,
        )
        return {
            'splits': splits,
            'class_names': folder.features.class_names(target),
            'meta': text_module.meta(words, lower),
        }

    return read


def _raw_texts(folder: Prepared, split: str, content, label) -> tuple[list[str], np.ndarray]:
    found, labels = [], []
    for example in folder.examples(split, [*content, label]):
        found.append(' '.join(example[part] for part in content))
        labels.append(example[label])
    return found, np.array(labels, np.int32)


FOLDS = 10


def read_movie_reviews(
    place: Place, *, fold: int = 0, length: int = 0, min_count: int = 1
) -> Parts:
    """MR, of which one tenth is the test split: a cross-validation runs `fold` from 0 to 9.

    The folds are drawn once and for all, from each class alike. (Kim 2014 draws them at random.)
    """
    if not 0 <= fold < FOLDS:
        raise UserError(f'fold={fold}; it is one of 0..{FOLDS - 1}')
    folder = place.open('movie_reviews_mr')
    found, labels = _raw_texts(folder, 'train', ('text',), 'label')
    fold_of = np.empty(len(labels), int)
    for label in range(2):
        rows = np.flatnonzero(labels == label)
        fold_of[rows[epoch_order(0, label, len(rows))]] = np.arange(len(rows)) % FOLDS
    rows = {'train': np.flatnonzero(fold_of != fold), 'test': np.flatnonzero(fold_of == fold)}
    splits, words = text_module.make_splits(
        'movie_reviews',
        {split: [found[row] for row in rows[split]] for split in rows},
        {split: labels[rows[split]] for split in rows},
        length=length,
        min_count=min_count,
    )
    return {
        'splits': splits,
        'class_names': folder.features.class_names('label'),
        'meta': text_module.meta(words, lower=True),
    }


def any_prepared(place: Place, name: str) -> tuple[str, Callable[..., Parts]]:
    """Kind and reader of a prepared set that is not in the table, determined from its features.

    Raises:
        ValueError: it holds no images, audio or texts with one label.
    """
    folder = place.open(name)
    kinds = set(folder.features.kinds.values())
    if 'image' in kinds:
        return 'image', images(name)
    if 'audio' in kinds:
        return 'audio', recordings(
            name, folder.features.sample_rate(folder.features.named('audio')[0]) or 0
        )
    if 'text' in kinds:
        return 'text', texts(name)
    raise UserError(f'{folder.path}: images, audio or text are needed; there are {kinds}')
