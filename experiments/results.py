"""Results of an experiment as one JSON file, written whole or not at all."""

import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments import metrics

_PACKAGES = ("weightfilter", "jax", "jaxlib", "numpy", "flax", "optax", "scikit-learn")


class MethodResult(NamedTuple):
    """What one method reached on the test images of T tasks, for S seeds, and how it was chosen.

    Attributes:
        accuracy: fraction of right answers on each task, in [0, 1].
        nll: mean negative log-likelihood on each task, in nats.
        matrix: ``matrix[s, t, u]`` is the accuracy on task u after training on task t; None where there is no order.
        chosen: hyper-parameters chosen on the validation images.
        validation: mean accuracy of that choice on the validation images.
        scored: the tasks that the columns of ``accuracy`` and ``nll`` stand for, where they are not all.
        ece: expected calibration error on each task, in [0, 1].
        start: accuracy of the untrained network on each task.
        extra: whatever else there is to say, as numbers.
    """

    accuracy: Float[np.ndarray, "S T"]
    nll: Float[np.ndarray, "S T"]
    matrix: Float[np.ndarray, "S T T"] | None
    chosen: Mapping[str, Any]
    validation: float
    scored: tuple[int, ...] | None = None
    ece: Float[np.ndarray, "S T"] | None = None
    start: Float[np.ndarray, "S T"] | None = None
    extra: Mapping[str, Any] | None = None


class Pair(NamedTuple):
    """Two methods to compare, on the tasks named (by position) or on all that both were scored on."""

    better: str
    worse: str
    tasks: tuple[int, ...] | None = None


class Paired(NamedTuple):
    """Mean accuracy of one method less that of another, seed by seed on the same tasks, in [-1, 1]."""

    better: str
    worse: str
    tasks: tuple[int, ...] | None
    difference: float
    standard_error: float | None
    per_seed: list[float]


def standard_error(per_seed: Float[np.ndarray, " S"]) -> float | None:
    """Return the standard error of the mean over seeds, or None for a single seed, which tells nothing about it."""
    if len(per_seed) < 2:
        return None
    return float(np.std(per_seed, ddof=1) / np.sqrt(len(per_seed)))


def paired(methods: Mapping[str, MethodResult], pairs: Sequence[Pair]) -> list[Paired]:
    """Return the difference over seeds for each pair of methods.

    Raises:
        ValueError: a pair names an unknown method, or the two methods differ in their seeds or tasks.
    """
    return [_difference(methods, pair) for pair in pairs]


def build(
    experiment: str,
    *,
    settings: Mapping[str, Any],
    grid: Mapping[str, Any],
    seconds: Mapping[str, float],
    tasks: Sequence[str],
    methods: Mapping[str, MethodResult],
    pairs: Sequence[Pair] = (),
) -> dict[str, Any]:
    """Return the content of ``results.json``: everything needed to print, draw or repeat the experiment.

    Args:
        experiment: its name, and the name of its folder.
        settings: whatever else the run depended on.
        grid: for each method the values its hyper-parameters were chosen from.
        seconds: wall-clock time of each phase.
        tasks: names of the T tasks.
        methods: the result of each method.
        pairs: methods to compare seed by seed.

    Raises:
        ValueError: a result is not finite or has another shape than S seeds by T tasks; the message names the method.
    """
    return {
        "experiment": experiment,
        "settings": dict(settings),
        "grid": dict(grid),
        "versions": versions(),
        "seconds": dict(seconds),
        "tasks": list(tasks),
        "methods": {name: _summary(name, result, len(tasks)) for name, result in methods.items()},
        "paired": [difference._asdict() for difference in paired(methods, pairs)],
    }


