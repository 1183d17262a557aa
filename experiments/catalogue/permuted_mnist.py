"""Tasks that see the same images through different shuffles of the pixels."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from rich.console import Console

from experiments import methods, tasks
from experiments.continual.comparison import compare
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.networks import mlp
from experiments.continual.structures import FORMS, Form, Structure
from experiments.data import digits
from experiments.data.mnist import fashion_mnist, mnist
from experiments.run.experiment import Experiment
from experiments.run.results import Pair

NAMES: Mapping[Form, str] = {"network": "filter", "layer": "layer", "unit": "unit", "kronecker": "kronecker"}
"""What the filter of each structure is called in the results."""


def family(
    rate: float,
    *,
    prior: tuple[float, ...],
    curvature: tuple[float, ...],
    strength: tuple[float, ...],
    rank: int,
    structures: tuple[Form, ...] = FORMS,
) -> tuple[Method, ...]:
    """The methods, trained alike; a filter is its last model, since no task's own would be allowed to forget."""
    rates = {"learning_rate": (rate,)}
    fixed = rates | {"prior": prior}
    filters = {NAMES[form]: Structure(form, rank) for form in structures}
    return (
        Method({"sequential": "last"}, rates, follow(methods.sequential)),
        Method({"anchor": "last"}, fixed | {"strength": strength}, follow(methods.anchor)),
        *(
            Method({name: "last"}, fixed | {"curvature": curvature}, follow(filtering(structure)))
            for name, structure in ({"ewc": Structure("network", 0)} | filters).items()
        ),
        Method({"joint": "joint"}, rates, methods.joint),
    )


def pairs(structures: tuple[Form, ...]) -> tuple[Pair, ...]:
    """The comparisons that claims rest on."""
    names = [NAMES[form] for form in structures]
    return (
        *(Pair(names[0], baseline) for baseline in ("sequential", "anchor", "ewc")),
        *(Pair(better, worse) for worse, better in itertools.pairwise(names)),
        Pair("joint", names[-1]),
    )


@dataclasses.dataclass(frozen=True)
class PermutedDigits(Experiment):
    """8×8 digits through five fixed shuffles of the pixels, 1,250 images a task."""

    seeds: int = 5
    """Number of seeds: each has other splits, shuffles and starting weights."""
    tasks: int = 5
    """Number of tasks; the first is not shuffled."""
    rank: int = 20
    """Directions kept by the filters."""
    epochs: int = 30
    """Passes over a task's images."""
    structures: tuple[Form, ...] = ("network",)
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        images, labels = digits.load()
        seeds, train, batch_size = range(self.seeds), 1250, 125
        sizes = {"train": train, "val": 200, "test": 347}
        compare(
            "permuted-digits",
            f"Permuted digits, {self.tasks} tasks: test accuracy after the last, %",
            methods=family(
                3e-3,
                prior=(0.1, 1.0),
                curvature=(5.0, 10.0, 20.0, 40.0),
                strength=(10.0, 100.0, 1000.0),
                rank=self.rank,
                structures=self.structures,
            ),
            network=mlp(64, (50, 50), 10),
            training=methods.Training(self.epochs * train // batch_size, batch_size, 500),
            tasks=tasks.permuted(images, labels, self.tasks, **sizes, seeds=seeds, train_disjoint=False),
            seeds=seeds,
            settings=sizes | {"hidden": (50, 50), "rank": self.rank},
            pairs=pairs(self.structures),
            **self.place(console),
        )


@dataclasses.dataclass(frozen=True)
class PermutedMnist(Experiment):
    """MNIST through five fixed shuffles of the pixels, 10,000 images a task, 784-100-100-10."""

    published: ClassVar[Mapping[str, Any]] = {"seeds": 5, "tasks": 10, "train": 50_000, "test": 10_000}

    data: Literal["mnist", "fashion-mnist"] = "mnist"
    """The images."""
    seeds: int = 3
    """Number of seeds: each has other images, shuffles and starting weights."""
    tasks: int = 5
    """Number of tasks; the first is not shuffled."""
    rank: int = 20
    """Directions kept by the filters."""
    train: int = 10_000
    """Training images a task."""
    epochs: int = 5
    """Passes over a task's images."""
    curvature_examples: int = 1000
    """Images of a task in its curvature."""
    test: int = 2000
    """Test images."""
    structures: tuple[Form, ...] = ("network", "unit", "kronecker")
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        seeds, batch_size = range(self.seeds), 100
        sizes = {"train": self.train, "val": 1000, "test": self.test}
        images = mnist() if self.data == "mnist" else fashion_mnist()
        compare(
            f"permuted-{self.data}" + (f"-{self.tasks}" if self.tasks != 5 else ""),
            f"Permuted {self.data}, {self.tasks} tasks: test accuracy after the last, %",
            methods=family(
                1e-3,
                prior=(1.0,),
                curvature=(10.0, 30.0),
                strength=(30.0, 100.0, 300.0),
                rank=self.rank,
                structures=self.structures,
            ),
            network=mlp(784, (100, 100), 10),
            training=methods.Training(
                self.epochs * self.train // batch_size, batch_size, min(self.curvature_examples, self.train)
            ),
            tasks=tasks.permuted_split(images, self.tasks, **sizes, seeds=seeds),
            seeds=seeds,
            settings=sizes | {"hidden": (100, 100), "rank": self.rank},
            pairs=pairs(self.structures),
            **self.place(console),
        )
