"""Several methods on one sequence of tasks: run, choose, write, print and draw."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments import pages, pictures, results, tables
from experiments.claim import claimed
from experiments.methods import Method, Training
from experiments.networks import Network
from experiments.results import MethodResult, Pair
from experiments.tasks import Tasks
from experiments.tuning import Runner, configurations, tune
from experiments.unfinished import Unfinished

Draw = Callable[[Path, Mapping[str, MethodResult]], None]


def compare(
    name: str,
    title: str,
    *,
    methods: Sequence[Method],
    network: Network,
    training: Training,
    tasks: Tasks,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    pairs: Sequence[Pair],
    output: Path,
    console: Console,
    options: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    resume: bool = True,
    draw: Draw | None = None,
) -> tuple[Path, dict[str, MethodResult]]:
    """Tune and score each method, write ``output/NAME/results.json``, and print the tables.

    Args:
        settings: what the results depend on, beside the methods, the training and the seeds.
        options: whatever else the results depend on; an interrupted run with other ones is not gone on with.
        notes: what is written beside the settings and is none, such as seconds that were measured.
        resume: whether to go on with what an interrupted run kept.
        draw: (folder, results) → None, for pictures of its own.

    Returns:
        The folder of the results, and each report's result in the order of the methods.

    Raises:
        RuntimeError: another run is at work in ``output/NAME``.
        SettingsChangedError: an interrupted run there had other settings.
    """
    settings = {**settings, "training": training._asdict(), "seeds": list(seeds)}
    folder = output / name / "unfinished"
    depends = settings | {"tasks": tasks.names} | {f"option {key}": value for key, value in (options or {}).items()}
    arguments = (name, title, methods, network, training, tasks, seeds, settings | dict(notes or {}), pairs)
    with claimed(folder, depends, resume=resume):
        return _compare(*arguments, output, console, Unfinished(folder, depends), draw)


def _compare(
    name: str,
    title: str,
    methods: Sequence[Method],
    network: Network,
    training: Training,
    tasks: Tasks,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    pairs: Sequence[Pair],
    output: Path,
    console: Console,
    unfinished: Unfinished,
    draw: Draw | None,
) -> tuple[Path, dict[str, MethodResult]]:
    found: dict[str, MethodResult] = {}
    seconds: dict[str, float] = {}
    runners: dict[Any, Runner] = {}
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for method in methods:
            label = ", ".join(method.reports)
            bar = progress.add_task(label, total=sum(1 for _ in configurations(method)))
            began = time.perf_counter()
            found |= tune(
                *(method, network, training, tasks, seeds),
                advance=lambda bar=bar: progress.advance(bar),
                unfinished=unfinished,
                runners=runners,
            )
            seconds[label] = time.perf_counter() - began
    path = results.write(
        results.build(
            name,
            settings=settings,
            grid={report: dict(method.grid) for method in methods for report in method.reports},
            seconds=seconds,
            tasks=tasks.names,
            methods=found,
            pairs=pairs,
        ),
        output,
    )
    tables.print_table(console, title, tasks.names, found)
    tables.print_chosen(console, found)
    tables.print_paired(console, tasks.names, results.paired(found, pairs))
    pictures.means(path.parent / "means.png", found, title)
    with_matrix = {name: result for name, result in found.items() if result.matrix is not None and name != "filter"}
    pictures.accuracy_matrices(path.parent / "matrices.png", tasks.names, with_matrix)
    if draw is not None:
        draw(path.parent, found)
    pages.write_page(path.parent, title)
    unfinished.clear()
    return path.parent, found
