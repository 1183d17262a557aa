"""Results as tables in the terminal."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.results import MethodResult, Paired, standard_error

_NOISES = {
    "none": "No process noise",
    "scalar": "The same for all weights",
    "convolutions": "On the convolutions",
    "dense": "On the dense layers",
    "relative": "Relative to each layer",
    "evidence": "By the evidence",
}
LABELS = {
    "sequential": "Sequential training",
    "anchor": "L2 anchor",
    "ewc": "EWC",
    "filter_last": "Low-rank filter, last model",
    "filter": "Low-rank filter",
    "smoother": "Smoother",
    "forecast": "Forecast, task unseen",
    "interpolated": "Smoother, task unseen",
    "layer": "Low rank for each layer",
    "unit": "Low rank for each unit",
    "kronecker": "Kronecker filter",
    "kronecker_filter_last": "Kronecker filter, last model",
    "kronecker_filter": "Kronecker filter",
    "kronecker_smoother": "Kronecker smoother",
    "osla": "OSLA, nearest product",
    "osla_sum": "OSLA, every task's factors",
    "neighbours": "Neighbours' average, task unseen",
    "kronecker_forecast": "Kronecker forecast, task unseen",
    "kronecker_neighbours": "Kronecker neighbours' average, task unseen",
    "kronecker_interpolated": "Kronecker smoother, task unseen",
    **_NOISES,
    **{f"{name}_own": f"{text}, at each task" for name, text in _NOISES.items()},
    "lofi": "LO-FI, one pass",
    "alone": "Each task alone",
    "joint": "Joint training",
}
"""What tables and pictures call each method."""


def label(method: str) -> str:
    """Return the readable name of a method, or its own name where there is no other."""
    return LABELS.get(method, method)


def print_table(
    console: Console,
    title: str,
    tasks: Sequence[str],
    methods: Mapping[str, MethodResult],
    references: Collection[str] = ("joint",),
) -> None:
    """Print accuracies in percent: mean ± standard error over seeds, and each task.

    The best mean is bold. ``references`` (methods that see all tasks at once) come last and do not compete for it.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("method", no_wrap=True)
    table.add_column("mean ± s.e.", justify="right", no_wrap=True)
    for task in tasks:
        table.add_column(task, justify="right", no_wrap=True)

    ordered = sorted(methods, key=lambda name: name in references)
    means = {name: float(np.mean(methods[name].accuracy)) for name in methods}
    # A method scored on other tasks is not in the same race.
    racing = [name for name in ordered if name not in references and methods[name].scored is None]
    best = max((means[name] for name in racing), default=None)
    for position, name in enumerate(ordered):
        result = methods[name]
        accuracy = np.asarray(result.accuracy)
        mean = _with_error(means[name], standard_error(accuracy.mean(axis=1)))
        followed_by_references = position + 1 < len(ordered) and ordered[position + 1] in references
        table.add_row(
            label(name),
            f"[bold]{mean}[/bold]" if means[name] == best and name in racing else mean,
            *_cells(accuracy.mean(axis=0), result.scored, len(tasks)),
            style="dim" if name in references else None,
            end_section=followed_by_references and name not in references,
        )
    console.print(table)


def print_chosen(console: Console, methods: Mapping[str, MethodResult]) -> None:
    """Print the hyper-parameters that the validation images chose for each method."""
    console.print("[bold]Chosen on validation images[/bold]")
    for name, result in methods.items():
        console.print(f"  {label(name)}: {short(result.chosen)}", highlight=False)


def print_paired(console: Console, tasks: Sequence[str], differences: Sequence[Paired]) -> None:
    """Print differences in mean accuracy in points of percent: mean ± standard error, seeds won, and every seed."""
    table = Table(title="Paired differences over seeds (points)", title_justify="left", title_style="bold")
    table.add_column("method less the other", overflow="fold")
    table.add_column("tasks", overflow="fold")
    table.add_column("mean ± s.e.", justify="right", no_wrap=True)
    table.add_column("won", justify="right", no_wrap=True)
    table.add_column("each seed", justify="right", overflow="fold")
    for difference in differences:
        table.add_row(
            f"{label(difference.better)} – {label(difference.worse)}",
            "all" if difference.tasks is None else ", ".join(tasks[task] for task in difference.tasks),
            _with_error(difference.difference, difference.standard_error, sign="+"),
            f"{sum(value > 0 for value in difference.per_seed)} of {len(difference.per_seed)}",
            "  ".join(f"{100 * value:+.1f}" for value in difference.per_seed),
        )
    console.print(table)


def short(chosen: Mapping[str, Any]) -> str:
    """Return hyper-parameters in one line, such as ``rank=10 noise=0.3``, with four digits at most."""
    return " ".join(f"{key}={_brief(value)}" for key, value in chosen.items()) or "–"


def _brief(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


def _cells(per_task: np.ndarray, scored: Sequence[int] | None, tasks: int) -> list[str]:
    shown = dict(zip(range(tasks) if scored is None else scored, per_task, strict=True))
    return [_percent(shown[task]) if task in shown else "" for task in range(tasks)]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _with_error(mean: float, error: float | None, sign: str = "") -> str:
    return f"{100 * mean:{sign}.1f}" if error is None else f"{100 * mean:{sign}.1f} ± {100 * error:.1f}"
