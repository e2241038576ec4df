"""Links of the site to notebooks."""

import types

import pytest

from tools.colab_links import on_page_markdown

PAGE = '| [1. By hand](../course/01.ipynb) | [kernels](kernels.md) |'
COLAB = 'https://colab.research.google.com/github/owner/name/blob/main/course/01.ipynb'


@pytest.mark.parametrize(
    ('address', 'page'),
    [
        ('https://github.com/owner/name', PAGE.replace('../course/01.ipynb', COLAB)),
        ('https://github.com/owner/name.git', PAGE.replace('../course/01.ipynb', COLAB)),
        ('https://example.org/owner/name', '| 1. By hand | [kernels](kernels.md) |'),
        ('', '| 1. By hand | [kernels](kernels.md) |'),
    ],
)
def test_links_open_colab_if_the_repository_is_on_github(address, page):
    config = types.SimpleNamespace(extra={'repository': address, 'branch': 'main'})
    assert on_page_markdown(PAGE, config=config, page=None, files=None) == page
