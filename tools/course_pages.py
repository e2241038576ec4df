r"""A hook of MkDocs: each chapter of the course is a page of the site.

Pages and copies of the notebooks are made at build time from `course/`. Formulas become MathML,
which browsers draw without a script. Pictures come from `python -m tools.course --pictures`.
"""

import html
import pathlib
import re
import textwrap
import urllib.parse

import jupytext
from latex2mathml.converter import convert
from mkdocs.structure.files import File

TITLE = re.compile(r'\[([^\]]+)\]\(\.\./(course/\w+)\.ipynb\)')  # in docs/course.md
CHAPTER = re.compile(r'\]\((\w+)\.ipynb\)')  # in the text of a chapter
# What pymdownx.arithmatex makes of $...$ and $$...$$ in its generic mode.
FORMULA = re.compile(
    r'<span class="arithmatex">\\\((?P<inline>.*?)\\\)</span>'
    r'|<div class="arithmatex">\\\[(?P<block>.*?)\\\]</div>',
    re.DOTALL,
)
# The places around the name of a function where TeX has a space: 2 log x, not 2logx.
SPACE = re.compile(
    r'(?<=</m[in]>)(?=<mi>[a-z]{2,}</mi>)|<mi>[a-z]{2,}</mi>(?=<m(?:i|n|sub|sup|subsup)>)'
)


def colab(extra) -> str | None:
    """Returns the address of the repository's root in Colab, or None if it is not on GitHub."""
    where = urllib.parse.urlsplit(extra['repository'])
    if where.hostname != 'github.com':
        return None
    repository = where.path.strip('/').removesuffix('.git')
    return f'https://colab.research.google.com/github/{repository}/blob/{extra["branch"]}'


def chapter(source: pathlib.Path, extra) -> str:
    """Returns a chapter in Markdown: solutions folded, pictures below the cells that draw them."""
    notebook = f'{source.stem}.ipynb'
    links = f'Notebook: [download]({notebook})'
    if root := colab(extra):
        links += f', [open in Colab]({root}/course/{notebook})'
    title, *cells = jupytext.read(source).cells
    heading, _, text = title.source.partition('\n')
    parts = [heading, links, _linked(text)]
    pictures = 0
    for cell in cells:
        tags = cell.metadata.get('tags', [])
        if cell.cell_type == 'markdown':
            parts.append(_linked(cell.source))
            continue
        code = f'```python\n{cell.source}\n```'
        if 'solution' in tags:
            code = '??? note "Solution"\n' + textwrap.indent(code, '    ')
        parts.append(code)
        if 'picture' in tags:
            pictures += 1
            name = f'{source.stem[:2]}_{pictures}.png'
            parts.append(f'![What the code above draws](../images/course/{name})')
    return '\n\n'.join(parts)


def _linked(text: str) -> str:
    return CHAPTER.sub(r'](\1.md)', text)


def titles(markdown: str, extra) -> str:
    """Lets the titles of the overview open the pages, and adds links to the notebooks."""
    root = colab(extra)
    notebook = rf'{root}/\2.ipynb' if root else r'\2.ipynb'
    return TITLE.sub(rf'[\1](\2.md) ([notebook]({notebook}))', markdown)


def mathml(content: str) -> str:
    """Replaces the formulas of a page in HTML."""

    def replace(match: re.Match) -> str:
        display = 'inline' if match['block'] is None else 'block'
        formula = convert(html.unescape(match['inline'] or match['block']), display=display)
        return SPACE.sub(r'\g<0><mspace width="0.167em" />', formula)

    return FORMULA.sub(replace, content)


def on_files(files, *, config):
    folder = pathlib.Path(config.config_file_path).parent / 'course'
    for source in sorted(folder.glob('[0-9][0-9]_*.py')):
        name = f'course/{source.stem}'
        files.append(File.generated(config, f'{name}.md', content=chapter(source, config.extra)))
        notebook = str(source.with_suffix('.ipynb'))
        files.append(File.generated(config, f'{name}.ipynb', abs_src_path=notebook))
    return files


def on_page_markdown(markdown, *, page, config, **_):
    return titles(markdown, config.extra) if page.file.src_uri == 'course.md' else markdown


def on_page_content(content, **_):
    return mathml(content)
