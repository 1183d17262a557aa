"""The same calls on networks that are no perceptrons: residual with normalisation, and a vision transformer."""

import dataclasses
from typing import ClassVar, Literal

from rich.console import Console

from experiments.continual import learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.networks import cnn, mlp, resnet, vit
from experiments.continual.structures import Structure
from experiments.continual.summary import Pair
from experiments.data.mnist import fashion_mnist
from experiments.run.options import Count, Natural

SIDE, CLASSES = 14, 2
NETWORKS = {
    "mlp": lambda: mlp(SIDE**2, (50, 50), CLASSES),
    "cnn": lambda: cnn(SIDE, CLASSES),
    "resnet": lambda: resnet(SIDE, CLASSES),
    "vit": lambda: vit(SIDE, CLASSES),
}
"""A network of one's own is one line here."""
Name = Literal["mlp", "cnn", "resnet", "vit"]


@dataclasses.dataclass(frozen=True)
class OtherNetworks(Comparison):
    """Fashion-MNIST, two classes a task, five tasks that share their two outputs, with several networks."""

    presets: ClassVar = {"published": {"seeds": 5, "steps": 500, "networks": tuple(NETWORKS)}}

    seeds: Count = 2
    """Number of seeds: each has other images and starting weights."""
    networks: tuple[Name, ...] = ("resnet", "vit")
    """Which of mlp, cnn, resnet and vit."""
    train: Count = 500
    """Training images a task."""
    steps: Count = 150
    """Gradient steps a task."""
    rank: Natural = 10
    """Directions kept by the low-rank filter."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        seeds = range(self.seeds)
        sizes = {"train": self.train, "val": 300, "test": 1000}
        rates = {"learning_rate": (3e-3,)}
        fixed = rates | {"prior": (1.0,)}
        strengths = (10.0, 100.0)
        structures = {"ewc": Structure("network", 0), "filter_last": Structure("network", self.rank)}
        structures |= {"kronecker_filter_last": Structure("kronecker")}
        parts = tasks.split(fashion_mnist(), [(first, first + 1) for first in range(0, 10, 2)], labels="position")
        sequence = tasks.sequence([tasks.smaller(part, SIDE) for part in parts], **sizes, seeds=seeds)
        for name in self.networks:
            self.compare(
                console,
                f"networks-{name}",
                f"Fashion-MNIST two classes at a time, {name}: test accuracy, %",
                methods=(
                    Method({"sequential": "last"}, rates, follow(learners.sequential)),
                    Method({"anchor": "last"}, fixed | {"strength": strengths}, follow(learners.anchor)),
                    *(
                        Method({report: "last"}, fixed | {"curvature": strengths}, follow(filtering(structure)))
                        for report, structure in structures.items()
                    ),
                    Method({"joint": "joint"}, rates, learners.joint),
                ),
                network=NETWORKS[name](),
                training=learners.Training(self.steps, 100, min(200, self.train)),
                tasks=sequence,
                settings=sizes | {"network": name},
                pairs=[Pair(report, baseline) for report in structures for baseline in ("sequential", "anchor")]
                + [Pair("kronecker_filter_last", "ewc"), Pair("filter_last", "ewc")],
            )
