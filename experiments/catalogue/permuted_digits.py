"""8×8 digits through five fixed shuffles of the pixels: what is retained."""

import dataclasses

from rich.console import Console

from experiments.continual import learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.families import retained, retaining
from experiments.continual.networks import mlp
from experiments.continual.structures import Form
from experiments.data import digits
from experiments.run.options import Count, Natural


@dataclasses.dataclass(frozen=True)
class PermutedDigits(Comparison):
    """8×8 digits through five fixed shuffles of the pixels, 1,250 images a task."""

    seeds: Count = 5
    """Number of seeds: each has other splits, shuffles and starting weights."""
    tasks: Count = 5
    """Number of tasks; the first is not shuffled."""
    rank: Natural = 20
    """Directions kept by the filters."""
    epochs: Count = 30
    """Passes over a task's images."""
    structures: tuple[Form, ...] = ("network",)
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        images, labels = digits.load()
        seeds, train, batch_size = range(self.seeds), 1250, 125
        sizes = {"train": train, "val": 200, "test": 347}
        self.compare(
            console,
            "permuted-digits",
            f"Permuted digits, {self.tasks} tasks: test accuracy after the last, %",
            methods=retaining(
                3e-3,
                prior=(0.1, 1.0),
                curvature=(5.0, 10.0, 20.0, 40.0),
                strength=(10.0, 100.0, 1000.0),
                rank=self.rank,
                structures=self.structures,
            ),
            network=mlp(64, (50, 50), 10),
            training=learners.Training(self.epochs * train // batch_size, batch_size, 500),
            tasks=tasks.permuted(images, labels, self.tasks, **sizes, seeds=seeds, train_disjoint=False),
            settings=sizes | {"hidden": (50, 50)},
            pairs=retained(self.structures),
        )
