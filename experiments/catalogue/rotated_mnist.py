"""Five tasks of turning MNIST digits: what looking back is worth, and a task never seen."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float32
from matplotlib.figure import Figure
from rich.console import Console

from experiments.continual import drawing, learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.families import EARLY, PREFIX, REPORTS, UNSEEN, looking_back, reports
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.networks import mlp
from experiments.continual.structures import Form, Structure
from experiments.data.mnist import mnist
from experiments.run.experiment import Arrays, Content
from experiments.run.labels import label
from experiments.run.options import Count, Natural, NonNegative, Positive
from experiments.run.report import Table


@dataclasses.dataclass(frozen=True)
class RotatedMnist(Comparison):
    """MNIST at 14×14 turned over an angle in five tasks: what looking back is worth, and a task never seen."""

    presets: ClassVar = {
        "published": {
            "noises": (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            "structures": ("network", "kronecker"),
            "curvatures": (3.0, 10.0, 30.0),
        }
    }

    seeds: Count = 5
    """Number of seeds: each splits the images anew and starts from other weights."""
    angle: NonNegative = 30.0
    """Degrees from the first task to the last."""
    tasks: Count = 5
    """Number of tasks."""
    rank: Natural = 20
    """Directions kept by the low-rank filters."""
    train: Count = 750
    """Training images a task."""
    steps: Count = 500
    """Gradient steps a task."""
    noises: tuple[NonNegative, ...] = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
    """Process noise to choose from."""
    curvatures: tuple[Positive, ...] = (3.0,)
    """Curvature scales to choose from."""
    structures: tuple[Form, ...] = ("kronecker",)
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        angles = tuple(float(angle) for angle in np.linspace(0, self.angle, self.tasks))
        images = mnist()
        sizes = {"train": self.train, "val": 1000, "test": 2000}
        pool = halved(images.train_x), images.train_y
        sequence = tasks.rotated(*pool, angles, **sizes, seeds=range(self.seeds), train_disjoint=True)
        rates = {"learning_rate": (3e-3,)}
        fixed = rates | {"prior": (1.0,), "curvature": self.curvatures}
        middle = self.tasks // 2
        self.compare(
            console,
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
                Method({"sequential": "last"}, {"learning_rate": (1e-3, 3e-3)}, follow(learners.sequential)),
                Method({"alone": "own"}, rates, follow(learners.alone)),
                Method(
                    {"anchor": "last"},
                    rates | {"prior": (1.0,), "strength": (3.0, 30.0, 300.0)},
                    follow(learners.anchor),
                ),
                Method({"joint": "joint"}, rates, learners.joint),
            ),
            network=mlp(196, (50, 50), 10),
            training=learners.Training(self.steps, batch_size=150, curvature_examples=None),
            tasks=sequence,
            settings=sizes | {"angles": angles, "hidden": (50, 50)},
            pairs=[pair for form in self.structures for pair in looking_back(PREFIX[form], middle)],
            examples=sequence.test_x[0, :, 0].reshape(-1, 14, 14),
        )

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """What every comparison has, and smoothed less filtered on the early tasks at each process noise."""
        parts = super().tables(content)
        for prefix in PREFIX.values():
            if f"{prefix}smoother" in content["methods"]:
                parts[f"{prefix}noise"] = _against_noise(content, prefix)
        return parts

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Accuracy along the tasks and against process noise; means and matrices."""
        angle = content["settings"]["angles"][-1]
        count = content["settings"]["train"]
        hidden = [name for name in content["methods"] if name.endswith(("forecast", "neighbours"))]
        along = {
            name: along_noise(found)
            for name, found in content["methods"].items()
            if name.endswith(("filter", "smoother"))
        }
        title = f"Five tasks of {count} MNIST digits, turned over {angle:g}°"
        return {
            "accuracy": lambda: drawing.accuracy(content, title, arrays.get("examples"), hidden),
            "noise": lambda: drawing.noise(along, f"Turning over {angle:g}°: tasks 1 to 3 against process noise"),
        } | super().pictures(content, arrays)


def along_noise(found: Mapping) -> dict[float, np.ndarray]:
    """For each process noise, accuracy on the early tasks in each seed at the best curvature on validation images."""
    best: dict[float, Mapping] = {}
    for one in found["tried"]:
        noise = one["hyper"]["noise"]
        if noise not in best or one["validation"] > best[noise]["validation"]:
            best[noise] = one
    return {noise: np.asarray(one["accuracy"])[:, EARLY].mean(axis=1) for noise, one in best.items()}


def _against_noise(content: Content, prefix: str) -> Table:
    smoothed, filtered = (along_noise(content["methods"][f"{prefix}{name}"]) for name in ("smoother", "filter"))
    rows = []
    for noise in smoothed:
        difference = 100 * (smoothed[noise] - filtered[noise])
        cells = f"{100 * filtered[noise].mean():.1f}", f"{100 * smoothed[noise].mean():.1f}"
        each = "  ".join(f"{value:+.1f}" for value in difference)
        rows.append([f"{noise:g}", *cells, f"{difference.mean():+.1f}", f"{difference.min():+.1f}", each])
    head = ("noise", "filtered, %", "smoothed, %", "difference", "least of seeds", "each seed")
    return Table(head, rows, f"{label(f'{prefix}smoother')} less filter on tasks 1 to 3, points.")


def halved(images: Float32[np.ndarray, "N h w"]) -> Float32[np.ndarray, "N h/2 w/2"]:
    """Every four pixels as their mean."""
    count, height, width = images.shape
    return np.asarray(images.reshape(count, height // 2, 2, width // 2, 2).mean((2, 4)))
