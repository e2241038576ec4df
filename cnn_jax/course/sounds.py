"""Sounds for the notebooks: the keys of a telephone, and a player."""

import numpy as np

RATE = 8000  # samples per second, that of telephones
# Each key sends the tone of its row and that of its column, in Hz (ITU-T Q.23).
ROWS, COLUMNS = (697, 770, 852, 941), (1209, 1336, 1477)
KEYS = '123456789*0#'


def tone(frequency: float, seconds: float, phase: float = 0.0) -> np.ndarray:
    """Returns a sine wave, float64 (samples,); `phase` in periods."""
    time = np.arange(round(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * (frequency * time + phase))


def key(name: str, seconds: float = 0.15) -> np.ndarray:
    """Returns the sound of a key, float64 (samples,)."""
    row, column = divmod(KEYS.index(name), 3)
    return (tone(ROWS[row], seconds) + tone(COLUMNS[column], seconds)) / 2


def call(number: str) -> np.ndarray:
    """Returns the sounds of the keys of a number, with pauses between them."""
    pause = np.zeros(round(0.05 * RATE))
    return np.concatenate([part for name in number for part in (key(name), pause)])


def examples(count: int, seed: int, samples: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Makes noisy sounds of random keys.

    Loudness and phase of both tones are random, their frequencies differ by up to 1.5 % from the
    standard, and the noise is about as loud as the tones.

    Returns:
        (sounds, labels): float32 (count, samples, 1), and int32 (count,), positions in `KEYS`.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(KEYS), count)
    sounds = 0.3 * random.standard_normal((count, samples))
    for sound, label in zip(sounds, labels, strict=True):
        row, column = divmod(label, 3)
        for frequency in (ROWS[row], COLUMNS[column]):
            shifted = frequency * random.uniform(0.985, 1.015)
            wave = tone(shifted, samples / RATE, random.random())
            sound += 0.3 * random.uniform(0.3, 1) * wave
    return sounds[..., None].astype(np.float32), labels.astype(np.int32)


def play(sound: np.ndarray) -> None:
    """Shows a player below the cell of a notebook."""
    import IPython.display  # every notebook has it, but the package does not require it

    IPython.display.display(IPython.display.Audio(sound, rate=RATE))
