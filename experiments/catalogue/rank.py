"""What the rank of the filter buys: accuracy against directions, memory and seconds."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from matplotlib.figure import Figure
from rich.console import Console

from experiments.continual import drawing, learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.exact import costs
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.networks import mlp
from experiments.continual.structures import Structure
from experiments.continual.summary import Pair
from experiments.data.mnist import mnist
from experiments.run.experiment import Arrays, Content
from experiments.run.options import Count, Positive
from experiments.run.report import Table


@dataclasses.dataclass(frozen=True)
class Rank(Comparison):
    """Permuted MNIST with the low-rank filter over the network, at several ranks."""

    presets: ClassVar = {"published": {"seeds": 5, "train": 10_000, "curvature_examples": 1000}}

    seeds: Count = 2
    """Number of seeds: each has other images, shuffles and starting weights."""
    tasks: Count = 5
    """Number of tasks; the first is not shuffled."""
    ranks: tuple[Count, ...] = (1, 2, 5, 10, 20, 50, 100)
    """Directions kept by the filter; 0, which is EWC, is always there."""
    train: Count = 5000
    """Training images a task."""
    epochs: Count = 5
    """Passes over a task's images."""
    curvature_examples: Count = 500
    """Images of a task in its curvature."""
    curvature: tuple[Positive, ...] = (30.0,)
    """Curvature scales to choose from."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        sizes = {"train": self.train, "val": 1000, "test": 2000}
        fixed = {"learning_rate": (1e-3,), "prior": (1.0,), "curvature": self.curvature}
        structures = {f"rank {rank}": Structure("network", rank) for rank in (0, *self.ranks)}
        self.compare(
            console,
            "rank",
            f"Permuted MNIST, {self.tasks} tasks, by rank: test accuracy after the last, %",
            methods=tuple(
                Method({name: "last"}, fixed, follow(filtering(structure))) for name, structure in structures.items()
            ),
            network=mlp(784, (100, 100), 10),
            training=learners.Training(self.epochs * self.train // 100, 100, self.curvature_examples),
            tasks=tasks.permuted_split(mnist(), self.tasks, **sizes, seeds=range(self.seeds)),
            settings=sizes | {"hidden": (100, 100)},
            notes={"cost": costs(structures)},
            pairs=tuple(Pair(f"rank {rank}", "rank 0") for rank in self.ranks),
        )

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Accuracy beside memory and seconds, and what every comparison has."""
        means = {name: found["accuracy"]["mean"] for name, found in content["methods"].items()}
        # The first, in order of rank, within half a point of the best.
        elbow = next(name for name, mean in means.items() if mean >= max(means.values()) - 0.005)
        rows = [
            [name, f"{100 * means[name]:.1f}", f"{cost['state_bytes'] / 1e6:.1f}", f"{cost['update_seconds']:.2f}"]
            for name, cost in content["cost"].items()
        ]
        caption = f"What the rank buys; within half a point of the best from {elbow} on."
        cost = Table(["rank", "accuracy, %", "MB", "update, s"], rows, caption)
        return {"cost": cost, **super().tables(content)}

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Accuracy against cost; means and matrices."""
        title = "Permuted MNIST: what the rank buys"
        return {"rank": lambda: drawing.against_cost(content, title)} | super().pictures(content, arrays)
