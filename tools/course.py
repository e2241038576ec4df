"""Builds the notebooks of the course from their text sources:

    python -m tools.course                    # course/NN_name.py -> course/NN_name.ipynb
    python -m tools.course --solved=FOLDER    # with the solutions, into FOLDER
    python -m tools.course --pictures=docs/images/course    # what cells tagged `picture` draw

A source is a Python file in jupytext's percent format. The student's notebook leaves out the cells
tagged `solution`; the solved one keeps them, so they replace the stubs above them. The first code
cells, which install the package, come from `launch/colab.py`, and the address to clone from is the
`repository` of `mkdocs.yml`.
"""

import argparse
import base64
import io
import os
import pathlib

import jupytext
import nbclient
import nbformat
import PIL.Image
import yaml

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / 'course').glob('[0-9][0-9]_*.py'))


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get('tags', [])


def install_cells() -> list[nbformat.NotebookNode]:
    """Returns the cells that install the package, with the address of the repository."""
    site = yaml.safe_load((ROOT / 'mkdocs.yml').read_text())
    address = nbformat.v4.new_code_cell(
        f'REPOSITORY = {site["extra"]["repository"]!r}  # address to clone from; not needed in a '
        'checkout'
    )
    cells = jupytext.read(ROOT / 'launch' / 'colab.py').cells
    return [address, *(cell for cell in cells if 'install' in tags(cell))]


def notebook(source: pathlib.Path, *, solved: bool = False) -> nbformat.NotebookNode:
    """Returns the notebook of one chapter, without outputs.

    Args:
        source: the chapter, in percent format.
        solved: whether to keep the solutions.
    """
    title, *cells = jupytext.read(source).cells
    cells = [cell for cell in cells if solved or 'solution' not in tags(cell)]
    end = nbformat.v4.new_markdown_cell(
        f'*Generated from `course/{source.name}` by `python -m tools.course`. Text and pictures: '
        '[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/); code: Apache-2.0.*'
    )
    built = nbformat.v4.new_notebook(cells=[title, *install_cells(), *cells, end])
    built.metadata['kernelspec'] = {
        'display_name': 'Python 3',
        'language': 'python',
        'name': 'python3',
    }
    for i, cell in enumerate(built.cells):
        cell['id'] = f'cell-{i}'  # not random, so that a rebuilt file differs in its text alone
    return built


def execute(built: nbformat.NotebookNode) -> None:
    """Runs a notebook with this checkout, and puts the outputs into its cells."""
    nbclient.NotebookClient(
        built, timeout=None, kernel_name='python3', resources={'metadata': {'path': ROOT}}
    ).execute(env=os.environ | {'PYTHONPATH': str(ROOT)})


def draw(source: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the last picture of each cell tagged `picture`: NN_1.png, NN_2.png, ...

    The site shows them below these cells (`tools/course_pages.py`).
    """
    built = notebook(source, solved=True)
    places = [i for i, cell in enumerate(built.cells) if 'picture' in tags(cell)]
    if not places:
        return []
    built.cells = built.cells[: places[-1] + 1]
    execute(built)
    paths = []
    for number, place in enumerate(places, 1):
        *_, encoded = (
            output.data['image/png']
            for output in built.cells[place].outputs
            if 'image/png' in output.get('data', {})
        )
        picture = PIL.Image.open(io.BytesIO(base64.b64decode(encoded))).convert('RGB')
        paths.append(folder / f'{source.stem[:2]}_{number}.png')
        picture.quantize(40).save(paths[-1], optimize=True)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('--solved', type=pathlib.Path, help='folder for notebooks with solutions')
    parser.add_argument('--pictures', type=pathlib.Path, help='folder for pictures of the site')
    args = parser.parse_args()
    folder = args.pictures or args.solved or ROOT / 'course'
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        if args.pictures:
            paths = draw(source, folder)
        else:
            paths = [folder / f'{source.stem}.ipynb']
            nbformat.write(notebook(source, solved=args.solved is not None), paths[0])
        for path in paths:
            print(path, flush=True)


if __name__ == '__main__':
    main()
