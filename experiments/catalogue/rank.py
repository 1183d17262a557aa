"""What the rank of the filter buys: accuracy against directions, memory and seconds."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import methods, pictures, tasks
from experiments.continual.comparison import compare
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.networks import mlp
from experiments.continual.structures import Structure
from experiments.data.mnist import mnist
from experiments.run.experiment import Experiment
from experiments.run.results import MethodResult, Pair
from experiments.structure_comparison import costs


@dataclasses.dataclass(frozen=True)
class Rank(Experiment):
    """Permuted MNIST with the low-rank filter over the network, at several ranks."""

    published: ClassVar[Mapping[str, Any]] = {
        "seeds": 5,
        "train": 10_000,
        "curvature_examples": 1000,
    }

    seeds: int = 2
    """Number of seeds: each has other images, shuffles and starting weights."""
    tasks: int = 5
    """Number of tasks; the first is not shuffled."""
    ranks: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    """Directions kept by the filter; 0, which is EWC, is always there."""
    train: int = 5000
    """Training images a task."""
    epochs: int = 5
    """Passes over a task's images."""
    curvature_examples: int = 500
    """Images of a task in its curvature."""
    curvature: tuple[float, ...] = (30.0,)
    """Curvature scales to choose from."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        seeds = range(self.seeds)
        sizes = {"train": self.train, "val": 1000, "test": 2000}
        fixed = {"learning_rate": (1e-3,), "prior": (1.0,), "curvature": self.curvature}
        structures = {f"rank {rank}": Structure("network", rank) for rank in (0, *self.ranks)}
        cost = costs(structures)
        _, found = compare(
            "rank",
            f"Permuted MNIST, {self.tasks} tasks, by rank: test accuracy after the last, %",
            methods=tuple(
                Method({name: "last"}, fixed, follow(filtering(structure))) for name, structure in structures.items()
            ),
            network=mlp(784, (100, 100), 10),
            training=methods.Training(self.epochs * self.train // 100, 100, self.curvature_examples),
            tasks=tasks.permuted_split(mnist(), self.tasks, **sizes, seeds=seeds),
            seeds=seeds,
            settings=sizes | {"hidden": (100, 100)},
            notes={"cost": cost},
            pairs=tuple(Pair(f"rank {rank}", "rank 0") for rank in self.ranks),
            draw=lambda folder, found: pictures.against_cost(
                folder / "rank.png", found, cost, "Permuted MNIST: what the rank buys"
            ),
            **self.place(console),
        )
        console.print(_table(found, cost))


def elbow(found: Mapping[str, MethodResult], within: float = 0.005) -> str:
    """The first method, in order of rank, whose mean accuracy is within half a point of the best."""
    means = {name: float(np.mean(result.accuracy)) for name, result in found.items()}
    return next(name for name, mean in means.items() if mean >= max(means.values()) - within)


def _table(found: Mapping[str, MethodResult], cost: Mapping[str, Mapping[str, float]]) -> Table:
    title = f"What the rank buys; within half a point of the best from {elbow(found)} on"
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("", "accuracy, %", "MB", "update, s"):
        table.add_column(column, justify="right")
    for name, result in found.items():
        accuracy = f"{100 * float(np.mean(result.accuracy)):.1f}"
        table.add_row(name, accuracy, f"{cost[name]['state_bytes'] / 1e6:.1f}", f"{cost[name]['update_seconds']:.2f}")
    return table
