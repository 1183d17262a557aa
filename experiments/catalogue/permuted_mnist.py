"""MNIST through five fixed shuffles of the pixels: what is retained."""

import dataclasses
from typing import ClassVar, Literal

from rich.console import Console

from experiments.continual import learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.families import retained, retaining
from experiments.continual.networks import mlp
from experiments.continual.structures import Form
from experiments.data.mnist import fashion_mnist, mnist
from experiments.run.options import Count, Natural


@dataclasses.dataclass(frozen=True)
class PermutedMnist(Comparison):
    """MNIST through five fixed shuffles of the pixels, 10,000 images a task, 784-100-100-10."""

    presets: ClassVar = {"published": {"seeds": 5, "tasks": 10, "train": 50_000, "test": 10_000}}

    data: Literal["mnist", "fashion-mnist"] = "mnist"
    """The images."""
    seeds: Count = 3
    """Number of seeds: each has other images, shuffles and starting weights."""
    tasks: Count = 5
    """Number of tasks; the first is not shuffled."""
    rank: Natural = 20
    """Directions kept by the filters."""
    train: Count = 10_000
    """Training images a task."""
    epochs: Count = 5
    """Passes over a task's images."""
    curvature_examples: Count = 1000
    """Images of a task in its curvature."""
    test: Count = 2000
    """Test images."""
    structures: tuple[Form, ...] = ("network", "unit", "kronecker")
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        seeds, batch_size = range(self.seeds), 100
        sizes = {"train": self.train, "val": 1000, "test": self.test}
        images = mnist() if self.data == "mnist" else fashion_mnist()
        self.compare(
            console,
            f"permuted-{self.data}" + (f"-{self.tasks}" if self.tasks != 5 else ""),
            f"Permuted {self.data}, {self.tasks} tasks: test accuracy after the last, %",
            methods=retaining(
                1e-3,
                prior=(1.0,),
                curvature=(10.0, 30.0),
                strength=(30.0, 100.0, 300.0),
                rank=self.rank,
                structures=self.structures,
            ),
            network=mlp(784, (100, 100), 10),
            training=learners.Training(
                self.epochs * self.train // batch_size, batch_size, min(self.curvature_examples, self.train)
            ),
            tasks=tasks.permuted_split(images, self.tasks, **sizes, seeds=seeds),
            settings=sizes | {"hidden": (100, 100)},
            pairs=retained(self.structures),
        )
