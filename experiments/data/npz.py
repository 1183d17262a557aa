"""Arrays from a file of NumPy's, never objects: those would run code of whoever wrote the file."""

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def read(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays of these names.

    Raises:
        ValueError: it is no whole ``npz`` file, or lacks one of them, or holds objects; the message names the file.
    """
    try:
        # Opened here: numpy leaves a file open that turns out to be none of its own.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole npz file with the arrays {', '.join(names)}, but {error}; fetch it again"
        ) from error
