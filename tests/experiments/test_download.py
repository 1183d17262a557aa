"""Downloads from a server of this test: verified, gone on with after a cut, unpacked in memory."""

import contextlib
import gzip
import hashlib
import http.server
import io
import re
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import killing
import numpy as np
import pooch
import pytest

from experiments.data import npz, series, usps
from experiments.data.files import FOLDER_VARIABLE, DataFileError, RemoteFile, locate

CONTENT = bytes(range(256)) * 2000


class Server:
    """Publishes ``content`` at any address; sends no more than ``cut`` bytes of an answer, ``pause`` between pieces."""

    def __init__(self) -> None:
        self.content, self.cut, self.ranges, self.pause = CONTENT, None, True, 0.0
        self.asked: list[str | None] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.asked.append(asked)
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and outer.ranges else 0
                if start and start >= len(outer.content):
                    self.send_error(416)
                    return
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                body = body if outer.cut is None else body[: outer.cut]
                for at in range(0, len(body), 2**14):
                    with contextlib.suppress(OSError):  # whoever asked was killed
                        self.wfile.write(body[at : at + 2**14])
                    time.sleep(outer.pause)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/some.gz"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def file(self, content: bytes = CONTENT) -> RemoteFile:
        return RemoteFile("vision/some.gz", self.address, hashlib.md5(content).hexdigest())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Server()
    yield found
    found.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    return tmp_path / "weightfilter"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".running")


def started(asked: str) -> int:
    return int(asked.removeprefix("bytes=").removesuffix("-"))


def test_downloads_once_into_the_cache(cache: Path, server: Server) -> None:
    assert locate(server.file()) == locate(server.file()) == cache / "vision/some.gz"
    assert (cache / "vision/some.gz").read_bytes() == CONTENT
    assert server.asked == [None] and files(cache) == ["some.gz"]


def test_a_download_that_was_cut_off_goes_on(cache: Path, server: Server) -> None:
    server.cut = 200_000
    with pytest.raises(DataFileError, match=r"the download failed: .*200000 bytes read") as caught:
        locate(server.file())
    for part in (server.address, FOLDER_VARIABLE, "by hand", "vision/some.gz"):
        assert part in str(caught.value)
    # Once within the call, and where that was cut off too, in the next.
    assert files(cache) == ["some.gz.part"]
    server.cut = None
    assert locate(server.file()).read_bytes() == CONTENT
    # The network's last piece may be lost.
    first, second, third = server.asked
    assert first is None and 100_000 < started(second) < 200_000 < started(third) < 400_000
    assert files(cache) == ["some.gz"]


@pytest.mark.slow
def test_a_killed_download_goes_on(tmp_path: Path, server: Server) -> None:
    server.pause = 0.02
    script = (
        "import sys; from pathlib import Path; from experiments.data.download import download; "
        "download(sys.argv[1], Path(sys.argv[2]), None)"
    )
    command = [sys.executable, "-c", script, server.address, str(tmp_path / "some.gz")]
    process, part = killing.start(command), tmp_path / "some.gz.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size > 100_000):
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert part.exists() and not (tmp_path / "some.gz").exists()
    server.pause, have = 0, part.stat().st_size
    subprocess.run(command, cwd=killing.ROOT, check=True, capture_output=True)
    assert (tmp_path / "some.gz").read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={have}-"] and have < len(CONTENT)


@pytest.mark.parametrize("have", [0, 7, len(CONTENT)])
def test_a_server_without_ranges_sends_all_again(cache: Path, server: Server, have: int) -> None:
    server.ranges = False
    (cache / "vision").mkdir(parents=True)
    (cache / "vision/some.gz.part").write_bytes(CONTENT[:have])
    assert locate(server.file()).read_bytes() == CONTENT


