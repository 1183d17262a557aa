"""Find a data file: in the user's own folder, in the cache, or at its official address; its checksum always holds."""

import os
from pathlib import Path
from typing import NamedTuple

import pooch

from experiments.data.download import download

FOLDER_VARIABLE = "WEIGHTFILTER_DATA"
"""Environment variable naming a folder that holds data files already, such as ``vision/mnist-…-ubyte.gz``."""


class RemoteFile(NamedTuple):
    """A published file: its path inside the data folder, where it is published, and the MD5 of its bytes."""

    path: str
    address: str
    md5: str


class DataFileError(RuntimeError):
    """A data file cannot be had, or is not the file that was published."""


def locate(file: RemoteFile) -> Path:
    """Return the path of a verified copy of ``file``, downloading it into the cache where there is none yet.

    The folder named by ``WEIGHTFILTER_DATA`` is looked at first; a file found there is never replaced.

    Raises:
        DataFileError: the checksum differs, the download fails, or ``WEIGHTFILTER_DATA`` names no folder.
    """
    folder = own_folder()
    if folder is not None and (folder / file.path).is_file():
        return _verified(folder / file.path, file)
    return _downloaded(file)


def own_folder() -> Path | None:
    """The folder named by ``WEIGHTFILTER_DATA``, or None where it names none.

    Raises:
        DataFileError: it names something that is no folder.
    """
    name = os.environ.get(FOLDER_VARIABLE)
    if not name:
        return None
    folder = Path(name).expanduser()
    # A mistyped folder would otherwise turn into a silent download.
    if not folder.is_dir():
        raise DataFileError(
            f"{FOLDER_VARIABLE} should name an existing folder, but it is {name!r}; "
            f"correct it, or unset it to download the files instead"
        )
    return folder


def _verified(path: Path, file: RemoteFile) -> Path:
    try:
        md5 = pooch.file_hash(str(path), alg="md5")
    except OSError as error:
        raise DataFileError(_explain(file, f"{path} cannot be read: {error}")) from error
    if md5 != file.md5:
        raise DataFileError(_explain(file, f"{path} has md5 {md5}"))
    return path


def _downloaded(file: RemoteFile) -> Path:
    target = Path(pooch.os_cache("weightfilter")) / file.path
    try:
        return download(file.address, target, f"md5:{file.md5}")
    except (OSError, ValueError) as error:  # no connection, HTTP status, full disk; ValueError: wrong hash
        raise DataFileError(_explain(file, f"the download failed: {error}")) from error


def _explain(file: RemoteFile, came: str) -> str:
    return (
        f"expected {file.path} with md5 {file.md5}, but {came}. "
        f"Download {file.address} by hand, save it as {file.path} inside a folder of your choice, "
        f"and set the environment variable {FOLDER_VARIABLE} to that folder"
    )


def own(path: str) -> Path:
    """Return the path of a file or folder that is not published at one address: only the user's own folder has it.

    Raises:
        DataFileError: ``WEIGHTFILTER_DATA`` names no folder, or that folder does not hold it.
    """
    folder = own_folder()
    if folder is None or not (folder / path).exists():
        came = "it is not set" if folder is None else f"{folder} does not hold it"
        raise DataFileError(
            f"expected {path} in the folder that the environment variable {FOLDER_VARIABLE} names, but {came}; "
            f"this set has to be put there by hand"
        )
    return folder / path
