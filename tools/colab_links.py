"""A hook of MkDocs: links from a page to a notebook of the repository open it in Colab.

A site cannot link to files outside its own folder. With a `repository` on GitHub, a link such as
`../course/01_convolution.ipynb` becomes Colab's address of that notebook; without, its text stays.
"""

import re
import urllib.parse

NOTEBOOK = re.compile(r'\[([^\]]+)\]\(\.\./([\w/.]+\.ipynb)\)')


def on_page_markdown(markdown, *, config, **_):
    where = urllib.parse.urlsplit(config.extra['repository'])
    if where.hostname != 'github.com':
        return NOTEBOOK.sub(r'\1', markdown)
    repository = where.path.strip('/').removesuffix('.git')
    branch = config.extra['branch']
    colab = f'https://colab.research.google.com/github/{repository}/blob/{branch}'
    return NOTEBOOK.sub(rf'[\1]({colab}/\2)', markdown)
