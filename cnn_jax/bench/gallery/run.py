"""Runs the whole gallery and writes its files."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from cnn_jax.bench import machine
from cnn_jax.bench.gallery import entries, measure, page, torch_side
from cnn_jax.bench.gallery.entry import Entry, Finding, slowness, verdict
from cnn_jax.output import write_whole

Results = list[tuple[Entry, dict[str, Finding]]]


def results(
    chosen: Sequence[Entry] = entries.ALL, *, rounds: int = 5, limit: float = 2.0
) -> Results:
    """Runs entries in XLA, in this package and, if it is installed, in PyTorch.

    Args:
        chosen: the entries to run.
        rounds, limit: see `timing.steady`. With 0 rounds, results are checked but not timed.
    """
    from tqdm import tqdm

    found: Results = []
    with tqdm(chosen, unit='thread', disable=None, leave=False) as bar:
        for entry in bar:
            bar.set_description(entry.reference)
            found.append((entry, measure.findings(entry, rounds=rounds, limit=limit)))
    torch = torch_side.findings(chosen, rounds=rounds, small=False)
    for entry, sides in found:
        if entry.reference in torch:
            sides['PyTorch'] = torch[entry.reference]
    return found


def write(found: Results, output: pathlib.Path, command: str) -> str:
    """Writes gallery.md, results.json and reports/ to a folder, and returns a summary."""
    faults = page.faults_found(found)
    with write_whole(output / 'gallery.md') as file:
        file.write(page.page(found, command))
    with write_whole(output / 'results.json') as file:
        json.dump({'machine': machine.describe(), 'entries': _as_dicts(found)}, file, indent=1)
    for entry in faults:
        name = entry.reference.replace('/', '-').replace('#', '-')
        with write_whole(output / 'reports' / f'{name}.md') as file:
            file.write(page.report(entry))
    words = [verdict(entry, sides) for entry, sides in found]
    counts = ', '.join(f'{words.count(word)} {word}' for word in dict.fromkeys(sorted(words)))
    return f'{len(found)} threads: {counts}; {len(faults)} reports; written to {output}'


def ours_wrong(found: Results) -> list[str]:
    """Returns the references of the entries in which this package is wrong."""
    return [
        entry.reference
        for entry, sides in found
        if 'ours' in sides and sides['ours'].right is False
    ]


def _as_dicts(found: Results) -> list[dict]:
    return [
        {
            'reference': entry.reference,
            'claim': entry.claim,
            'kind': entry.kind,
            'situation': entry.name,
            'verdict': verdict(entry, sides),
            'slowness': slowness(entry, sides) if entry.kind == 'speed' else None,
            'sides': {side: dataclasses.asdict(one) for side, one in sides.items()},
        }
        for entry, sides in found
    ]
