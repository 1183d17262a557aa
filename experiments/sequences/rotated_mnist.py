"""Five tasks of turning MNIST digits, 750 images each: filtered at its time, the last model, smoothed, alone, joint."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32
from rich.console import Console

from experiments import methods, pictures, tasks
from experiments.comparison import compare
from experiments.data.mnist import mnist
from experiments.methods import Method, filtering, follow
from experiments.networks import mlp
from experiments.presets import Experiment
from experiments.results import Pair
from experiments.structures import Form, Structure

NAMES: Mapping[Form, str] = {"network": "", "layer": "layer_", "unit": "unit_", "kronecker": "kronecker_"}
"""What stands before the names of each structure's reports."""
REPORTS = {"filter_last": "last", "filter": "own", "smoother": "smoothed"}
"""The reports of one filter, and which of its models each stands for."""


@dataclasses.dataclass(frozen=True)
class RotatedMnist(Experiment):
    """MNIST at 14×14 turned over an angle in five tasks: what looking back is worth, for each structure."""

    published: ClassVar[Mapping[str, Any]] = {"seeds": 5}

    seeds: int = 3
    """Number of seeds: each splits the images anew and starts from other weights."""
    angle: float = 30.0
    """Degrees from the first task to the last."""
    tasks: int = 5
    """Number of tasks."""
    rank: int = 20
    """Directions kept by the low-rank filters."""
    train: int = 750
    """Training images a task."""
    steps: int = 500
    """Gradient steps a task."""
    noises: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3)
    """Process noise to choose from."""
    structures: tuple[Form, ...] = ("network", "kronecker")
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        angles = tuple(float(angle) for angle in np.linspace(0, self.angle, self.tasks))
        images = mnist()
        seeds = range(self.seeds)
        sizes = {"train": self.train, "val": 1000, "test": 2000}
        pool = halved(images.train_x), images.train_y
        sequence = tasks.rotated(*pool, angles, **sizes, seeds=seeds, train_disjoint=True)
        rates = {"learning_rate": (1e-3, 3e-3)}
        fixed = {"learning_rate": (3e-3,), "prior": (1.0,)}
        filters = tuple(
            Method(
                {f"{NAMES[form]}{report}": which for report, which in REPORTS.items()},
                fixed | {"noise": self.noises, "curvature": (3.0, 10.0, 30.0)},
                follow(filtering(Structure(form, self.rank))),
            )
            for form in self.structures
        )
        first = NAMES[self.structures[0]]
        folder, found = compare(
            "rotated-mnist",
            f"MNIST at 14×14 turned over {self.angle:g}°: test accuracy, %",
            methods=(
                Method({"sequential": "last"}, rates, follow(methods.sequential)),
                Method({"alone": "own"}, rates, follow(methods.alone)),
                *filters,
                Method({"joint": "joint"}, rates, methods.joint),
            ),
            network=mlp(196, (50, 50), 10),
            training=methods.Training(self.steps, batch_size=150, curvature_examples=None),
            tasks=sequence,
            seeds=seeds,
            settings=sizes | {"angles": angles, "hidden": (50, 50), "rank": self.rank},
            pairs=(
                *(Pair(f"{NAMES[form]}smoother", f"{NAMES[form]}filter") for form in self.structures),
                *(Pair(f"{NAMES[form]}smoother", f"{NAMES[form]}filter", (0, 1, 2)) for form in self.structures),
                *(Pair(f"{NAMES[form]}smoother", f"{first}smoother") for form in self.structures[1:]),
            ),
            output=self.output,
            console=console,
        )
        pictures.accuracy_per_task(
            folder / "accuracy.png",
            sequence.names,
            found,
            f"Five tasks of {self.train} MNIST digits, turned over {self.angle:g}°",
            examples=sequence.test_x[0, :, 0].reshape(-1, 14, 14),
            x_label="task",
        )
        console.print(f"Results and pictures are in [bold]{folder}[/bold].")


def halved(images: Float32[np.ndarray, "N h w"]) -> Float32[np.ndarray, "N h/2 w/2"]:
    """Every four pixels as their mean."""
    count, height, width = images.shape
    return np.asarray(images.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4)))
