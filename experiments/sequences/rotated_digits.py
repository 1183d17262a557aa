"""Five tasks of slowly turning digits: filtering, smoothing, and a task never seen."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from experiments import methods, pictures, tasks
from experiments.comparison import compare
from experiments.data import digits
from experiments.methods import Method, filtering, follow
from experiments.networks import mlp
from experiments.presets import Experiment
from experiments.results import MethodResult, Pair
from experiments.structures import Structure

MIDDLE = 2


@dataclasses.dataclass(frozen=True)
class RotatedDigits(Experiment):
    """8×8 digits turned by 0, 10, 20, 30, 40° in five tasks of 50 images: remember, look back, and fill a gap in."""

    seeds: int = 5
    """Number of seeds: each splits the images anew and starts from other weights."""
    rank: int = 10
    """Directions kept by the filter."""
    train: int = 50
    """Training images a task."""
    steps: int = 400
    """Gradient steps a task."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        angles = (0, 10, 20, 30, 40)
        images, labels = digits.load()
        seeds = range(self.seeds)
        sequence = tasks.rotated(images, labels, angles, train=self.train, val=300, test=500, seeds=seeds)
        rates = (1e-3, 3e-3, 1e-2)
        fixed = {"learning_rate": (3e-3,), "prior": (1.0,)}
        learner = filtering(Structure("network", self.rank))
        drift = {"noise": (0.1, 0.3, 1.0), "curvature": (10.0, 30.0)}

        def draw(folder: Path, found: Mapping[str, MethodResult]) -> None:
            pictures.accuracy_per_task(
                folder / "accuracy.png",
                sequence.names,
                found,
                "Five tasks of 50 digits, each turned 10° further",
                examples=sequence.test_x[0, :, 0].reshape(-1, 8, 8),
                x_label="task",
            )

        folder, _ = compare(
            "rotated-digits",
            "Rotated digits: test accuracy, %",
            methods=(
                Method({"sequential": "last"}, {"learning_rate": rates}, follow(methods.sequential)),
                Method({"anchor": "last"}, fixed | {"strength": (0.3, 1.0, 3.0, 10.0, 30.0)}, follow(methods.anchor)),
                Method(
                    {"ewc": "last"},
                    fixed | {"curvature": (1.0, 3.0, 10.0, 30.0, 100.0)},
                    follow(filtering(Structure("network", 0))),
                ),
                Method(
                    {"filter_last": "last", "filter": "own", "smoother": "smoothed"},
                    fixed | {"noise": (0.0, *drift["noise"]), "curvature": (3.0, *drift["curvature"])},
                    follow(learner),
                ),
                Method(
                    {"forecast": "own", "interpolated": "smoothed"}, fixed | drift, follow(learner, MIDDLE), (MIDDLE,)
                ),
            ),
            network=mlp(64, (50, 50), 10),
            training=methods.Training(self.steps, batch_size=None, curvature_examples=None),
            tasks=sequence,
            seeds=seeds,
            settings={
                "angles": angles,
                "train": self.train,
                "val": 300,
                "test": 500,
                "hidden": (50, 50),
                "rank": self.rank,
            },
            pairs=(
                Pair("filter_last", "sequential"),
                Pair("filter_last", "anchor"),
                Pair("filter_last", "ewc"),
                Pair("smoother", "filter"),
                Pair("smoother", "filter", (0, 1)),
                Pair("interpolated", "forecast"),
            ),
            draw=draw,
            **self.place(console),
        )
        console.print(f"Results and pictures are in [bold]{folder}[/bold].")
