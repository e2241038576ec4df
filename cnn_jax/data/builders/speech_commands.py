"""Speech Commands 0.02 (Warden 2018, arXiv:1804.03209), the ten words of its keyword task."""

import io
import posixpath

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.speech_commands import (
    speech_commands_dataset_builder as official,
)

from cnn_jax.data.audio import read_wav
from cnn_jax.data.builders.base import derive, tar_files

RATE = official.SAMPLE_RATE
_ARCHIVE = 'http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz'
_TEST_ARCHIVE = 'http://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz'


def _info(self):
    # TFDS's Audio feature cannot be constructed without TensorFlow; this stores the same values.
    return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict(
            {
                'audio': tfds.features.Tensor(shape=(None,), dtype=np.int16),
                'label': tfds.features.ClassLabel(
                    names=[*official.WORDS, official.SILENCE, official.UNKNOWN]
                ),
            }
        ),
        supervised_keys=('audio', 'label'),
        homepage='https://arxiv.org/abs/1804.03209',
    )


def _split_generators(self, dl_manager):
    archive, test_archive = dl_manager.download([_ARCHIVE, _TEST_ARCHIVE])
    lists, recordings = {}, []
    for path, content in tar_files(archive):
        if path in ('testing_list.txt', 'validation_list.txt'):
            lists[path] = content.decode().split()
        elif path.endswith('.wav'):
            recordings.append(path)
    # The published lists have no silence; TFDS holds this one out.
    validation = {*lists['validation_list.txt'], f'{official.BACKGROUND_NOISE}/running_tap.wav'}
    train = set(recordings) - validation - set(lists['testing_list.txt'])
    return {
        'train': self._generate_examples(archive, train),
        'validation': self._generate_examples(archive, validation),
        'test': self._generate_examples(test_archive, None),
    }


def _generate_examples(self, archive, chosen):
    del self
    for path, content in tar_files(archive):
        if not path.endswith('.wav') or (chosen is not None and path not in chosen):
            continue
        word = posixpath.basename(posixpath.dirname(path))
        key = f'{word}_{posixpath.basename(path)}'
        file = io.BytesIO(content)
        file.name = path
        samples = read_wav(file, RATE)
        if word == official.BACKGROUND_NOISE:
            # Minutes of noise become seconds of it, each half over the one before.
            for start in range(0, len(samples) - RATE, RATE // 2):
                second = samples[start : start + RATE]
                yield f'{key}_{start}', {'audio': second, 'label': official.SILENCE}
            continue
        known = word in official.WORDS or word == official.SILENCE
        yield key, {'audio': samples, 'label': word if known else official.UNKNOWN}


def make(name: str) -> type:
    """The builder of 'speech_commands'."""
    return derive(
        official.Builder,
        name,
        _info=_info,
        _split_generators=_split_generators,
        _generate_examples=_generate_examples,
    )
