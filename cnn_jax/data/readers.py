"""Reads data sets of each kind into the parts of a `Dataset`.

A reader takes a `Place` and the options of the data set as keyword-only arguments. `load` converts
each option to the type of its default. A reader returns a dictionary with 'splits', 'class_names'
and optionally 'meta'.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.data import audio, cache, digits, mnist1d, prepared_masks
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
    """The folders of prepared and original data; see `find_or_prepare` for the fields."""

    data_dir: str | pathlib.Path | None = None
    manual_dir: str | pathlib.Path | None = None
    download: bool = True

    def open(self, name: str) -> Prepared:
        return find_or_prepare(name, self.data_dir, self.manual_dir, self.download)


def read_digits(place: Place) -> Parts:
    del place
    return {'splits': digits.read(), 'class_names': digits.CLASS_NAMES}


def roles(folder: Prepared) -> dict[str, str]:
    """Returns {split of the data set: split of the folder}.

    If there is no test split, the validation split becomes the test split, as is usual for data
    sets whose test labels are not published. If neither exists, `load` draws a test split.

    Raises:
        UserError: there is no training split.
    """
    found = {name: name for name in ('train', 'validation', 'test') if folder.sizes.get(name)}
    if 'test' not in found and 'validation' in found:
        found['test'] = found.pop('validation')
    if 'train' not in found:
        raise UserError(f'{folder.path} has the splits {", ".join(folder.sizes)}, but not train')
    return found


def supervised(folder: Prepared, kind: str) -> tuple[str, str]:
    """Returns the names of the input feature and the label feature.

    They are the supervised keys of the folder, or else the only feature of `kind` and the only
    class label.

    Raises:
        ValueError: the input and label are ambiguous, or the label is not a class label.
    """
    items = folder.info.get('supervisedKeys', {}).get('tuple', {}).get('items', ())
    keys = [item.get('featureKey') for item in items]
    if len(keys) != 2:
        keys = [*folder.features.named(kind), *folder.features.named('classLabel')]
    if len(keys) != 2 or folder.features.kinds.get(keys[1]) != 'classLabel':
        raise UserError(
            f'{folder.path}: it is not clear which feature is the input and which is the class; '
            f'the features are {folder.features.kinds}'
        )
    return keys[0], keys[1]


# Splits whose decoded images exceed this many bytes are read from disk when needed.
MEMORY_BYTES = 1 << 30


def images(name: str, default_size: int = 0) -> Callable[..., Parts]:
    """Returns a reader of labelled images; `default_size` is for images of different sizes."""

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


def images_or_masks(name: str, default_target: str) -> Callable[..., Parts]:
    """Returns a reader of images with masks, or with classes if the option `target` is ''."""

    def read(place: Place, *, size: int = 0, target: str = default_target) -> Parts:
        if not target:
            return images(name)(place, size=size)
        folder = place.open(name)
        return prepared_masks.read(folder, roles(folder), target, size)

    return read


def recordings(name: str, default_length: int, default_rate: int = 0) -> Callable[..., Parts]:
    """Returns a reader of labelled waveforms, cut or zero-padded to `length` samples."""

    def read(place: Place, *, length: int = default_length) -> Parts:
        if length < 1:
            raise UserError(f'length={length}; it must be at least 1 (samples to keep)')
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
    """Reads the Free Spoken Digit Dataset, at 8000 samples per second.

    Args:
        place: the folders of the data set.
        length: number of samples to keep from the beginning of each recording; shorter recordings
            are padded with zeros.
        test_speaker: '' for the official split (recordings 0 to 4 of each speaker and digit are the
            test split), or the name of a speaker whose recordings become the test split; the
            recordings of all other speakers are then the training split.
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
        raise UserError(f'unknown test_speaker {speaker!r}; must be one of {", ".join(speakers)}')
    both = [splits['train'], splits['test']]
    everything = Split(
        np.concatenate([split.inputs for split in both]),
        np.concatenate([split.labels for split in both]),
        {'speaker': np.concatenate([split.extra['speaker'] for split in both])},
    )
    theirs = everything.extra['speaker'] == speakers.index(speaker)
    return {'train': everything.take(~theirs), 'test': everything.take(theirs)}


def mnist1d_signals(shuffled: bool) -> Callable[[Place], Parts]:
    """Returns a reader of prepared MNIST-1D, or of MNIST-1D computed by the package `mnist1d`."""

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
    """Returns a reader of labelled texts.

    The `content` features are joined by a space. By default, the text is the supervised input.
    """

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
    """Reads the movie reviews (MR); the test split is fold number `fold` of ten.

    For a cross-validation, run `fold` from 0 to 9. The folds are fixed and stratified by class.
    (Kim 2014 draws them at random.)
    """
    if not 0 <= fold < FOLDS:
        raise UserError(f'fold={fold}; it must be in 0..{FOLDS - 1}')
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
    """Returns the kind and reader of an unregistered prepared data set, based on its features.

    Raises:
        ValueError: the data set has no images, audio or text.
    """
    folder = place.open(name)
    kinds = set(folder.features.kinds.values())
    if found := folder.features.masks():
        return 'image', images_or_masks(name, '' if 'classLabel' in kinds else found[0])
    if 'image' in kinds:
        return 'image', images(name)
    if 'audio' in kinds:
        return 'audio', recordings(
            name, folder.features.sample_rate(folder.features.named('audio')[0]) or 0
        )
    if 'text' in kinds:
        return 'text', texts(name)
    raise UserError(f'{folder.path}: needs images, audio or text; the features are {kinds}')
