"""One run in a folder at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_NAME = ".running"


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep ``folder`` to this run while the block lasts; a run that was killed holds it no longer.

    With ``wait``, another run is waited for. The kernel's lock and not the file says who is there, so nothing stale can
    remain. The file itself stays: were it removed, a third run could lock a new one while a second waits for the old.

    Raises:
        RuntimeError: another run has it, and it is not waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _NAME).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            file.seek(0)
            raise RuntimeError(
                f"{folder}: expected no other run in this folder, but process {file.read() or 'unknown'} is at work "
                "there; wait until it is done, or take another folder"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
