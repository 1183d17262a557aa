"""A folder that one run at a time works in, and that keeps what belongs to one set of settings."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.results import plain, written_whole
from lowrank_filter.common.lock import alone


class SettingsChangedError(RuntimeError):
    """The folder holds results of other settings."""


@contextlib.contextmanager
def claimed(folder: Path, settings: Mapping[str, Any], *, resume: bool = True) -> Iterator[None]:
    """Work on what is kept in ``folder``, alone in the folder around it.

    Args:
        folder: kept from run to run; made where it is missing.
        settings: all that its content depends on.
        resume: whether to go on with what is there; otherwise it is removed first.

    Raises:
        RuntimeError: another run is at work in the folder around it.
        SettingsChangedError: what is kept there has other settings; the message shows each difference.
        ValueError: the note of its settings cannot be read.
    """
    with alone(folder.parent):
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        path = folder / "settings.json"
        now = json.loads(json.dumps(settings, default=plain))
        before = read_json(path, now)
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        if names:
            raise SettingsChangedError(
                f"{path}: expected the settings of the results that are there, but "
                + "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)
                + f". Take another --output, or remove {folder} (--no-resume) to start anew"
            )
        if not path.exists():
            write_json(path, now)
        yield


def write_json(path: Path, content: Any) -> None:
    """Write a small file, whole or not at all."""
    with written_whole(path) as file:
        file.write(json.dumps(content, indent=2, allow_nan=False).encode())


def read_json(path: Path, otherwise: Any) -> Any:
    """The content of a file, or ``otherwise`` where there is none.

    Raises:
        ValueError: it is no whole JSON file.
    """
    if not path.exists():
        return otherwise
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected a whole JSON file, but {error}; remove it and run again") from error
