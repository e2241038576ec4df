"""docs/guide.md: its Python runs, and its pictures exist."""

import pathlib
import re

GUIDE = pathlib.Path(__file__).parents[1] / 'docs' / 'guide.md'


def test_python_blocks_run():
    blocks = re.findall(r'```python\n(.*?)```', GUIDE.read_text(), re.DOTALL)
    assert len(blocks) >= 5
    names = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), 'exec'), names)


def test_pictures_and_scripts_exist():
    text = GUIDE.read_text()
    for picture in re.findall(r'!\[.*?\]\((.*?)\)', text):
        assert (GUIDE.parent / picture).is_file(), picture
    for script in re.findall(r'python (experiments/\w+\.py)', text):
        assert (GUIDE.parents[1] / script).is_file(), script
