"""Writes the page's content into one HTML document that needs nothing else."""

import base64
import importlib.resources
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.inspection import flops
from cnn_jax.inspection.page import content

SCRIPTS = ('numbers.js', 'pictures.js', 'explanations.js', 'page.js')


def render(about: Mapping[str, Any]) -> str:
    """Returns the document that shows `about`, a dict of JSON's types and arrays.

    Arrays of float32 and uint8 are stored in base64, little-endian and row-major.
    """
    text = json.dumps(about, default=_encoded, separators=(',', ':'), allow_nan=False)
    text = text.replace('<', '\\u003c')  # so that no string ends the element that holds it
    folder = importlib.resources.files(__package__)
    page = (folder / 'page.html').read_text(encoding='utf-8')
    for name in ('page.css', *SCRIPTS):
        page = page.replace(f'/* {name} */', (folder / name).read_text(encoding='utf-8'))
    return page.replace('/* data */', text)


def _encoded(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    if array.dtype not in (np.float32, np.uint8):
        raise TypeError(f'the page cannot hold {array.dtype}')
    data = base64.b64encode(np.ascontiguousarray(array, array.dtype.newbyteorder('<')).data)
    return {'dtype': str(array.dtype), 'shape': array.shape, 'base64': data.decode('ascii')}


def fitting(
    recorded: content.Recorded,
    rows: Sequence[flops.Row],
    about: Mapping[str, Any],
    max_bytes: int,
) -> tuple[str, list[str]]:
    """Renders as much of a network as fits: fewer examples first, then fewer explained layers.

    Args:
        recorded: the network's numbers.
        rows: `flops.summary` of the model.
        about: what the page says beside them; 'examples' has one entry per example.
        max_bytes: size of the document.

    Returns:
        The document, and a line for each thing that was left out, which the document also shows.

    Raises:
        UserError: one example with one explained layer does not fit.
    """
    names = list(recorded.windows)
    for examples, explained in plans(len(recorded.logits), len(names)):
        part = recorded.take(examples)
        made = content.make(part, rows, names[:explained])
        notes = left_out(made, len(recorded.logits) - examples, len(names) - explained, max_bytes)
        page = about | made | {'examples': about['examples'][:examples], 'notes': notes}
        if len(render(page).encode()) > max_bytes:
            continue
        for layer in made['layers']:  # last, because it takes by far the longest
            if layer.get('windows', {}).get('kind') == 'convolution':
                layer['windows']['checks'] = content.checks(part, layer['name'])
        document = render(page)
        if len(document.encode()) <= max_bytes:
            return document, notes
    raise UserError(
        f'the network is too large for a page of {max_bytes / 1e6:g} MB, even with one input and '
        f'one explained layer; allow more with max_megabytes'
    )


def plans(examples: int, layers: int) -> Iterator[tuple[int, int]]:
    """Yields (examples, explained layers) to try, from everything to one of each."""
    for count in range(examples, 0, -1):
        yield count, layers
    for count in range(layers - 1, 0, -1):
        yield 1, count


def left_out(made: content.Content, examples: int, layers: int, max_bytes: int) -> list[str]:
    """Returns a line for each thing that a page does not show."""
    below = f'so that the page stays below {max_bytes / 1e6:g} MB'
    notes = []
    if examples:
        notes.append(f'{examples} of the inputs asked for were left out, {below}.')
    if layers:
        notes.append(f'The last {layers} convolutions and pools have pictures alone, {below}.')
    if any('levels' in layer['maps'] for layer in made['layers'] if 'maps' in layer):
        notes.append(
            'Maps marked "rounded" have 256 levels and show at most '
            f'{content.MAX_CHANNELS} channels; all other numbers are the exact float32 ones.'
        )
    return notes
