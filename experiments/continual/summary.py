"""What results.json and the page say of methods on a sequence of tasks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.continual import metrics
from experiments.run import results
from experiments.run.labels import label
from experiments.run.report import Table, brief, shown
from experiments.run.results import finite, over_seeds


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


def build(
    grid: Mapping[str, Any], tasks: Sequence[str], methods: Mapping[str, MethodResult], pairs: Sequence[Pair] = ()
) -> dict[str, Any]:
    """The part of results.json that the methods fill; ``pairs`` are those to compare seed by seed.

    Raises:
        ValueError: a result is not finite or has another shape than S seeds by T tasks, or a pair cannot be compared.
    """
    summaries = {name: _summary(f"method {name!r}", result, tasks) for name, result in methods.items()}
    content = {"grid": dict(grid), "tasks": list(tasks), "methods": summaries}
    frame = results.frame(content)
    paired = []
    for pair in pairs:
        named = None if pair.tasks is None else [tasks[task] for task in pair.tasks]
        found = over_seeds(results.difference(frame, pair.better, pair.worse, "accuracy", named))
        paired.append(pair._asdict() | {"difference": found.pop("mean")} | found)
    return content | {"paired": paired}


def _summary(name: str, result: MethodResult, tasks: Sequence[str]) -> dict[str, Any]:
    accuracy, nll = finite(f"{name}, accuracy", result.accuracy), finite(f"{name}, nll", result.nll)
    scored = range(len(tasks)) if result.scored is None else result.scored
    if accuracy.ndim != 2 or accuracy.shape[1] != len(scored) or nll.shape != accuracy.shape:
        raise ValueError(
            f"{name}: expected accuracy and nll of one shape [S seeds, {len(scored)} tasks], "
            f"but they are {list(accuracy.shape)} and {list(nll.shape)}; pass one row for each seed"
        )
    matrix = None if result.matrix is None else finite(f"{name}, matrix", result.matrix)
    if matrix is not None and matrix.shape != (len(accuracy), len(tasks), len(tasks)):
        raise ValueError(
            f"{name}: expected a matrix of shape {[len(accuracy), len(tasks), len(tasks)]}, "
            f"but it is {list(matrix.shape)}; pass None where there is none"
        )
    for key, value in result.chosen.items():
        if isinstance(value, float | np.ndarray | np.generic):
            finite(f"{name}, chosen {key}", value)

    def per_task(values: Float[np.ndarray, " M"]) -> list[float | None]:
        found = dict(zip(scored, values.tolist(), strict=True))
        return [found.get(task) for task in range(len(tasks))]

    def summary(values: Float[np.ndarray, "S M"]) -> dict[str, Any]:
        return {**over_seeds(values.mean(axis=1)), "per_task": per_task(values.mean(axis=0))}

    found = {
        "accuracy": {
            **summary(accuracy),
            "per_task_per_seed": [per_task(row) for row in accuracy],
            "matrix": None if matrix is None else matrix.mean(axis=0).tolist(),
        },
        "nll": summary(nll),
        "chosen": dict(result.chosen),
        "validation": float(finite(f"{name}, validation", result.validation)),
        **(result.extra or {}),
    }
    if result.ece is not None:
        found["ece"] = summary(finite(f"{name}, ece", result.ece))
    if matrix is not None and len(tasks) > 1:
        for each in (metrics.current, metrics.backward_transfer, metrics.forgetting):
            found[each.__name__] = over_seeds(each(matrix))
        if result.start is not None:
            start = finite(f"{name}, start", result.start)
            found["forward_transfer"] = over_seeds(metrics.forward_transfer(matrix, start))
    return found


def tables(content: Mapping[str, Any]) -> dict[str, Table | str]:
    """The parts of a page: accuracy, its curve over tasks, other measures, paired differences, choices."""
    methods, tasks = content["methods"], content["tasks"] if len(content["tasks"]) <= 10 else []
    seeds = len(next(iter(methods.values()))["accuracy"]["per_seed"])
    rows = [
        [label(name), _percent(found["accuracy"]["per_seed"])]
        + ["" if value is None else f"{100 * value:.1f}" for value in found["accuracy"]["per_task"][: len(tasks)]]
        for name, found in methods.items()
    ]
    caption = f"Test accuracy, %, mean ± standard error over {seeds} seeds."
    parts: dict[str, Table | str] = {"accuracy": Table(["method", "mean", *tasks], rows, caption)}
    if any("curve" in found for found in methods.values()):
        parts |= _curves(content)
    columns = {
        "NLL": ("nll", 1, ".3f"),
        "ECE, %": ("ece", 100, ".1f"),
        "current, %": ("current", 100, ".1f"),
        "backward": ("backward_transfer", 100, "+.1f"),
        "forward": ("forward_transfer", 100, "+.1f"),
        "forgetting": ("forgetting", 100, ".1f"),
    }
    rows = [
        [label(name)]
        + [f"{scale * found[key]['mean']:{form}}" if key in found else "" for key, scale, form in columns.values()]
        for name, found in methods.items()
    ]
    parts["measures"] = Table(["method", *columns], rows)
    if content["paired"]:
        parts["paired"] = Table(
            ["methods", "tasks", "mean", "won", "each seed"],
            [_pair(pair, content["tasks"]) for pair in content["paired"]],
            "Paired differences, points.",
            words=2,
        )
    choices = "\n".join(f"- {label(name)}: {brief(found['chosen'])}" for name, found in methods.items())
    parts["chosen"] = f"Chosen on validation images:\n\n{choices}"
    return parts


def _pair(pair: Mapping[str, Any], tasks: list[str]) -> list[str]:
    seeds = pair["per_seed"]
    named = "all" if pair["tasks"] is None else ", ".join(tasks[task] for task in pair["tasks"])
    won = f"{sum(value > 0 for value in seeds)} of {len(seeds)}"
    each = "  ".join(f"{100 * value:+.1f}" for value in seeds)
    return [f"{label(pair['better'])} – {label(pair['worse'])}", named, _percent(seeds, "+.1f"), won, each]


def _curves(content: Mapping[str, Any]) -> dict[str, Table]:
    methods = {name: found for name, found in content["methods"].items() if len(found["curve"]["tasks"]) > 1}
    tasks = next(iter(methods.values()))["curve"]["tasks"]
    rows = []
    for name, found in methods.items():
        seconds = sorted(found["seconds_per_task"][0])
        accuracy = [f"{100 * mean:.2f}" for mean in found["curve"]["mean"]]
        cost = f"{found['state_bytes'] / 1e6:.1f}", f"{found.get('update_seconds', 0):.2f}"
        rows.append([label(name), *accuracy, *cost, f"{seconds[len(seconds) // 2]:.1f}"])
    head = ["method", *(f"{task} tasks" for task in tasks), "MB", "update, s", "task, s"]
    caption = "Accuracy averaged over the tasks so far, %; memory of the state, median seconds."
    parts = {"curve": Table(head, rows, caption)}
    differences = [
        [f"{label(pair['better'])} – {label(pair['worse'])}"]
        + [
            _percent(column, "+.2f")
            for column in np.subtract(*(methods[pair[side]]["curve"]["per_seed"] for side in ("better", "worse"))).T
        ]
        for pair in content["paired"]
        if {pair["better"], pair["worse"]} <= set(methods)
    ]
    if differences:
        caption = "Their paired differences, points."
        parts["curve-paired"] = Table(["methods", *head[1:-3]], differences, caption)
    return parts


def _percent(per_seed: Sequence[float] | np.ndarray, form: str = ".1f") -> str:
    return shown(per_seed, 100, form)
