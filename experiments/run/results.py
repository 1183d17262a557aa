"""Results: one JSON file, written whole or not at all, and one tidy frame of all scores in it."""

import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

_PACKAGES = ("weightfilter", "jax", "jaxlib", "numpy", "flax", "optax", "scikit-learn")
COLUMNS = ("variant", "method", "metric", "task", "seed", "value")


def versions() -> dict[str, Any]:
    """The versions of Python and of the packages results depend on (None: not installed), and the machine."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"platform": platform.platform(), "cpu_count": os.cpu_count()}


def standard_error(per_seed: Float[np.ndarray, " S"]) -> float | None:
    """The standard error of the mean over seeds, or None for a single seed, which tells nothing about it."""
    if len(per_seed) < 2:
        return None
    return float(np.std(per_seed, ddof=1) / np.sqrt(len(per_seed)))


def over_seeds(per_seed: Any) -> dict[str, Any]:
    """Mean, standard error and each seed's value; None for what is not finite."""
    values = per_seed if isinstance(per_seed, np.ndarray) else np.asarray(per_seed, np.float64)
    error = standard_error(values) if np.isfinite(values).all() else None
    return {"mean": number(values.mean()), "standard_error": error, "per_seed": [number(value) for value in values]}


def number(value: Any) -> float | None:
    """A plain number, or None for one that is not finite, which JSON has no form for."""
    return float(value) if np.isfinite(value) else None


def finite(name: str, values: Any) -> Float[np.ndarray, "..."]:
    """The values as an array.

    Raises:
        ValueError: some are NaN or infinite; the message begins with ``name``.
    """
    array = np.asarray(values, np.float64)
    if bad := int(np.count_nonzero(~np.isfinite(array))):
        raise ValueError(
            f"{name}: expected finite numbers, but {bad} of {array.size} are NaN or infinite; "
            "see where the method diverged before results are written"
        )
    return array


def collect(scores: Sequence[tuple[str, str, str, float]]) -> dict[str, Any]:
    """The content of results.json of scores (variant, method, metric, value), one for each seed in order."""
    frame = pd.DataFrame(scores, columns=["variant", "method", "metric", "value"])
    found: dict[str, Any] = {}
    for (variant, method, metric), part in frame.groupby(["variant", "method", "metric"], sort=False):
        place = found.setdefault("variants", {}).setdefault(variant, {}) if variant else found
        place.setdefault("methods", {}).setdefault(method, {})[metric] = over_seeds(part["value"])
    return found


def frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """All scores of results.json, one a row: variant ("" if there are none), method, metric, task, seed, value.

    The task is None for a mean over tasks, the seed None for what is known of all seeds together.
    """
    rows: list[tuple] = []
    tasks = content.get("tasks", ())
    for variant, part in content.get("variants", {"": content}).items():
        methods = part.get("methods") or part.get("models") or {}
        for method, metric, value in ((name, *one) for name, found in methods.items() for one in found.items()):
            lead = (variant, method, metric)
            if isinstance(value, int | float):
                rows.append((*lead, None, None, value))
            elif isinstance(value, Mapping) and "per_seed" in value and metric != "curve":
                rows += [(*lead, None, *one) for one in enumerate(value["per_seed"])]
                for seed, per_task in enumerate(value.get("per_task_per_seed", ())):
                    rows += [(*lead, task, seed, one) for task, one in zip(tasks, per_task, strict=True)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def difference(
    scores: pd.DataFrame, better: str, worse: str, metric: str, tasks: Sequence[str] | None = None
) -> list[float]:
    """Of two methods with the same seeds, in each: only their differences say whether one beats the other.

    ``tasks`` are those compared; by default all that both were scored on, or their means where there are no tasks.

    Raises:
        ValueError: an unknown method, or other seeds or tasks.
    """
    part = scores[scores["metric"] == metric]
    for name in (better, worse):
        if name not in set(part["method"]):
            raise ValueError(
                f"expected pairs of {', '.join(part['method'].unique())}, but one names {name!r}; correct the pair"
            )
    if not part["task"].isna().all():
        part = part.dropna(subset=["task", "value"])
    part = part.assign(task=part["task"].fillna(""))
    tables = [
        part[part["method"] == name].pivot_table(index="seed", columns="task", values="value", sort=False)
        for name in (better, worse)
    ]
    wanted = [task for task in tables[0] if task in tables[1]] if tasks is None else list(tasks)
    known = bool(wanted) and all(task in table for table in tables for task in wanted)
    if not known or len(tables[0]) != len(tables[1]):
        raise ValueError(
            f"expected {better!r} and {worse!r} to have the same seeds and tasks, but they have "
            f"{[len(table) for table in tables]} seeds, and tasks {[list(table) for table in tables]}; "
            "run both on the same tasks"
        )
    return np.mean([(tables[0][task] - tables[1][task]).to_numpy(float) for task in wanted], axis=0).tolist()


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write a JSON file; an earlier one is replaced only once the new one is complete.

    NumPy and JAX numbers and arrays become numbers and lists.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value has no JSON form.
    """
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    with written_whole(path) as file:
        try:
            for chunk in encoder.iterencode(dict(content)):
                file.write(chunk.encode())
        except ValueError as error:
            raise ValueError(f"{path}: expected finite numbers only, but {error}; the file was not written") from error
        file.write(b"\n")


def read(folder: Path) -> dict[str, Any]:
    """The content of a folder's results.json.

    Raises:
        ValueError: there is none, or it is not whole.
    """
    path = folder / "results.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a whole JSON file of results, but {error}; run the experiment") from error


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at ``path`` complete when the block ends, and not at all when the block raises.

    Missing folders are made. The bytes go to a temporary name in the same folder, where renaming is atomic.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a crash soon after could leave the new name with old or no content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """The JSON form of a NumPy or JAX number or array.

    Raises:
        TypeError: it is none.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected numbers, strings, lists and dicts, but {value!r} is a {type(value).__name__}")
