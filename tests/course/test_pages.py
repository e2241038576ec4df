"""The chapters as pages of the site."""

import functools
import pathlib
import re
import xml.etree.ElementTree

import pytest

course_pages = pytest.importorskip('tools.course_pages', reason='the docs extra is not installed')
markdown = pytest.importorskip('markdown')
base = pytest.importorskip('mkdocs.config.base')

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted((ROOT / 'course').glob('[0-9][0-9]_*.py'))
NOWHERE = {'repository': '', 'branch': 'main'}
GITHUB = {'repository': 'https://github.com/owner/name.git', 'branch': 'main'}
COLAB = 'https://colab.research.google.com/github/owner/name/blob/main/course/01_a.ipynb'
CHAPTER = r'''# %% [markdown]
# # 1. Title
#
# With $w_{kl}$ and *stars*, after [chapter 2](02_b.ipynb):
#
# $$y = \sum_{k < 3} w_k\, x_k$$

# %% tags=["exercise"]
def double(x):
    """Not a formula: $x$."""
    ...


# %% tags=["solution"]
def double(x):

    return 2 * x

# %% tags=["picture"]
show(double(x))
'''


@functools.cache
def site():
    return base.load_config(str(ROOT / 'mkdocs.yml'))


def rendered(text: str) -> str:
    return course_pages.mathml(
        markdown.markdown(
            text, extensions=site().markdown_extensions, extension_configs=site().mdx_configs
        )
    )


def test_a_chapter_becomes_a_page(tmp_path):
    source = tmp_path / '01_a.py'
    source.write_text(CHAPTER)
    page = course_pages.chapter(source, NOWHERE)
    assert '[download](01_a.ipynb)' in page and 'Colab' not in page
    assert '[chapter 2](02_b.md)' in page
    assert f'[open in Colab]({COLAB})' in course_pages.chapter(source, GITHUB)
    shown = rendered(page)
    assert '<em>stars</em>' in shown
    assert '$x$' in re.sub('<[^>]+>', '', shown)  # code stays code
    formulas = re.findall('<math.*?</math>', shown)
    assert ['display="block"' in formula for formula in formulas] == [False, True]
    (solution,) = re.findall('<details.*?</details>', shown, re.DOTALL)
    assert 'return' in solution and '```' not in shown
    assert shown.index('show') < shown.index('../images/course/01_1.png')


@pytest.mark.parametrize(
    ('extra', 'notebook'), [(NOWHERE, 'course/01_a.ipynb'), (GITHUB, COLAB)], ids=['', 'github']
)
def test_titles_open_pages_and_name_the_notebooks(extra, notebook):
    table = '| [1. By hand](../course/01_a.ipynb) | [kernels](kernels.md) |'
    expected = f'| [1. By hand](course/01_a.md) ([notebook]({notebook})) | [kernels](kernels.md) |'
    assert course_pages.titles(table, extra) == expected


def test_functions_stand_apart_from_what_is_beside_them():
    space = '<mspace width="0.167em" />'
    assert f'<mn>2</mn>{space}<mi>log</mi>{space}<mi>x</mi>' in rendered(r'$2 \log x$')
    assert space not in rendered(r'$\log(x)$') + rendered('$a x$')


@pytest.mark.parametrize('source', SOURCES, ids=lambda path: path.stem)
def test_every_formula_becomes_mathml(source):
    page = course_pages.chapter(source, NOWHERE)
    text = re.sub('^ *```.*?^ *```$', '', page, flags=re.DOTALL | re.MULTILINE)
    text = re.sub('`[^`]+`', '', text)
    shown = rendered(page)
    formulas = re.findall('<math.*?</math>', shown, re.DOTALL)
    assert len(formulas) == text.replace('$$', '$').count('$') / 2
    for formula in formulas:
        tree = xml.etree.ElementTree.fromstring(formula)
        text = ''.join(tree.itertext())
        assert not re.search(r'[\\$&]|operatorname', text), formula  # no command left as text
    assert 'arithmatex' not in shown


@pytest.mark.parametrize('source', SOURCES, ids=lambda path: path.stem)
def test_pictures_are_small_and_all_there(source):
    folder = ROOT / 'docs' / 'images' / 'course'
    named = re.findall(r'images/course/(\w+\.png)', course_pages.chapter(source, NOWHERE))
    assert named == sorted(path.name for path in folder.glob(f'{source.stem[:2]}_*.png'))
    assert all((folder / name).stat().st_size < 80_000 for name in named)
