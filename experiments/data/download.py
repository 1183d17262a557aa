"""Downloads that go on where they were cut off, checked before they are taken for the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch

from lowrank_filter.common.lock import alone

_SECONDS = 30


def download(address: str, target: Path, known_hash: str | None) -> Path:
    """Fetch a file into the cache unless it is there, and return ``target``.

    What has arrived is kept beside it as ``NAME.part``; only the rest is asked for by the next attempt, which may be
    another process. Processes that want files at the same time wait for each other. A file with another checksum is
    thrown away whole and fetched once more, and so is what a server cut short.

    Args:
        address: where it is published.
        target: in the cache.
        known_hash: ``md5:…`` or ``sha256:…``, or None where the caller checks.

    Raises:
        OSError: no connection, an HTTP error, a full disk.
        ValueError: another checksum, twice.
    """
    fetch = _resuming(target.with_name(f"{target.name}.part"))
    with alone(target.parent, wait=True):
        for last in (False, True):
            try:
                # pooch checks a temporary name and only then renames it: what is not whole is never taken for the file.
                pooch.retrieve(
                    address, known_hash=known_hash, fname=target.name, path=str(target.parent), downloader=fetch
                )
                break
            except (OSError, ValueError):
                if last:
                    raise
    return target


def _resuming(part: Path) -> Callable[..., None]:
    """A downloader for pooch: appends to ``part``, and renames it to what pooch checks when it is complete."""

    def fetch(url: str, output_file: Any, _: Any) -> None:
        import requests  # noqa: PLC0415  half a second to import, and mostly not needed

        have = part.stat().st_size if part.exists() else 0
        # Not compressed on the way: the range counts bytes of the file itself.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=_SECONDS) as answer:
            if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
                # Nothing is left of the file to send: it is complete, or else its checksum will tell.
                part.replace(output_file)
                return
            answer.raise_for_status()
            # A server that knows no ranges sends all of it again.
            with part.open("ab" if answer.status_code == requests.codes.partial_content else "wb") as file:
                for chunk in answer.iter_content(2**16):
                    file.write(chunk)
        part.replace(output_file)

    return fetch
