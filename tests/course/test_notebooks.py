"""The notebooks of the course are what their sources say, and run with the solutions."""

import ast
import importlib
import os
import re

import nbformat
import pytest

from cnn_jax.course.exercise import Exercise
from tools import course

CHAPTERS = [pytest.param(path, id=path.stem) for path in course.SOURCES]


def sources(cells, tag: str) -> list[str]:
    return [cell.source for cell in cells if tag in course.tags(cell)]


def exercises(notebook) -> dict[str, Exercise]:
    """Returns the exercises of the module that a chapter imports as `check`."""
    text = '\n'.join(cell.source for cell in notebook.cells)
    (name,) = re.findall(r'^from cnn_jax.course import (\w+) as check$', text, re.MULTILINE)
    module = vars(importlib.import_module(f'cnn_jax.course.{name}'))
    return {name: value for name, value in module.items() if isinstance(value, Exercise)}


def unguarded(tree: ast.AST, students: set[str]) -> set[str]:
    """Returns the student's functions that run before they are right.

    Allowed are `check.name(name)`, and any use of `name` below `if check.name(name):`.
    """
    if isinstance(tree, ast.If) and (checked := _checked(tree.test)):
        return set().union(*(unguarded(child, students - {checked}) for child in tree.body))
    if _checked(tree):
        return set()
    if isinstance(tree, ast.Name):
        return {tree.id} & students
    return set().union(*(unguarded(child, students) for child in ast.iter_child_nodes(tree)))


def _checked(tree: ast.AST) -> str | None:
    match = re.fullmatch(r'check\.(\w+)\((\w+)\)', ast.unparse(tree))
    return match[1] if match and match[1] == match[2] else None


def test_each_source_has_a_notebook():
    notebooks = (course.ROOT / 'course').glob('*.ipynb')
    assert {path.stem for path in notebooks} == {path.stem for path in course.SOURCES}


@pytest.mark.parametrize('source', CHAPTERS)
def test_notebook_is_what_its_source_says(source):
    built = nbformat.writes(course.notebook(source))
    assert source.with_suffix('.ipynb').read_text().rstrip() == built.rstrip(), (
        'run: python -m tools.course'
    )


@pytest.mark.parametrize('source', CHAPTERS)
def test_exercises_are_blanks_that_the_student_fills(source):
    cells = course.notebook(source, solved=True).cells
    known = exercises(course.notebook(source))
    student = {}
    for stub in sources(cells, 'exercise'):
        exec(stub, student)
    assert set(known) <= set(student)
    assert 3 <= len(known) == len(sources(cells, 'exercise')) == len(sources(cells, 'solution'))
    for name, exercise in known.items():
        outcome = exercise(student[name])
        assert not outcome and 'Fill in' in outcome.message
    for cell in cells:
        if cell.cell_type == 'code' and not {'exercise', 'solution'} & set(course.tags(cell)):
            assert not unguarded(ast.parse(cell.source), set(known)), cell.source


@pytest.mark.parametrize('source', CHAPTERS)
def test_solved_notebook_runs(source):
    notebook = course.notebook(source, solved=True)
    course.execute(notebook)
    if folder := os.environ.get('CNN_JAX_KEEP_NOTEBOOK'):
        nbformat.write(notebook, os.path.join(folder, f'{source.stem}-executed.ipynb'))
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    text = ''.join(output.text for output in outputs if output.output_type == 'stream')
    assert 'not yet:' not in text
    assert text.count('correct: ') == len(exercises(notebook))
