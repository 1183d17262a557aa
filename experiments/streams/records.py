"""One model's result on disk, saved as soon as it exists; a run that was cut off goes on where it stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import written_whole
from experiments.streams.scores import Steps, summary
from experiments.streams.study import Found


class SettingsChangedError(RuntimeError):
    """The folder holds results of other settings."""


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make ``folder`` the place of results with these settings.

    Raises:
        SettingsChangedError: it holds results of other ones; the message shows each difference.
    """
    path = folder / "settings.json"
    plain = json.loads(json.dumps(settings))
    if before := noted(folder, "settings", None):
        keys = sorted(key for key in {*before, *plain} if before.get(key) != plain.get(key))
        if keys:
            raise SettingsChangedError(
                f"{path}: expected the settings of the results that are there, but "
                + "; ".join(f"{key} was {before.get(key)!r} and is {plain.get(key)!r}" for key in keys)
                + f". Delete {folder} to start anew, or choose another --output"
            )
        return
    note(folder, "settings", plain)


def exists(folder: Path, name: str) -> bool:
    """Whether a model's result is complete: its choice is written last."""
    return (folder / f"{name}.json").exists()


def save(folder: Path, name: str, found: Found) -> None:
    """Write a model's scores and its summary."""
    arrays = {f"steps_{field}": np.asarray(value, np.float32) for field, value in found.steps._asdict().items()}
    arrays["mean"] = np.asarray(found.mean, np.float32)
    if found.latent is not None:
        arrays["latent"] = found.latent
    with written_whole(folder / f"{name}.npz") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    note(folder, name, found.info | {"chosen": found.chosen})


def load(folder: Path, name: str, mask: np.ndarray | None) -> tuple[dict[str, Any], Found]:
    """The summary and the scores of a model, on the steps of a mask."""
    content = noted(folder, name, None)
    with np.load(folder / f"{name}.npz") as file:
        steps = Steps(*(file[f"steps_{field}"] for field in Steps._fields))
        latent = file["latent"] if "latent" in file.files else None
        found = Found(steps, file["mean"], latent, content["chosen"], {})
    return content | summary(steps, mask), found


def note(folder: Path, name: str, content: Any) -> None:
    """Write a small file beside the results."""
    with written_whole(folder / f"{name}.json") as file:
        file.write(json.dumps(content, indent=2, allow_nan=False).encode())


def noted(folder: Path, name: str, otherwise: Any) -> Any:
    """What :func:`note` wrote last, if it did."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise
