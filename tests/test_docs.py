"""Tests of the documentation: its Python code runs, and its flags, links and paths exist.

The `python` blocks of a page run in one session. A block with `title="file.py"` is a complete file
and runs as a script. `pycon` blocks are doctests. `<!-- not run: reason -->` exempts the next
block.
"""

import doctest
import functools
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

import cnn_jax

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')])
}
BLOCK = re.compile(
    r'(?P<skip><!-- not run: [^>]+ -->\n+)?^```(?P<language>python|pycon)'
    r'(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```',
    re.DOTALL | re.MULTILINE,
)
# Flags of other programs and of absl.
FOREIGN = {'help', 'helpshort', 'flagfile'}


class Block(NamedTuple):
    language: str
    title: str | None
    code: str
    line: int


def blocks(text: str) -> list[Block]:
    return [
        Block(m['language'], m['title'], m['code'], text[: m.start('code')].count('\n'))
        for m in BLOCK.finditer(text)
        if not m['skip']
    ]


SESSIONS = [name for name, text in PAGES.items() if any(not b.title for b in blocks(text))]
FILES = [
    pytest.param(block.code, id=block.title)
    for text in PAGES.values()
    for block in blocks(text)
    if block.title
]


@pytest.mark.parametrize('name', SESSIONS)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = {'__name__': '__main__'}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    try:
        for block in blocks(PAGES[name]):
            if block.title:
                continue
            if block.language == 'python':
                code = '\n' * block.line + block.code  # so that tracebacks show the page's lines
                exec(compile(code, ROOT / name, 'exec'), session)
            else:
                example = doctest.DocTestParser().get_doctest(
                    block.code, session, name, name, block.line
                )
                assert not runner.run(example, clear_globs=False).failed
                session |= example.globs
    finally:
        cnn_jax.uninstall()


@pytest.mark.parametrize('code', FILES)
def test_file_runs(code, tmp_path):
    path = tmp_path / 'example.py'
    path.write_text(code)
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    ended = subprocess.run(
        [sys.executable, path], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def commands() -> dict[str, set[str]]:
    """Returns, for each script or module, the flags that the documents pass to it."""
    found: dict[str, set[str]] = {}
    pattern = re.compile(r'(?:\b(experiments|launch|tools)/)?\b(\w+)\.(py|sh)\b([^`\n]*)')
    for text in PAGES.values():
        for given, stem, suffix, rest in pattern.findall(text.replace('\\\n', ' ')):
            for folder in [given] if given else ('experiments', 'tools', 'launch'):
                script = f'{folder}/{stem}.{suffix}'
                if (ROOT / script).is_file():
                    found.setdefault(script, set()).update(re.findall(r' \[?--(\w+)', rest))
    return found


@functools.cache
def flags_of(script: str) -> set[str]:
    if script.endswith('.sh'):
        wraps = 'check_tpu' if 'check_tpu' in script else 'train'
        shown = subprocess.run(
            ['bash', ROOT / script, '--help'], capture_output=True, text=True, check=True
        ).stdout
        return set(re.findall(r'--(\w+)', shown)) | flags_of(f'experiments/{wraps}.py')
    shown = subprocess.run(
        [sys.executable, script, '--help'],
        cwd=ROOT,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    ).stdout
    return set(re.findall(r'--(?:\[no\])?(\w+)', shown))


@pytest.mark.parametrize(('script', 'flags'), commands().items(), ids=list(commands()))
def test_flags_exist(script, flags):
    if not flags:
        return
    unknown = {flag for flag in flags - FOREIGN - flags_of(script)}
    assert not unknown, f'{script} has no flag {sorted(unknown)}'


def slug(heading: str) -> str:
    text = re.sub(r'[^\w\s-]', '', re.sub(r'`', '', heading).strip().lower())
    return re.sub(r'[\s]+', '-', text)


@pytest.mark.parametrize('name', PAGES)
def test_links_and_paths_exist(name):
    folder = (ROOT / name).parent
    for target in re.findall(r'\]\(([^)\s]+)\)', PAGES[name]):
        if re.match(r'https?:|mailto:', target):
            continue
        path, _, anchor = target.partition('#')
        path = (folder / path if path else ROOT / name).resolve()
        assert path.is_file() or path.is_dir(), target
        if anchor and path.suffix == '.md':
            headings = re.findall(r'^#+ (.*)$', path.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), target
    if name == 'CHANGELOG.md':  # mentions paths that no longer exist
        return
    for path in re.findall(
        r'`((?:cnn_jax|experiments|launch|tests|tools|docs)/[\w/.]*\w)', PAGES[name]
    ):
        assert (ROOT / path).exists(), path
    for module in re.findall(r'python -m ((?:cnn_jax|tools|tests)[\w.]+)', PAGES[name]):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(
    'package',
    [
        'cnn_jax',
        'cnn_jax.nn',
        'cnn_jax.models',
        'cnn_jax.data',
        'cnn_jax.training',
        'cnn_jax.export',
    ],
)
def test_reference_is_complete(package):
    page = 'operations' if package == 'cnn_jax' else package.rpartition('.')[2]
    text = PAGES[f'docs/api/{page}.md']
    listed = re.findall(r'^(?:### )?::: ([\w.]+)$|heading: ([\w.]+)', text, re.MULTILINE)
    public = {f'{package}.{name}' for name in importlib.import_module(package).__all__}
    assert public <= {name for names in listed for name in names}


def test_site_builds(tmp_path):
    pytest.importorskip('mkdocstrings', reason='the docs extra is not installed')
    built = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    fetched = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="https?://')
    for page in tmp_path.glob('**/*.html'):
        assert not fetched.search(page.read_text()), page
