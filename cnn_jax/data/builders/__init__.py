"""Official TFDS builders, with the steps that need TensorFlow replaced.

Each keeps name, version, description, URLs, checksums and keys of the builder it derives from; what
changes is that archives are read with the standard library and images are handed over as PIL
images or encoded bytes, which TFDS stores without TensorFlow. (TFDS 4.9 cannot prepare any of these
sets without it: tensorflow/datasets, issue 11058.)
"""

import importlib

# TFDS's name, with its configuration if there are several -> module here with `make(name)`.
MODULES = {
    'mnist': 'mnist',
    'fashion_mnist': 'mnist',
    'kmnist': 'mnist',
    'cifar10': 'cifar',
    'cifar100': 'cifar',
    'svhn_cropped': 'svhn',
    'imagenette/160px-v2': 'imagenet',
    'imagenette/320px-v2': 'imagenet',
    'imagenette/full-size-v2': 'imagenet',
    'imagenet2012': 'imagenet',
    'speech_commands': 'speech_commands',
    'trec': 'texts',
    'ag_news_subset': 'texts',
    'imdb_reviews/plain_text': 'texts',
}


def builder_class(name: str) -> type:
    """The builder of a key of `MODULES`; what follows a slash is its configuration."""
    module = importlib.import_module(f'{__name__}.{MODULES[name]}')
    return module.make(name.partition('/')[0])
