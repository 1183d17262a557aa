"""Tasks that see the same images through different shuffles of the pixels."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import methods, tasks
from experiments.comparison import compare
from experiments.data import digits
from experiments.data.mnist import mnist
from experiments.networks import mlp
from experiments.results import Pair

_PAIRS = (
    Pair("filter", "sequential"),
    Pair("filter", "anchor"),
    Pair("filter", "ewc"),
    Pair("joint", "filter"),
)


def _family(
    rate: float, *, prior: tuple[float, ...], curvature: tuple[float, ...], strength: tuple[float, ...]
) -> tuple[methods.Method, ...]:
    """The methods, trained alike; ``filter`` is the last model, since no task's own would be allowed to forget."""
    rates = {"learning_rate": (rate,)}
    fixed = rates | {"prior": prior}

    def last_model(*arguments: Any) -> dict[str, methods.Models]:
        return {"filter": methods.low_rank(*arguments)["filter_last"]}

    return (
        methods.Method(("sequential",), rates, methods.sequential),
        methods.Method(("anchor",), fixed | {"strength": strength}, methods.anchor),
        methods.Method(("ewc",), fixed | {"curvature": curvature}, methods.ewc),
        methods.Method(("filter",), fixed | {"noise": (0.0,), "curvature": curvature}, last_model),
        methods.Method(("joint",), rates, methods.joint),
    )


@dataclasses.dataclass(frozen=True)
class PermutedDigits:
    """8×8 digits through five fixed shuffles of the pixels, 1,250 images a task."""

    seeds: int = 5
    """Number of seeds: each has other splits, shuffles and starting weights."""
    tasks: int = 5
    """Number of tasks; the first is not shuffled."""
    rank: int = 20
    """Directions kept by the filter."""
    epochs: int = 30
    """Passes over a task's images."""
    output: Path = Path("results")
    """Folder for the results."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        images, labels = digits.load()
        seeds, train, batch_size = range(self.seeds), 1250, 125
        sizes = {"train": train, "val": 200, "test": 347}
        compare(
            "permuted-digits",
            f"Permuted digits, {self.tasks} tasks: test accuracy after the last, %",
            methods=_family(3e-3, prior=(0.1, 1.0), curvature=(5.0, 10.0, 20.0, 40.0), strength=(10.0, 100.0, 1000.0)),
            network=mlp(64, (50, 50), 10),
            training=methods.Training(self.epochs * train // batch_size, batch_size, 500, self.rank),
            tasks=tasks.permuted(images, labels, self.tasks, **sizes, seeds=seeds, train_disjoint=False),
            seeds=seeds,
            settings=sizes | {"hidden": (50, 50)},
            pairs=_PAIRS,
            output=self.output,
            console=console,
        )


@dataclasses.dataclass(frozen=True)
class PermutedMnist:
    """MNIST through five fixed shuffles of the pixels, 10,000 images a task, 784-100-100-10."""

    seeds: int = 3
    """Number of seeds: each has other images, shuffles and starting weights."""
    tasks: int = 5
    """Number of tasks; the first is not shuffled."""
    rank: int = 20
    """Directions kept by the filter."""
    train: int = 10_000
    """Training images a task."""
    epochs: int = 5
    """Passes over a task's images."""
    curvature_examples: int = 1000
    """Images of a task in its curvature."""
    test: int = 2000
    """Test images."""
    output: Path = Path("results")
    """Folder for the results."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        seeds, batch_size = range(self.seeds), 100
        sizes = {"train": self.train, "val": 1000, "test": self.test}
        compare(
            "permuted-mnist",
            f"Permuted MNIST, {self.tasks} tasks: test accuracy after the last, %",
            methods=_family(1e-3, prior=(1.0,), curvature=(10.0, 30.0), strength=(30.0, 100.0, 300.0)),
            network=mlp(784, (100, 100), 10),
            training=methods.Training(
                self.epochs * self.train // batch_size, batch_size, min(self.curvature_examples, self.train), self.rank
            ),
            tasks=tasks.permuted_split(mnist(), self.tasks, **sizes, seeds=seeds),
            seeds=seeds,
            settings=sizes | {"hidden": (100, 100)},
            pairs=_PAIRS,
            output=self.output,
            console=console,
        )
