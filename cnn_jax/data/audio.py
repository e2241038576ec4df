"""Reads WAV files and makes waveforms of a fixed length."""

import io
import pathlib
import struct
import wave

import numpy as np

from cnn_jax.errors import UserError


def fit_length(waveform: np.ndarray, length: int) -> np.ndarray:
    """Returns the first `length` samples as int16; pads a shorter waveform with zeros at the end.

    Raises:
        ValueError: the samples are not integers that fit in 16 bits.
    """
    kept = waveform[:length]
    fitted = np.zeros(length, np.int16)
    fitted[: len(kept)] = kept
    if waveform.dtype.kind not in 'iu' or not np.array_equal(fitted[: len(kept)], kept):
        raise UserError(f'waveform of dtype {waveform.dtype} does not fit in 16-bit integers')
    return fitted


def _as_plain_pcm(file) -> io.BytesIO:
    """Returns the bytes of a WAV file and relabels WAVE_FORMAT_EXTENSIBLE PCM as plain PCM.

    Python's `wave` module reads WAVE_FORMAT_EXTENSIBLE only since Python 3.12.
    """
    content = bytearray(file.read() if hasattr(file, 'read') else pathlib.Path(file).read_bytes())
    start = content.find(b'fmt ', 12, 4096)
    is_extensible = content[start + 8 : start + 10] == b'\xfe\xff'
    if start > 0 and is_extensible and content[start + 32 : start + 34] == b'\1\0':
        content[start + 8 : start + 10] = b'\1\0'
    return io.BytesIO(content)


def read_wav(file, rate: int) -> np.ndarray:
    """Returns the samples of a WAV file, int16 of shape (n,).

    The samples are never converted, because resampling would make results hard to compare.

    Args:
        file: a path, or a binary file object.
        rate: the sample rate of the data set in samples per second.

    Raises:
        ValueError: the file is not a complete WAV file, its sample rate is not `rate`, it has more
            than one channel, or its samples do not have 16 bits.
    """
    where = getattr(file, 'name', file)
    try:
        with wave.open(_as_plain_pcm(file), 'rb') as sound:
            channels, width, found, announced = sound.getparams()[:4]
            data = sound.readframes(announced)
    except (wave.Error, EOFError, RuntimeError, struct.error) as error:
        raise UserError(f'{where}: not a WAV file that can be read ({error})') from error
    if found != rate:
        raise UserError(f'{where}: {found} samples per second; resample it to {rate} first')
    if channels != 1:
        raise UserError(f'{where}: {channels} channels; mix them down to one first')
    if width != 2:
        raise UserError(f'{where}: {8 * width} bits per sample; convert it to 16 first')
    if not data or len(data) != 2 * announced:
        raise UserError(
            f'{where}: its header gives {announced} samples, but the file has {len(data) // 2}'
        )
    return np.frombuffer(data, '<i2').astype(np.int16)
