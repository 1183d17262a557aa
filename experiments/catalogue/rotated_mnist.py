"""Five tasks of turning MNIST digits, 750 images each: filtered at its time, the last model, smoothed, alone, joint."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32
from rich.console import Console
from rich.table import Table

from experiments import methods, pictures, tables, tasks
from experiments.continual.comparison import compare
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.networks import mlp
from experiments.continual.structures import Form, Structure
from experiments.data.mnist import mnist
from experiments.run.experiment import Experiment
from experiments.run.results import MethodResult, Pair

NAMES: Mapping[Form, str] = {"network": "", "layer": "layer_", "unit": "unit_", "kronecker": "kronecker_"}
"""What stands before the names of each structure's reports."""
REPORTS = {"filter_last": "last", "filter": "own", "smoother": "smoothed"}
"""The reports of one filter, and which of its models each stands for."""
UNSEEN = {"forecast": "own", "neighbours": "neighbours", "interpolated": "smoothed"}
"""Those of a filter that never saw the middle task."""
EARLY = (0, 1, 2)
"""The tasks that looking back should help."""


@dataclasses.dataclass(frozen=True)
class RotatedMnist(Experiment):
    """MNIST at 14×14 turned over an angle in five tasks: what looking back is worth, and a task never seen."""

    published: ClassVar[Mapping[str, Any]] = {
        "noises": (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        "structures": ("network", "kronecker"),
        "curvatures": (3.0, 10.0, 30.0),
    }

    seeds: int = 5
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
    noises: tuple[float, ...] = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
    """Process noise to choose from."""
    curvatures: tuple[float, ...] = (3.0,)
    """Curvature scales to choose from."""
    structures: tuple[Form, ...] = ("kronecker",)
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        angles = tuple(float(angle) for angle in np.linspace(0, self.angle, self.tasks))
        images = mnist()
        seeds = range(self.seeds)
        sizes = {"train": self.train, "val": 1000, "test": 2000}
        pool = halved(images.train_x), images.train_y
        sequence = tasks.rotated(*pool, angles, **sizes, seeds=seeds, train_disjoint=True)
        rates = {"learning_rate": (3e-3,)}
        fixed = rates | {"prior": (1.0,), "curvature": self.curvatures}
        middle = self.tasks // 2

        def draw(folder: Path, found: Mapping[str, MethodResult]) -> None:
            pictures.noise(
                folder / "noise.png",
                {
                    name: along_noise(result, self.noises)
                    for name, result in found.items()
                    if name.endswith(("filter", "smoother"))
                },
                f"Turning over {self.angle:g}°: tasks 1 to 3 against process noise",
            )
            pictures.accuracy_per_task(
                folder / "accuracy.png",
                sequence.names,
                {name: result for name, result in found.items() if not name.endswith(("forecast", "neighbours"))},
                f"Five tasks of {self.train} MNIST digits, turned over {self.angle:g}°",
                examples=sequence.test_x[0, :, 0].reshape(-1, 14, 14),
                x_label="task",
            )

        folder, found = compare(
            "rotated-mnist" + (f"-{self.angle:g}" if self.angle != 30 else ""),
            f"MNIST at 14×14 turned over {self.angle:g}°: test accuracy, %",
            methods=(
                *(
                    Method(
                        reports(form, REPORTS),
                        fixed | {"noise": self.noises},
                        follow(filtering(Structure(form, self.rank))),
                    )
                    for form in self.structures
                ),
                *(
                    Method(
                        reports(form, UNSEEN),
                        fixed | {"noise": tuple(noise for noise in self.noises if noise > 0.01)},
                        follow(filtering(Structure(form, self.rank)), middle),
                        (middle,),
                    )
                    for form in self.structures
                ),
                Method({"sequential": "last"}, {"learning_rate": (1e-3, 3e-3)}, follow(methods.sequential)),
                Method({"alone": "own"}, rates, follow(methods.alone)),
                Method(
                    {"anchor": "last"},
                    rates | {"prior": (1.0,), "strength": (3.0, 30.0, 300.0)},
                    follow(methods.anchor),
                ),
                Method({"joint": "joint"}, rates, methods.joint),
            ),
            network=mlp(196, (50, 50), 10),
            training=methods.Training(self.steps, batch_size=150, curvature_examples=None),
            tasks=sequence,
            seeds=seeds,
            settings=sizes | {"angles": angles, "hidden": (50, 50), "rank": self.rank},
            pairs=[pair for form in self.structures for pair in looking_back(NAMES[form], middle)],
            draw=draw,
            **self.place(console),
        )
        for form in self.structures:
            console.print(noise_table(found, NAMES[form], self.noises))
        console.print(f"Results and pictures are in [bold]{folder}[/bold].")


def reports(form: Form, kinds: Mapping[str, str]) -> dict[str, str]:
    """The reports of one structure's filter by name, and which of the run's models each stands for."""
    return {f"{NAMES[form]}{name}": which for name, which in kinds.items()}


def looking_back(prefix: str, middle: int) -> list[Pair]:
    """The comparisons that claims about smoothing rest on."""
    smoother, unseen = f"{prefix}smoother", f"{prefix}interpolated"
    return [
        Pair(smoother, f"{prefix}filter"),
        Pair(smoother, f"{prefix}filter", EARLY),
        Pair(smoother, f"{prefix}filter_last"),
        Pair(unseen, f"{prefix}forecast"),
        Pair(unseen, f"{prefix}neighbours"),
        Pair(unseen, f"{prefix}filter", (middle,)),
        Pair(unseen, "alone", (middle,)),
    ]


def along_noise(result: MethodResult, noises: Sequence[float]) -> dict[float, Float32[np.ndarray, " S"]]:
    """For each process noise, accuracy on the early tasks in each seed at the best curvature on validation images."""
    tried: Any = (result.extra or {})["tried"]
    best = {
        noise: max((one for one in tried if one["hyper"]["noise"] == noise), key=lambda one: one["validation"])
        for noise in noises
    }
    return {noise: np.asarray(one["accuracy"])[:, EARLY].mean(axis=1) for noise, one in best.items()}


def noise_table(found: Mapping[str, MethodResult], prefix: str, noises: Sequence[float]) -> Table:
    """Smoothed less filtered on the early tasks, for each process noise and for each seed."""
    smoothed, filtered = (along_noise(found[f"{prefix}{name}"], noises) for name in ("smoother", "filter"))
    name = tables.label(f"{prefix}smoother")
    table = Table(title=f"{name} less filter on tasks 1 to 3, points", title_justify="left", title_style="bold")
    for column in ("noise", "filtered, %", "smoothed, %", "difference", "least of seeds", "each seed"):
        table.add_column(column, justify="right")
    for noise in noises:
        difference = 100 * (smoothed[noise] - filtered[noise])
        table.add_row(
            f"{noise:g}",
            f"{100 * filtered[noise].mean():.1f}",
            f"{100 * smoothed[noise].mean():.1f}",
            f"{difference.mean():+.1f}",
            f"{difference.min():+.1f}",
            "  ".join(f"{value:+.1f}" for value in difference),
        )
    return table


def halved(images: Float32[np.ndarray, "N h w"]) -> Float32[np.ndarray, "N h/2 w/2"]:
    """Every four pixels as their mean."""
    count, height, width = images.shape
    return np.asarray(images.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4)))
