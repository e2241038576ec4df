"""Shared by the builders: deriving from an official one, and reading archives."""

import contextlib
import dataclasses
import posixpath
import tarfile
from collections.abc import Iterator

import tensorflow_datasets as tfds


@contextlib.contextmanager
def unregistered() -> Iterator[None]:
    """Classes defined inside leave TFDS's table of builders as it is."""
    with tfds.core.registered.skip_registration():
        yield


def _originals(self) -> list[str]:
    return sorted(info.filename for info in self.url_infos.values())


def derive(official: type, name: str, **members) -> type:
    """A builder with the metadata of `official`, in which `members` replace its own.

    It has one method more, `originals()`: the names of the files that it is made from, by default
    all that are registered. (A file registered without a name, which TFDS would download even where
    it lies in the folder of manual downloads, gets the last part of its URL.)
    """
    url_infos = {
        url: dataclasses.replace(info, filename=info.filename or posixpath.basename(url))
        for url, info in official.url_infos.items()
    }
    with unregistered():
        return type(
            official.__name__,
            (official,),
            {
                'name': name,
                # TFDS finds the description by the module.
                '__module__': official.__module__,
                'url_infos': url_infos,
                'originals': _originals,
                **members,
            },
        )


def tar_files(file) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files of a tar archive, compressed or not, in its order.

    Nothing is written to disk, so paths that point elsewhere do no harm.

    Args:
        file: a path, or a binary file object.
    """
    source = {'fileobj': file} if hasattr(file, 'read') else {'name': file}
    with tarfile.open(mode='r|*', **source) as archive:
        for member in archive:
            if member.isfile():
                yield posixpath.normpath(member.name), archive.extractfile(member).read()
