"""TREC (Li and Roth 2002), AG's news (Zhang et al. 2015), IMDB reviews (Maas et al. 2011)."""

import csv
import io
import pathlib

from tensorflow_datasets.datasets.ag_news_subset import ag_news_subset_dataset_builder as ag_news
from tensorflow_datasets.datasets.imdb_reviews import imdb_reviews_dataset_builder as imdb
from tensorflow_datasets.datasets.trec import trec_dataset_builder as trec

from cnn_jax.data.builders.base import derive, tar_files


def _trec_splits(self, dl_manager):
    paths = dl_manager.download(trec._URLs)
    return {split: self._generate_examples(paths[split]) for split in ('train', 'test')}


def _trec_examples(self, path):
    del self
    for key, line in enumerate(io.BytesIO(pathlib.Path(path).read_bytes())):
        # One byte of the file is not ASCII; TFDS reads it as a space.
        label, _, text = line.replace(b'\xf0', b' ').strip().decode().partition(' ')
        coarse, _, fine = label.partition(':')
        yield key, {'label-coarse': coarse, 'label-fine': fine, 'text': text}


def _ag_news_splits(self, dl_manager):
    content = dict(tar_files(dl_manager.download(ag_news._DOWNLOAD_URL)))
    return {
        split: self._generate_examples(content[f'ag_news_csv/{split}.csv'])
        for split in ('train', 'test')
    }


def _ag_news_examples(self, content):
    del self
    for key, row in enumerate(csv.reader(io.StringIO(content.decode(), newline=''))):
        label, title, description = row
        # Classes are counted from 1 in the file.
        yield key, {'label': int(label) - 1, 'title': title, 'description': description}


_IMDB_SPLITS = {
    'train': ('train', ('neg', 'pos')),
    'test': ('test', ('neg', 'pos')),
    'unsupervised': ('train', ('unsup',)),
}


def _imdb_splits(self, dl_manager):
    archive = dl_manager.download(imdb._DOWNLOAD_URL)
    return {
        split: self._generate_examples(archive, *where) for split, where in _IMDB_SPLITS.items()
    }


def _imdb_examples(self, archive, split, labels):
    del self
    folders = {f'aclImdb/{split}/{label}': label for label in labels}
    for path, content in tar_files(archive):
        label = folders.get(path.rpartition('/')[0])
        if label is not None:
            text = content.decode().strip()
            yield path, {'text': text, 'label': -1 if label == 'unsup' else label}


_MADE_OF = {
    'trec': (trec.Builder, _trec_splits, _trec_examples),
    'ag_news_subset': (ag_news.Builder, _ag_news_splits, _ag_news_examples),
    'imdb_reviews': (imdb.Builder, _imdb_splits, _imdb_examples),
}


def make(name: str) -> type:
    """The builder of 'trec', 'ag_news_subset' or 'imdb_reviews'."""
    official, splits, examples = _MADE_OF[name]
    return derive(official, name, _split_generators=splits, _generate_examples=examples)
