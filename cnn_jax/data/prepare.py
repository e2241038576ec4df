"""Prepares a data set with its official TFDS builder, from downloads or local original files."""

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
    """Writes the prepared folder of `name` under `data_dir` and returns its path.

    The original files are downloaded to `<data_dir>/downloads/<name>` or read from `manual_dir`.
    Their sizes and SHA-256 checksums are compared with those registered in TFDS before their
    contents are read. TFDS writes to a temporary folder and renames it at the end.

    Every data set has a separate download folder, because TFDS names extracted files after the file
    name of the archive. The archives of MNIST and Fashion-MNIST have the same names, so in a shared
    folder the second data set would get the images of the first.

    Args:
        name: a key of `builders.MODULES`.
        data_dir: folder of prepared data sets; it is created if it does not exist.
        manual_dir: folder of the original files under their published names; if given, nothing is
            downloaded.

    Raises:
        FileNotFoundError: a file is missing in `manual_dir`, or the original files cannot be
            downloaded without an account.
        ConnectionError: a download failed.
        ValueError: the size or checksum of a file is wrong, or a file is damaged.
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
    """Checks that `manual_dir` holds the files `wanted`; raises FileNotFoundError otherwise."""
    if not manual_dir.is_dir():
        raise FileNotFoundError(f'manual_dir={str(manual_dir)!r} is not a folder')
    missing = [file for file in wanted if not (manual_dir / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f'manual_dir={str(manual_dir)!r} lacks {", ".join(missing)}; {name} needs '
            f'{", ".join(wanted)}'
        )


def check_network(name: str, builder, data_dir: pathlib.Path) -> None:
    """Checks that the host of the first original file responds.

    Without this check, TFDS would retry ten times and take minutes to fail.

    Raises:
        FileNotFoundError: the original files cannot be downloaded without an account.
        ConnectionError: the host does not respond.
    """
    import requests

    wanted = builder.originals()
    urls = [url for url, info in builder.url_infos.items() if info.filename in wanted]
    if not urls:
        raise FileNotFoundError(
            f'{name} is not prepared in {str(data_dir)!r}, and it cannot be downloaded '
            f'automatically; get {", ".join(wanted)} from its site and give their folder as '
            'manual_dir'
        )
    try:
        requests.head(urls[0], timeout=20)
    except requests.exceptions.RequestException as error:
        raise _no_download(name, data_dir, error) from error


def _no_download(name: str, data_dir: pathlib.Path, error: Exception) -> ConnectionError:
    return ConnectionError(
        f'{name} is not prepared in {str(data_dir)!r} and could not be downloaded '
        f'({type(error).__name__}: {_one_line(error)}); give the folder that holds it as '
        'data_dir or TFDS_DATA_DIR, or the folder of its original files as manual_dir'
    )


@contextlib.contextmanager
def _clear_errors(name: str, data_dir: pathlib.Path):
    """Converts exceptions of TFDS and requests to exceptions with a clear one-line message."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import download_manager

    try:
        yield
    except download_manager.NonMatchingChecksumError as error:
        raise UserError(f'{name}: wrong file: {_one_line(error)}') from error
    except (tfds.download.DownloadError, requests.exceptions.RequestException) as error:
        raise _no_download(name, data_dir, error) from error
    except _DAMAGE as error:
        raise UserError(
            f'{name}: its original files cannot be read ({type(error).__name__}: '
            f'{_one_line(error)})'
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
    """Returns the prepared data set `name`, and prepares it first if necessary.

    Args:
        name: TFDS's name of the data set.
        data_dir: existing folder of prepared data sets; None means TFDS_DATA_DIR or TFDS's default,
            which need not exist.
        manual_dir: see `prepare`.
        download: whether the data set may be downloaded.

    Raises:
        FileNotFoundError: `data_dir` does not exist, or the data set is not there and cannot be
            prepared.
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
                f'{name} is not prepared in {str(folder)!r}; give the folder that holds '
                f'{name}/<version> as data_dir or TFDS_DATA_DIR'
            )
        originals = None if manual_dir is None else pathlib.Path(manual_dir).expanduser()
        path = prepare(name, folder, originals)
    return prepared.Prepared(path)
