"""Preparing a data set by its official TFDS builder, from the network or from original files."""

import contextlib
import csv
import pathlib
import struct
import tarfile
import zlib
from collections.abc import Sequence

from cnn_jax.data import builders, prepared
from cnn_jax.errors import UserError

# Errors that reading a damaged archive may cause.
_DAMAGE = (tarfile.TarError, zlib.error, EOFError, struct.error, csv.Error, KeyError, ValueError)


def prepare(name: str, data_dir: pathlib.Path, manual_dir: pathlib.Path | None) -> pathlib.Path:
    """Writes the prepared folder of `name` under `data_dir` and returns it.

    The originals are downloaded to `<data_dir>/downloads/<name>`, or read from `manual_dir`, and
    their sizes and SHA-256 are compared with those registered in TFDS before anything is read.
    TFDS writes to a temporary folder and renames it at the end.

    Each set has a download folder of its own: TFDS names extracted files after the archive's file
    name alone, and MNIST's and Fashion-MNIST's archives have the same names, so that in a shared
    folder the second set is filled with the first one's images.

    Args:
        name: a key of `builders.MODULES`.
        data_dir: made if it does not exist.
        manual_dir: folder of the original files under the names they were published with; nothing
            is downloaded then.

    Raises:
        FileNotFoundError: `manual_dir` lacks a file.
        ConnectionError: a download failed.
        ValueError: a file is not the one registered.
        OSError: `data_dir` cannot be written.
    """
    import tensorflow_datasets as tfds

    _, _, config_name = name.partition('/')
    builder = builders.builder_class(name)(
        data_dir=str(data_dir), config=config_name or None, file_format='array_record'
    )
    if manual_dir is not None:
        check_manual_dir(name, manual_dir, builder.originals())
    else:
        check_network(name, builder, data_dir)
    config = tfds.download.DownloadConfig(
        manual_dir=None if manual_dir is None else str(manual_dir), try_download_gcs=False
    )
    with _clear_errors(name, data_dir):
        builder.download_and_prepare(
            download_dir=str(data_dir / 'downloads' / name), download_config=config
        )
    return pathlib.Path(builder.data_path)


def check_manual_dir(name: str, manual_dir: pathlib.Path, wanted: Sequence[str]) -> None:
    """Raises FileNotFoundError unless `manual_dir` holds the files `wanted` for `name`."""
    if not manual_dir.is_dir():
        raise FileNotFoundError(f'manual_dir={str(manual_dir)!r} is not a folder')
    missing = [file for file in wanted if not (manual_dir / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f'manual_dir={str(manual_dir)!r} lacks {", ".join(missing)}; {name} is made of '
            f'{", ".join(wanted)}'
        )


def check_network(name: str, builder, data_dir: pathlib.Path) -> None:
    """Raises ConnectionError unless the first of the originals' hosts answers.

    TFDS would try ten times and take minutes to say so.

    Raises:
        FileNotFoundError: the originals are not available without an account.
        ConnectionError: the host does not answer.
    """
    import requests

    wanted = builder.originals()
    urls = [url for url, info in builder.url_infos.items() if info.filename in wanted]
    if not urls:
        raise FileNotFoundError(
            f'{name} is not prepared in {str(data_dir)!r}, and no program may download it; get '
            f'{", ".join(wanted)} from its site and name their folder with manual_dir'
        )
    try:
        requests.head(urls[0], timeout=20)
    except requests.exceptions.RequestException as error:
        raise _no_download(name, data_dir, error) from error


def _no_download(name: str, data_dir: pathlib.Path, error: Exception) -> ConnectionError:
    return ConnectionError(
        f'{name} is not prepared in {str(data_dir)!r} and could not be downloaded '
        f'({type(error).__name__}: {_one_line(error)}); name the folder that holds it with '
        'data_dir or TFDS_DATA_DIR, or the folder of its original files with manual_dir'
    )


@contextlib.contextmanager
def _clear_errors(name: str, data_dir: pathlib.Path):
    """Turns what TFDS and requests raise into one line that says what to do."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager

    try:
        yield
    except download_manager.NonMatchingChecksumError as error:
        raise UserError(f'{name}: a wrong file: {_one_line(error)}') from error
    except (tfds.download.DownloadError, requests.exceptions.RequestException) as error:
        raise _no_download(name, data_dir, error) from error
    except _DAMAGE as error:
        raise UserError(
            f'{name}: its originals cannot be read ({type(error).__name__}: {_one_line(error)})'
        ) from error
    except OSError as error:
        raise OSError(f'{name} cannot be prepared in {str(data_dir)!r}: {error}') from error


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split())[:400]


def find_or_prepare(
    name: str,
    data_dir: str | pathlib.Path | None,
    manual_dir: str | pathlib.Path | None,
    download: bool,
) -> prepared.Prepared:
    """The prepared set `name`, prepared first where needed and possible.

    Args:
        name: TFDS's name of the set.
        data_dir: where prepared sets lie; None for TFDS_DATA_DIR or TFDS's default. A folder that
            is named here must exist.
        manual_dir: see `prepare`.
        download: whether the network may be used.

    Raises:
        FileNotFoundError: `data_dir` does not exist; or the set is neither there nor to be made.
        ConnectionError, ValueError, OSError: see `prepare` and `prepared.Prepared`.
    """
    folder = prepared.default_data_dir() if data_dir is None else pathlib.Path(data_dir)
    folder = folder.expanduser()
    if data_dir is not None and not folder.is_dir():
        raise FileNotFoundError(f'data_dir={str(data_dir)!r} is not a folder')
    path = prepared.find(name, folder)
    if path is None:
        if name not in builders.MODULES or not (download or manual_dir):
            raise FileNotFoundError(
                f'{name} is not prepared in {str(folder)!r}; name the folder that holds '
                f'{name}/<version> with data_dir or TFDS_DATA_DIR'
            )
        originals = None if manual_dir is None else pathlib.Path(manual_dir).expanduser()
        path = prepare(name, folder, originals)
    return prepared.Prepared(path)
