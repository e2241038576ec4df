"""Applies classic filters to an image and a sound by every kernel.

    python experiments/filters.py
    python experiments/filters.py --image=photo.jpg --audio=voice.wav --filters=edge,blur,sharpen

Writes these files into --output: filters.png (each filter by each kernel, with its error),
strides.png (strides and paddings), separable.png (a filter as two smaller ones), audio.png (1-D
filters on a chirp or a WAV file) and filters.json (the errors).

Exit codes: 0 success; 1 a kernel computed wrong results; 2 a flag is wrong, or a file cannot be
read.
"""

import json
import pathlib

from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError

TOLERANCE = 1e-4  # float32 against float64 on values up to 16, the sum of |coefficients|

flags.DEFINE_string('image', 'china', 'image file, or a photograph of scikit-learn: china, flower')
cli.define_path('audio', '', 'WAV file (default: a chirp from 50 Hz to 4 kHz)')
flags.DEFINE_integer('size', 160, 'pixels of the longer side after the image is scaled', 48)
flags.DEFINE_list('filters', [], 'filters, by name (default: all)')
flags.DEFINE_list('kernels', [], 'kernels, by name (default: all)')
cli.define_path('output', 'runs/filters', 'folder for the pictures')


def main(argv):
    del argv
    with cli.bad_input():
        from cnn_jax import ops
        from cnn_jax.ops.filters import FILTERS
        from cnn_jax.viz import filter_gallery

        f = flags.FLAGS
        names = _known('filters', f.filters, FILTERS)
        kernels = _known('kernels', f.kernels, ops.implementations('conv'))
        image = _image(f.image, f.size)
        signal, rate = _audio(f.audio)
    output = pathlib.Path(f.output)
    _, errors = filter_gallery.gallery(image, names, kernels, output / 'filters.png')
    filter_gallery.strides_and_paddings(image, output / 'strides.png')
    _, differences = filter_gallery.separable(
        image, ('blur', 'gaussian', 'sobel_x'), output / 'separable.png'
    )
    one_d = [k for k in kernels if _runs_in_one_dimension(k)]
    _, audio_errors = filter_gallery.audio(signal, rate, output / 'audio.png', kernels=one_d)
    found = [e for e in errors.values() if isinstance(e, float)]
    found += [*differences.values(), *audio_errors.values()]
    (output / 'filters.json').write_text(
        json.dumps(
            {
                'filters': {f'{name} by {kernel}': e for (name, kernel), e in errors.items()},
                'separable': differences,
                'audio': dict(audio_errors),
            },
            indent=1,
        )
        + '\n'
    )
    print(
        f'{len(names)} filters by {len(kernels)} kernels: largest difference from float64 '
        f'{max(found):.1e}; 4 pictures written to {output}'
    )
    return int(max(found) > TOLERANCE)


def _known(flag, values, known):
    for value in values:
        if value not in known:
            raise UserError(f'{flag}: {value!r} must be one of {", ".join(known)}')
    return tuple(values or known)


def _image(name, size):
    """Returns the image as (H, W, 3) float32 in [0, 1]."""
    from cnn_jax.data import images

    try:
        return images.picture(name, size)
    except UserError as error:
        raise UserError(f'image={error}') from None


def _audio(path):
    """Returns the sound as (N,) float32 in [-1, 1], and the samples per second."""
    import numpy as np

    if not path:
        rate, seconds = 8000, 2.0
        time = np.arange(int(rate * seconds)) / rate
        # The phase is the integral of a frequency that grows linearly from 50 Hz to 4 kHz.
        return np.sin(2 * np.pi * (50 * time + (4000 - 50) / (2 * seconds) * time**2)), rate
    from scipy.io import wavfile

    try:
        rate, samples = wavfile.read(path)
    except OSError as error:
        raise UserError(f'audio={path!r}: {error.strerror or error}') from None
    except Exception as error:  # scipy raises several types for a file that is not a WAV file
        raise UserError(f'audio={path!r}: not a WAV file that can be read ({error})') from None
    samples = samples.reshape(len(samples), -1)[: 10 * rate, 0]
    if np.issubdtype(samples.dtype, np.integer):
        middle = 128 if samples.dtype == np.uint8 else 0
        samples = (samples.astype(np.float32) - middle) / (np.iinfo(samples.dtype).max - middle)
    if len(samples) < 256:
        raise UserError(f'audio={path!r}: {len(samples)} samples are too few, at least 256')
    return samples.astype(np.float32), rate


def _runs_in_one_dimension(kernel):
    import jax
    import jax.numpy as jnp

    from cnn_jax import ops

    x, w = jnp.zeros((256, 1)), jnp.zeros((31, 1, 1))
    try:
        jax.eval_shape(lambda: ops.conv(x, w, implementation=kernel))
    except ValueError:
        return False
    return True


if __name__ == '__main__':
    cli.run(main)
