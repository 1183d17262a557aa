"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28×28 pixels in ten classes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32

from experiments.data import idx
from experiments.data.files import RemoteFile, locate
from experiments.data.images import Images

_TRAIN, _TEST, _SIDE, _CLASSES = 60_000, 10_000, 28, 10


class _Set(NamedTuple):
    train_images: RemoteFile
    train_labels: RemoteFile
    test_images: RemoteFile
    test_labels: RemoteFile


def _published(name: str, address: str, checksums: tuple[str, str, str, str]) -> _Set:
    files = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    # Both sets use the same four file names; the name of the set keeps them apart in one folder.
    return _Set(
        *(RemoteFile(f"vision/{name}-{file}", address + file, md5) for file, md5 in zip(files, checksums, strict=True))
    )


_MNIST = _published(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
_FASHION_MNIST = _published(
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)


def mnist() -> Images:
    """Return the handwritten digits: pixels [60000 or 10000, 28, 28] in [0, 1], labels the digit 0…9.

    Raises:
        DataFileError: a file can neither be found nor downloaded, or has a wrong checksum.
    """
    return _load(_MNIST)


def fashion_mnist() -> Images:
    """Return the pieces of clothing: pixels [60000 or 10000, 28, 28] in [0, 1], labels their class 0…9.

    Raises:
        DataFileError: a file can neither be found nor downloaded, or has a wrong checksum.
    """
    return _load(_FASHION_MNIST)


def _load(files: _Set) -> Images:
    return Images(
        train_x=_pixels(files.train_images, _TRAIN),
        train_y=_labels(files.train_labels, _TRAIN),
        test_x=_pixels(files.test_images, _TEST),
        test_y=_labels(files.test_labels, _TEST),
    )


def _pixels(file: RemoteFile, count: int) -> Float32[np.ndarray, "n 28 28"]:
    grey = idx.read(locate(file))
    _require(file, grey, (count, _SIDE, _SIDE))
    return np.divide(grey, 255, dtype=np.float32)


def _labels(file: RemoteFile, count: int) -> Int32[np.ndarray, " n"]:
    labels = idx.read(locate(file))
    _require(file, labels, (count,))
    if labels.max() >= _CLASSES:
        raise ValueError(f"{file.path}: expected classes 0…{_CLASSES - 1}, but the largest is {labels.max()}")
    return labels.astype(np.int32)


def _require(file: RemoteFile, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.dtype != np.uint8 or array.shape != shape:
        raise ValueError(
            f"{file.path}: expected bytes of shape {shape}, but it holds {array.dtype} of shape {array.shape}"
        )
