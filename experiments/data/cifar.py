"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 × 32 pixels in colour.

The binary archives: those for Python hold pickles, which would run code of whoever wrote them.
"""

import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.data.files import RemoteFile, locate
from experiments.data.images import Images

_ADDRESS = "https://www.cs.toronto.edu/~kriz/"
_TEN = RemoteFile(
    "vision/cifar-10-binary.tar.gz", f"{_ADDRESS}cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
)
_HUNDRED = RemoteFile(
    "vision/cifar-100-binary.tar.gz", f"{_ADDRESS}cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
)
_PIXELS = 3 * 32 * 32


def cifar10() -> Images:
    """Return pixels [50000 or 10000, 32, 32, 3] in [0, 1], labels 0…9.

    Raises:
        DataFileError: the archive can neither be found nor downloaded, or has a wrong checksum.
    """
    folder, batches = "cifar-10-batches-bin", range(1, 6)
    return read(locate(_TEN), [f"{folder}/data_batch_{n}.bin" for n in batches], f"{folder}/test_batch.bin", labels=1)


def cifar100() -> Images:
    """Return pixels [50000 or 10000, 32, 32, 3] in [0, 1], labels 0…99 (the fine ones).

    Raises:
        DataFileError: the archive can neither be found nor downloaded, or has a wrong checksum.
    """
    folder = "cifar-100-binary"
    return read(locate(_HUNDRED), [f"{folder}/train.bin"], f"{folder}/test.bin", labels=2)


def read(archive: Path, train: Sequence[str], test: str, *, labels: int) -> Images:
    """Records of so many bytes of labels, the last of which is the class, and 3072 of pixels: red, green, blue.

    Raises:
        ValueError: it is no whole archive, lacks one of the members, or one holds no whole records.
    """
    try:
        with tarfile.open(archive) as file:
            members = [_member(file, name) for name in (*train, test)]
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise ValueError(f"{archive}: expected a whole archive, but {error}; fetch it again") from error
    size = labels + _PIXELS
    for name, content in zip((*train, test), members, strict=True):
        if not content or len(content) % size:
            raise ValueError(
                f"{archive}, {name}: expected records of {size} bytes, but it has {len(content)}; fetch it again"
            )
    records = np.frombuffer(b"".join(members), np.uint8).reshape(-1, size)
    cut = len(records) - len(members[-1]) // size
    pixels = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    x, y = np.divide(pixels, 255, dtype=np.float32), records[:, labels - 1].astype(np.int32)
    return Images(x[:cut], y[:cut], x[cut:], y[cut:])


def _member(file: tarfile.TarFile, name: str) -> bytes:
    member = file.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is no file")
    return member.read()