def versions() -> dict[str, Any]:
    """Return the versions of Python and of the packages results depend on (None: not installed), and the machine."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"platform": platform.platform(), "cpu_count": os.cpu_count()}


def write(content: Mapping[str, Any], root: Path = Path("results")) -> Path:
    """Write what ``build`` returned to ``ROOT/EXPERIMENT/results.json`` and return that path.

    An earlier file is replaced only once the new one is complete. NumPy and JAX numbers and arrays become numbers and
    lists.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value has no JSON form.
    """
    path = root / content["experiment"] / "results.json"
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    with written_whole(path) as file:
        try:
            for chunk in encoder.iterencode(dict(content)):
                file.write(chunk.encode())
        except ValueError as error:
            raise ValueError(f"{path}: expected finite numbers only, but {error}; the file was not written") from error
        file.write(b"\n")
    return path


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


def _summary(name: str, result: MethodResult, tasks: int) -> dict[str, Any]:
    accuracy = _checked(name, "accuracy", result.accuracy)
    nll = _checked(name, "nll", result.nll)
    scored = range(tasks) if result.scored is None else result.scored
    if accuracy.ndim != 2 or accuracy.shape[1] != len(scored) or nll.shape != accuracy.shape:
        raise ValueError(
            f"method {name!r}: expected accuracy and nll of one shape [S seeds, {len(scored)} tasks], "
            f"but they are {list(accuracy.shape)} and {list(nll.shape)}; pass one row for each seed"
        )
    matrix = None
    if result.matrix is not None:
        matrix = _checked(name, "matrix", result.matrix)
        if matrix.shape != (len(accuracy), tasks, tasks):
            raise ValueError(
                f"method {name!r}: expected a matrix of shape {[len(accuracy), tasks, tasks]}, "
                f"but it is {list(matrix.shape)}; pass None where there is none"
            )
    for key, value in result.chosen.items():
        if isinstance(value, float | np.ndarray | np.generic):
            _checked(name, f"chosen {key}", value)
    per_seed = accuracy.mean(axis=1)

    def per_task(values: Float[np.ndarray, " M"]) -> list[float | None]:
        found = dict(zip(scored, values.tolist(), strict=True))
        return [found.get(task) for task in range(tasks)]

    summary = {
        "accuracy": {
            **_over_seeds(per_seed),
            "per_task": per_task(accuracy.mean(axis=0)),
            "per_task_per_seed": [per_task(row) for row in accuracy],
            "matrix": None if matrix is None else matrix.mean(axis=0).tolist(),
        },
        "nll": {**_over_seeds(nll.mean(axis=1)), "per_task": per_task(nll.mean(axis=0))},
        "chosen": dict(result.chosen),
        "validation": float(_checked(name, "validation", result.validation)),
        **(result.extra or {}),
    }
    if result.ece is not None:
        ece = _checked(name, "ece", result.ece)
        summary["ece"] = {**_over_seeds(ece.mean(axis=1)), "per_task": per_task(ece.mean(axis=0))}
    if matrix is not None and tasks > 1:
        summary["current"] = _over_seeds(metrics.current(matrix))
        summary["backward_transfer"] = _over_seeds(metrics.backward_transfer(matrix))
        summary["forgetting"] = _over_seeds(metrics.forgetting(matrix))
        if result.start is not None:
            start = _checked(name, "start", result.start)
            summary["forward_transfer"] = _over_seeds(metrics.forward_transfer(matrix, start))
    return summary


def _over_seeds(per_seed: Float[np.ndarray, " S"]) -> dict[str, Any]:
    return {
        "mean": float(per_seed.mean()),
        "standard_error": standard_error(per_seed),
        "per_seed": per_seed.tolist(),
    }


def _checked(name: str, field: str, values: Any) -> Float[np.ndarray, "..."]:
    array = np.asarray(values, np.float64)
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(
            f"method {name!r}: expected finite {field}, but {bad} of {array.size} values are NaN or infinite; "
            f"see where the method diverged before results are written"
        )
    return array


def _difference(methods: Mapping[str, MethodResult], pair: Pair) -> Paired:
    for name in (pair.better, pair.worse):
        if name not in methods:
            raise ValueError(f"expected pairs of {', '.join(methods)}, but one names {name!r}; correct the pair")
    first, second = (_columns(name, methods[name]) for name in (pair.better, pair.worse))
    tasks = [task for task in first if task in second] if pair.tasks is None else list(pair.tasks)
    known = bool(tasks) and all(task in first and task in second for task in tasks)
    if not known or len({len(column) for column in (*first.values(), *second.values())}) > 1:
        seeds = [len(next(iter(columns.values()))) for columns in (first, second)]
        raise ValueError(
            f"expected {pair.better!r} and {pair.worse!r} to have the same seeds and tasks, but they have {seeds} "
            f"seeds, and tasks {list(first)} and {list(second)}; run both on the same tasks"
        )
    # Seeds share data and starting weights, so only their differences say whether one method beats the other.
    per_seed = np.mean([first[task] - second[task] for task in tasks], axis=0)
    return Paired(*pair, float(per_seed.mean()), standard_error(per_seed), per_seed.tolist())


def _columns(name: str, result: MethodResult) -> dict[int, Float[np.ndarray, " S"]]:
    """The accuracy on each task it was scored on."""
    accuracy = _checked(name, "accuracy", result.accuracy)
    return dict(zip(range(accuracy.shape[1]) if result.scored is None else result.scored, accuracy.T, strict=True))


def plain(value: Any) -> Any:
    """The JSON form of a NumPy or JAX number or array.

    Raises:
        TypeError: it is none.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"expected numbers, strings, lists and dicts, but {value!r} is a {type(value).__name__}")