def test_a_part_that_is_complete_is_taken(cache: Path, server: Server) -> None:
    (cache / "vision").mkdir(parents=True)
    (cache / "vision/some.gz.part").write_bytes(CONTENT)
    assert locate(server.file()).read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_part_of_another_file_is_thrown_away(cache: Path, server: Server) -> None:
    (cache / "vision").mkdir(parents=True)
    (cache / "vision/some.gz.part").write_bytes(b"of an older version")
    assert locate(server.file()).read_bytes() == CONTENT
    assert server.asked == ["bytes=19-", None] and files(cache) == ["some.gz"]


def test_a_corrupt_download_leaves_nothing_in_the_cache(cache: Path, server: Server) -> None:
    server.content = b"an error page"
    with pytest.raises(DataFileError) as caught:
        locate(server.file())
    for part in (hashlib.md5(CONTENT).hexdigest(), hashlib.md5(b"an error page").hexdigest(), server.address):
        assert part in str(caught.value)
    assert files(cache) == []


def test_a_corrupt_file_in_the_cache_is_downloaded_again(cache: Path, server: Server) -> None:
    (cache / "vision").mkdir(parents=True)
    (cache / "vision/some.gz").write_bytes(b"half a fi")
    assert locate(server.file()).read_bytes() == CONTENT
    assert server.asked == [None]


def archive(members: dict[str, bytes], link: str | None = None) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
        if link is not None:
            info = zipfile.ZipInfo("link.csv")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, link)
    return packed.getvalue()


@pytest.mark.parametrize("name", ["../outside.csv", "/tmp/outside.csv", "a/../../outside.csv"])
def test_names_in_an_archive_become_no_paths(cache: Path, server: Server, name: str) -> None:
    """It is unpacked in memory: the cache holds the archive alone, and nothing appears beside it."""
    server.content = archive({name: b"a,b\n1,2\n"}, link="/etc/passwd")
    published = series.PublishedText(
        "series/some.csv", f"{server.address}.zip", hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    )
    assert series.text(published) == "a,b\n1,2\n"
    assert files(cache.parent) == ["some.csv.zip"] and not Path("/tmp/outside.csv").exists()


@pytest.mark.parametrize("kind", ["zip", "gz"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, damage: str) -> None:
    content = b"a,b\n1,2\n" * 100
    packed = archive({"some.csv": content}) if kind == "zip" else gzip.compress(content)
    middle = len(packed) // 2
    damaged = (
        packed[:middle] if damage == "cut" else packed[:middle] + bytes([packed[middle] ^ 8]) + packed[middle + 1 :]
    )
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / f"some.csv.{kind}").write_bytes(damaged)
    published = series.PublishedText("some.csv", "https://example.invalid/some", hashlib.sha256(content).hexdigest())
    with pytest.raises(DataFileError, match=rf"expected some\.csv.*{tmp_path}/some\.csv\.{kind} cannot be read"):
        series.text(published)


class TestNpz:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        np.savez(tmp_path / "some.npz", x=np.arange(1000.0), y=np.ones(3))
        return tmp_path / "some.npz"

    def test_reads_the_arrays(self, path: Path) -> None:
        found = npz.read(path, ("x", "y"))
        np.testing.assert_array_equal(found["x"], np.arange(1000.0))

    @pytest.mark.parametrize("damage", ["cut", "flipped", "lacking", "objects", "no zip"])
    def test_what_is_not_whole_is_named(self, path: Path, damage: str) -> None:
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if damage == "objects":
            np.savez(path, x=np.array([{}], dtype=object))
        elif damage != "lacking":
            path.write_bytes({"cut": content[:middle], "flipped": flipped, "no zip": b"hello"}[damage])
        names = ("z",) if damage == "lacking" else ("x",)
        with pytest.raises(ValueError, match=rf"{path}: expected a whole npz file with the arrays .*fetch it again"):
            npz.read(path, names)

    def test_of_a_data_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
        (tmp_path / "vision").mkdir()
        (tmp_path / "vision/usps.npz").write_bytes(b"PK\x03\x04 half of it")
        with pytest.raises(ValueError, match=r"vision/usps\.npz: expected a whole npz file"):
            usps.usps()
