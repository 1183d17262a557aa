"""One run in a folder at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_NAME = ".running"


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep ``folder`` to this run while the block lasts; a run that was killed holds it no longer.

    With ``wait``, another run is waited for. The system's lock and not the file says who is there, so nothing stale can
    remain; who that is stands in a file beside it, since a locked one cannot be read everywhere.

    Raises:
        RuntimeError: another run has it, and it is not waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{_NAME}-by"
    lock = FileLock(folder / _NAME, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout as error:
        who = holder.read_text() if holder.exists() else "unknown"
        raise RuntimeError(
            f"{folder}: expected no other run in this folder, but process {who} is at work there; wait until it is "
            "done, or take another folder"
        ) from error
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
