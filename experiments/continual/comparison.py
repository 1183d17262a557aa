"""Several methods on one sequence of tasks: run, choose, write."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.console import Console

from experiments.continual import drawing, summary
from experiments.continual.evaluation import Report, Runner, compile_runner
from experiments.continual.learners import Method, Run, Training
from experiments.continual.networks import Network
from experiments.continual.summary import MethodResult, Pair
from experiments.continual.tasks import Tasks
from experiments.run.cache import Cache
from experiments.run.experiment import Arrays, Content, Experiment
from experiments.run.report import Table
from experiments.run.search import Trial, best, grid


@dataclasses.dataclass(frozen=True)
class Comparison(Experiment):
    """An experiment that compares methods on sequences of tasks: its ``run`` calls ``compare`` for each sequence."""

    def compare(
        self,
        console: Console,
        name: str,
        title: str,
        *,
        methods: Sequence[Method],
        network: Network,
        training: Training,
        tasks: Tasks,
        settings: Mapping[str, Any],
        pairs: Sequence[Pair] = (),
        notes: Mapping[str, Any] | None = None,
        examples: np.ndarray | None = None,
    ) -> Path:
        """Tune and score each method, and write ``output/name``.

        Args:
            console: for progress and tables.
            name: of the folder.
            title: of the page.
            methods: in the order in which they are shown.
            network: for all of them.
            training: for all of them.
            tasks: for as many seeds as there are.
            settings: what results depend on beside the options, the methods and the training.
            pairs: methods to compare seed by seed.
            notes: what is written and is no setting, such as seconds that were measured.
            examples: an image of each task, for pictures.

        Returns:
            The folder.
        """
        seeds = list(range(len(tasks.train_x)))
        depends = {**settings, "training": training._asdict(), "seeds": seeds, "options": self.depends()}
        with self.study(console, name, title, data=tasks, **depends) as study:
            found: dict[str, MethodResult] = {}
            runners: dict[Any, Runner] = {}
            for number, method in enumerate(methods):
                with study.part(", ".join(method.reports), len(grid(method.grid))) as advance:
                    found |= tune(method, network, training, tasks, seeds, study.cache, advance, runners, methods)
                # Compiled runs of a large network are gigabytes and many thousands of mappings.
                later = {_place(other, methods) for other in methods[number + 1 :]}
                runners = {place: runner for place, runner in runners.items() if place in later}
            grids = {report: dict(method.grid) for method in methods for report in method.reports}
            content = summary.build(grids, tasks.names, found, pairs)
            arrays = None if examples is None else {"examples": examples}
            return study.finish(content | dict(notes or {}), arrays)

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Accuracy, other measures, paired differences and choices."""
        return summary.tables(content)

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Means over tasks, and the matrices of accuracies."""
        return drawing.pictures_of(content)


def tune(
    method: Method,
    network: Network,
    training: Training,
    tasks: Tasks,
    seeds: Sequence[int],
    cache: Cache,
    advance: Callable[[], None] = lambda: None,
    runners: dict[Any, Runner] | None = None,
    methods: Sequence[Method] = (),
) -> dict[str, MethodResult]:
    """The test scores of each report at the configuration with the best validation accuracy, mean over seeds.

    Test images never enter a choice; every configuration's test accuracies [S, M] are in ``extra["tried"]`` with its
    validation accuracy. ``advance`` is called after each configuration. Those of ``methods`` with the same run share
    its compiled form through ``runners``, and what it found: one configuration runs once.
    """
    runners = {} if runners is None else runners
    place = _place(method, (method, *methods))
    if place not in runners:
        runners[place] = _remembering(compile_runner(*place, network, training, tasks, seeds))
    runner, trials = runners[place], []
    # What is computed task by task takes as many traces to tell its structure; one program takes one.
    whole = network._replace(side_by_side=True)
    for hyper in grid(method.grid):
        traced = {name: jnp.asarray(value, float) for name, value in hyper.items()}
        reports = cache.recall(
            {"reports": dict(method.reports), "kinds": place[1], "hyper": hyper},
            lambda traced=traced: runner(traced),
            lambda traced=traced: jax.eval_shape(compile_runner(*place, whole, training, tasks, seeds), traced),
        )
        trials.append(Trial(hyper, reports))
        advance()
    return {name: _result(trials, kind, method.scored) for name, kind in method.reports.items()}


def _place(method: Method, methods: Sequence[Method]) -> tuple[Run, tuple[str, ...], tuple[int, ...] | None]:
    """What those of some methods have in common that share a compiled run."""
    sharing = [other for other in methods if (other.run, other.scored) == (method.run, method.scored)]
    return method.run, tuple(sorted({kind for other in sharing for kind in other.reports.values()})), method.scored


def _remembering(runner: Runner) -> Runner:
    found: dict[frozenset[tuple[str, float]], dict[str, Report]] = {}

    def remembered(hyper: dict[str, Array]) -> dict[str, Report]:
        values = frozenset((name, float(value)) for name, value in hyper.items())
        if values not in found:
            found[values] = runner(hyper)
        return found[values]

    return remembered


def _result(trials: Sequence[Trial], kind: str, scored: tuple[int, ...] | None) -> MethodResult:
    def validation(reports: Mapping[str, Report]) -> float:
        return float(reports[kind].val.accuracy.mean())

    chosen = best(trials, validation)
    report: Report = chosen.value[kind]
    tried = [
        {"hyper": one.choice, "validation": validation(one.value), "accuracy": one.value[kind].test.accuracy.tolist()}
        for one in trials
    ]
    return MethodResult(
        *(report.test.accuracy, report.test.nll, report.matrix, chosen.choice, validation(chosen.value), scored),
        ece=report.test.ece,
        start=report.start,
        extra={"tried": tried},
    )
