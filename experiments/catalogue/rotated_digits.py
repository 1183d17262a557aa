"""Five tasks of slowly turning digits: filtering, smoothing, and a task never seen."""

import dataclasses
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from experiments.continual import drawing, learners
from experiments.continual.comparison import Comparison
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.networks import mlp
from experiments.continual.structures import Structure
from experiments.continual.summary import Pair
from experiments.continual.tasks import rotated
from experiments.data import digits
from experiments.run.experiment import Arrays, Content
from experiments.run.options import Count, Natural

MIDDLE = 2


@dataclasses.dataclass(frozen=True)
class RotatedDigits(Comparison):
    """8×8 digits turned by 0, 10, 20, 30, 40° in five tasks of 50 images: remember, look back, and fill a gap in."""

    seeds: Count = 5
    """Number of seeds: each splits the images anew and starts from other weights."""
    rank: Natural = 10
    """Directions kept by the filter."""
    train: Count = 50
    """Training images a task."""
    steps: Count = 400
    """Gradient steps a task."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        angles = (0, 10, 20, 30, 40)
        sizes: Any = {"train": self.train, "val": 300, "test": 500}
        images, labels = digits.load()
        sequence = rotated(images, labels, angles, **sizes, seeds=range(self.seeds))
        fixed = {"learning_rate": (3e-3,), "prior": (1.0,)}
        learner = filtering(Structure("network", self.rank))
        drift = {"noise": (0.1, 0.3, 1.0), "curvature": (10.0, 30.0)}
        self.compare(
            console,
            "rotated-digits",
            "Rotated digits: test accuracy, %",
            methods=(
                Method({"sequential": "last"}, {"learning_rate": (1e-3, 3e-3, 1e-2)}, follow(learners.sequential)),
                Method({"anchor": "last"}, fixed | {"strength": (0.3, 1.0, 3.0, 10.0, 30.0)}, follow(learners.anchor)),
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
            training=learners.Training(self.steps, batch_size=None, curvature_examples=None),
            tasks=sequence,
            settings=sizes | {"angles": angles, "hidden": (50, 50)},
            pairs=(
                Pair("filter_last", "sequential"),
                Pair("filter_last", "anchor"),
                Pair("filter_last", "ewc"),
                Pair("smoother", "filter"),
                Pair("smoother", "filter", (0, 1)),
                Pair("interpolated", "forecast"),
            ),
            examples=sequence.test_x[0, :, 0].reshape(-1, 8, 8),
        )

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Accuracy along the tasks, above an image of each; means and matrices."""
        title = "Five tasks of 50 digits, each turned 10° further"
        return {"accuracy": lambda: drawing.accuracy(content, title, arrays.get("examples"))} | super().pictures(
            content, arrays
        )
