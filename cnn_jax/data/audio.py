"""Waveforms of one length from recordings of many."""

import io
import pathlib
import struct
import wave

import numpy as np

from cnn_jax.errors import UserError


def fit_length(waveform: np.ndarray, length: int) -> np.ndarray:
    """The first `length` samples as int16, with silence (0) after the end of a shorter waveform.

    Raises:
        ValueError: the samples are no integers of 16 bits.
    """
    kept = waveform[:length]
    fitted = np.zeros(length, np.int16)
    fitted[: len(kept)] = kept
    if waveform.dtype.kind not in 'iu' or not np.array_equal(fitted[: len(kept)], kept):
        raise UserError(f'a waveform of {waveform.dtype} that 16-bit integers cannot hold')
    return fitted


def _as_plain_pcm(file) -> io.BytesIO:
    """The bytes of a WAV file, with WAVE_FORMAT_EXTENSIBLE of PCM samples as plain PCM.

    Python's `wave` reads the former only as of 3.12.
    """
    content = bytearray(file.read() if hasattr(file, 'read') else pathlib.Path(file).read_bytes())
    start = content.find(b'fmt ', 12, 4096)
    is_extensible = content[start + 8 : start + 10] == b'\xfe\xff'
    if start > 0 and is_extensible and content[start + 32 : start + 34] == b'\1\0':
        content[start + 8 : start + 10] = b'\1\0'
    return io.BytesIO(content)


def read_wav(file, rate: int) -> np.ndarray:
    """The samples of a WAV file: int16 (n,).

    Args:
        file: a path, or a binary file object.
        rate: samples per second that the data set has.

    Raises:
        ValueError: not a WAV file, another rate, more than one channel, not 16 bits per sample.
            Nothing is converted: resampling would change what a figure means.
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
        raise UserError(f'{where}: {channels} channels; mix it to one first')
    if width != 2:
        raise UserError(f'{where}: {8 * width} bits per sample; convert it to 16 first')
    if not data or len(data) != 2 * announced:
        raise UserError(
            f'{where}: its header announces {announced} samples, and {len(data) // 2} are there'
        )
    return np.frombuffer(data, '<i2').astype(np.int16)
