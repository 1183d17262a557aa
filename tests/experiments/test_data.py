"""Image sets: parsed strictly, verified by checksum, and with one clear error where they cannot be had."""

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pooch
import pytest

from experiments.data import digits, idx
from experiments.data.files import FOLDER_VARIABLE, DataFileError, RemoteFile, locate
from experiments.data.mnist import fashion_mnist, mnist

CONTENT = b"the published bytes"
FILE = RemoteFile("vision/some.gz", "https://example.invalid/some.gz", hashlib.md5(CONTENT).hexdigest())

needs_data = pytest.mark.skipif(
    not os.environ.get(FOLDER_VARIABLE), reason=f"{FOLDER_VARIABLE} names no folder with the MNIST files"
)


def idx_bytes(array: np.ndarray, code: int) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "vision").mkdir()
    return tmp_path


def refuse_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def retrieve(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", retrieve)


class TestDigits:
    def test_are_images_in_the_unit_interval(self) -> None:
        images, labels = digits.load()
        assert images.shape == (1797, 8, 8) and images.dtype == np.float32
        assert labels.shape == (1797,) and labels.dtype == np.int32
        assert images.min() == 0 and images.max() == 1
        assert set(labels.tolist()) == set(range(10))


class TestIdx:
    @pytest.mark.parametrize(("code", "dtype"), [(0x08, "u1"), (0x0B, ">i2"), (0x0D, ">f4"), (0x0E, ">f8")])
    def test_reads_shape_and_elements(self, tmp_path: Path, code: int, dtype: str) -> None:
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)
        path = tmp_path / "array.gz"
        path.write_bytes(gzip.compress(idx_bytes(array, code)))
        read = idx.read(path)
        assert read.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read, array)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "at least 4 bytes"),
            (b"\x00\x01\x08\x01", "00 01 08 01"),
            (b"\x00\x00\x07\x01\x00\x00\x00\x00", "TYPE one of"),
            (b"\x00\x00\x08\x00", "RANK at least 1"),
            (b"\x00\x00\x08\x03\x00\x00\x00\x02", "16 bytes of header"),
            (idx_bytes(np.zeros((2, 3), np.uint8), 0x08)[:-1], "expected 6 bytes .* but there are 5"),
            (idx_bytes(np.zeros((2, 3), np.uint8), 0x08) + b"\x00", "expected 6 bytes .* but there are 7"),
            (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3), "but there are 0"),
        ],
    )
    def test_refuses_what_is_not_a_whole_array(self, content: bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            idx.parse(content)

    @pytest.mark.parametrize("damage", ["not gzip", "cut", "flipped"])
    def test_refuses_a_damaged_file_and_names_it(self, tmp_path: Path, damage: str) -> None:
        whole = gzip.compress(idx_bytes(np.arange(200, dtype=np.uint8), 0x08), mtime=0)
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
        path = tmp_path / "array.gz"
        path.write_bytes({"not gzip": b"hello", "cut": whole[:-12], "flipped": flipped}[damage])
        with pytest.raises(ValueError, match=r"array\.gz: .*fetch it again"):
            idx.read(path)


class TestLocate:
    def test_takes_the_file_in_the_users_folder_without_a_download(
        self, own_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse_downloads(monkeypatch)
        (own_folder / FILE.path).write_bytes(CONTENT)
        assert locate(FILE) == own_folder / FILE.path

    def test_a_corrupt_file_in_the_users_folder_is_named_and_kept(
        self, own_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse_downloads(monkeypatch)
        (own_folder / FILE.path).write_bytes(CONTENT + b"!")
        with pytest.raises(DataFileError) as caught:
            locate(FILE)
        came = hashlib.md5(CONTENT + b"!").hexdigest()
        for part in (FILE.path, FILE.md5, came, FILE.address, FOLDER_VARIABLE):
            assert part in str(caught.value)
        assert (own_folder / FILE.path).read_bytes() == CONTENT + b"!"

    def test_a_folder_that_does_not_exist_is_an_error_and_not_a_download(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "mistyped"))
        with pytest.raises(DataFileError, match=f"{FOLDER_VARIABLE} should name an existing folder.*mistyped"):
            locate(FILE)

    def test_offline_it_says_what_to_fetch_and_where_to_put_it(
        self, own_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse_downloads(monkeypatch)  # the user's folder is there, but the file is not in it
        with pytest.raises(DataFileError) as caught:
            locate(FILE)
        for part in (FILE.path, FILE.md5, "no network", FILE.address, FOLDER_VARIABLE):
            assert part in str(caught.value)


@needs_data
@pytest.mark.parametrize("load", [mnist, fashion_mnist])
def test_mnist_has_the_published_images(load) -> None:
    images = load()
    assert images.train_x.shape == (60_000, 28, 28) and images.test_x.shape == (10_000, 28, 28)
    assert images.train_x.dtype == images.test_x.dtype == np.float32
    assert images.train_y.dtype == images.test_y.dtype == np.int32
    assert images.train_x.min() == 0 and images.train_x.max() == 1
    assert set(images.train_y.tolist()) == set(images.test_y.tolist()) == set(range(10))


def test_mnist_refuses_an_array_of_another_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.data.mnist.locate", lambda file: Path(file.path))
    monkeypatch.setattr("experiments.data.mnist.idx.read", lambda path: np.zeros((5, 28, 28), np.uint8))
    with pytest.raises(ValueError, match=r"mnist-train-images.*\(60000, 28, 28\).*\(5, 28, 28\)"):
        mnist()
