"""One model's result on disk, saved as soon as it exists; a run that was cut off goes on where it stopped."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claim import read_json, write_json
from experiments.results import written_whole
from experiments.streams.scores import Steps, summary
from experiments.streams.study import Found


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
    """The summary and the scores of a model, on the steps of a mask.

    Raises:
        ValueError: a file is not whole; the message names it.
    """
    content = noted(folder, name, None)
    path = folder / f"{name}.npz"
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            steps = Steps(*(file[f"steps_{field}"] for field in Steps._fields))
            latent = file["latent"] if "latent" in file.files else None
            found = Found(steps, file["mean"], latent, content["chosen"], {})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: expected the whole file of a model's scores, but {error}; remove {folder / name}.json, "
            "and the model is run again"
        ) from error
    return content | summary(steps, mask), found


def note(folder: Path, name: str, content: Any) -> None:
    """Write a small file beside the results."""
    write_json(folder / f"{name}.json", content)


def noted(folder: Path, name: str, otherwise: Any) -> Any:
    """What :func:`note` wrote last, if it did."""
    return read_json(folder / f"{name}.json", otherwise)
