"""What the rank of the filter buys: accuracy against directions, memory and seconds."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from rich.console import Console

from experiments import methods, tasks
from experiments.comparison import compare
from experiments.data.mnist import mnist
from experiments.methods import Method, filtering, follow
from experiments.networks import mlp
from experiments.presets import Experiment
from experiments.results import Pair
from experiments.structures import Structure


@dataclasses.dataclass(frozen=True)
class Rank(Experiment):
    """Permuted MNIST with the low-rank filter over the network, at several ranks."""

    published: ClassVar[Mapping[str, Any]] = {
        "seeds": 5,
        "ranks": (1, 2, 5, 10, 20, 50, 100),
        "train": 10_000,
        "curvature_examples": 1000,
    }

    seeds: int = 2
    """Number of seeds: each has other images, shuffles and starting weights."""
    tasks: int = 5
    """Number of tasks; the first is not shuffled."""
    ranks: tuple[int, ...] = (1, 5, 20, 50)
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
        network = mlp(784, (100, 100), 10)
        compare(
            "rank",
            f"Permuted MNIST, {self.tasks} tasks, by rank: test accuracy after the last, %",
            methods=tuple(
                Method({name: "last"}, fixed, follow(filtering(structure))) for name, structure in structures.items()
            ),
            network=network,
            training=methods.Training(self.epochs * self.train // 100, 100, self.curvature_examples),
            tasks=tasks.permuted_split(mnist(), self.tasks, **sizes, seeds=seeds),
            seeds=seeds,
            settings=sizes
            | {"hidden": (100, 100), "state_bytes": {name: one.bytes(network) for name, one in structures.items()}},
            pairs=tuple(Pair(f"rank {rank}", "rank 0") for rank in self.ranks),
            output=self.output,
            console=console,
        )
