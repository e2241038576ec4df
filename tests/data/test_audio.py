import io

import numpy as np
import pytest

from cnn_jax.data.audio import fit_length, read_wav
from tests.data import originals


def wav(samples, **about):
    return io.BytesIO(originals.wav(samples, **{'rate': 8000, **about}))


def test_a_waveform_is_cut_or_followed_by_silence():
    waveform = np.array([1, -2, 3], np.int16)
    assert fit_length(waveform, 2).tolist() == [1, -2]
    assert fit_length(waveform, 5).tolist() == [1, -2, 3, 0, 0]
    assert fit_length(waveform, 5).dtype == np.int16


@pytest.mark.parametrize('waveform', [np.array([0.5]), np.array([40000]), np.array([-32769, 0])])
def test_samples_that_16_bits_cannot_hold_are_refused(waveform):
    with pytest.raises(ValueError, match='does not fit in 16-bit integers'):
        fit_length(waveform, 3)


def test_samples_of_a_wav_file_are_read(tmp_path):
    samples = np.array([0, 1, -32768, 32767, -1], '<i2')
    np.testing.assert_array_equal(read_wav(wav(samples), 8000), samples)
    (tmp_path / 'a.wav').write_bytes(wav(samples).read())
    np.testing.assert_array_equal(read_wav(tmp_path / 'a.wav', 8000), samples)


@pytest.mark.parametrize(
    'file, problem',
    [
        (wav(np.zeros(4, '<i2'), rate=16000), '16000 samples per second; resample it to 8000'),
        (wav(np.zeros(4, '<i2'), channels=2), '2 channels; mix them down to one'),
        (wav(np.zeros(4, 'u1'), width=1), '8 bits per sample; convert it to 16'),
        (io.BytesIO(b'RIFF but no more'), 'not a WAV file'),
        (io.BytesIO(b''), 'not a WAV file'),
    ],
)
def test_another_kind_of_wav_is_refused(file, problem):
    with pytest.raises(ValueError, match=problem):
        read_wav(file, 8000)
