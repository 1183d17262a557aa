"""Camelyon17-WILDS: tumour or not, hospital after hospital, or under slowly changing light."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int
from rich.console import Console

from experiments.continual import learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.families import PREFIX, REPORTS, reports
from experiments.continual.learners import Method, filtering, follow
from experiments.continual.networks import cnn
from experiments.continual.structures import Form, Structure
from experiments.continual.summary import Pair
from experiments.data.camelyon17 import Patches, camelyon17
from experiments.data.files import own
from experiments.data.images import Images
from experiments.run.options import Count

FOLDER = "camelyon17_v1.0"


def by_hospital(patches: Patches, *, each: int, side: int) -> list[tasks.Part]:
    """One part for each hospital, in the order of their numbers, of at most so many patches, drawn at random."""
    return [
        _part(f"hospital {hospital}", patches, _drawn(np.flatnonzero(patches.hospital == hospital), each), side)
        for hospital in np.unique(patches.hospital)
    ]


def by_brightness(patches: Patches, count: int, *, each: int, side: int) -> list[tasks.Part]:
    """So many parts from the darkest patches to the brightest, of at most ``each`` of them, drawn at random."""
    rows = _drawn(np.arange(len(patches.files)), count * each)
    ordered = rows[np.argsort(patches.at(rows).brightness(), kind="stable")]
    return [
        _part(f"light {number + 1}", patches, np.random.default_rng(number).permutation(part), side)
        for number, part in enumerate(np.array_split(ordered, count))
    ]


@dataclasses.dataclass(frozen=True)
class Camelyon(Comparison):
    """Patches of lymph nodes from the published folder, a small CNN: filters and smoother over the sequence."""

    by_hand: ClassVar = True

    folder: Path | None = None
    """The folder camelyon17_v1.0; by default the one inside the folder that WEIGHTFILTER_DATA names."""
    by: Literal["hospital", "brightness"] = "hospital"
    """What changes from task to task."""
    tasks: Count = 5
    """Number of tasks where the light changes."""
    seeds: Count = 3
    """Number of seeds: each draws other patches and starts from other weights."""
    each: Count = 3000
    """Patches read for each task."""
    train: Count = 750
    """Training patches a task."""
    val: Count = 250
    """Validation patches a task."""
    test: Count = 500
    """Test patches a task."""
    steps: Count = 300
    """Gradient steps a task."""
    side: Count = 32
    """Pixels along each side of a patch, 96 in the set."""
    structures: tuple[Form, ...] = ("kronecker",)
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        patches = camelyon17(own(FOLDER) if self.folder is None else self.folder)
        if self.by == "hospital":
            parts = by_hospital(patches, each=self.each, side=self.side)
        else:
            parts = by_brightness(patches, self.tasks, each=self.each, side=self.side)
        seeds = range(self.seeds)
        sizes = {"train": self.train, "val": self.val, "test": self.test}
        rates = {"learning_rate": (3e-3,)}
        drift = {"prior": (1.0,), "noise": (0.0, 0.01, 0.1), "curvature": (3.0, 10.0)}
        self.compare(
            console,
            f"camelyon-{self.by}",
            f"Camelyon17 by {self.by}: test accuracy, %",
            methods=(
                Method({"sequential": "last"}, rates, follow(learners.sequential)),
                *(
                    Method(
                        reports(form, REPORTS),
                        rates | drift,
                        follow(filtering(Structure(form, 10))),
                    )
                    for form in self.structures
                ),
                Method({"joint": "joint"}, rates, learners.joint),
            ),
            network=cnn(self.side, 2, colours=3),
            training=learners.Training(self.steps, min(150, self.train), min(200, self.train)),
            tasks=tasks.sequence(parts, **sizes, seeds=seeds),
            settings=sizes | {"by": self.by, "side": self.side, "each": self.each},
            pairs=[Pair(f"{PREFIX[form]}smoother", f"{PREFIX[form]}filter") for form in self.structures],
        )


def _drawn(rows: Int[np.ndarray, " N"], count: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng(len(rows)).permutation(rows)[:count]


def _part(name: str, patches: Patches, rows: Int[np.ndarray, " n"], side: int) -> tasks.Part:
    """Two thirds of the patches to learn from, a third to test on; a sequence takes its validation from the former."""
    chosen, cut = patches.at(rows), 2 * len(rows) // 3
    x, y = chosen.pixels(side), chosen.tumour
    return tasks.Part(name, Images(x[:cut], y[:cut], x[cut:], y[cut:]))
