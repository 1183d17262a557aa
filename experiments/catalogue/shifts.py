"""Sequences whose classes, light or image set change."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np
from rich.console import Console

from experiments.continual import learners, tasks
from experiments.continual.comparison import Comparison
from experiments.continual.families import PREFIX, REPORTS, UNSEEN, looking_back, reports
from experiments.continual.learners import Method, filtering, follow, lofi
from experiments.continual.networks import mlp
from experiments.continual.structures import Form, Structure
from experiments.continual.summary import Pair
from experiments.data.mnist import fashion_mnist, mnist
from experiments.data.notmnist import notmnist
from experiments.data.usps import usps
from experiments.run.options import Count, Natural

Shift = Literal["split", "disjoint", "brightness", "sets"]


@dataclasses.dataclass(frozen=True)
class Shifts(Comparison):
    """Split and disjoint MNIST, Fashion-MNIST getting darker, or MNIST, notMNIST, Fashion-MNIST and USPS in turn.

    Where it gets darker, filters that never saw the middle task fill it in.
    """

    presets: ClassVar = {"published": {"seeds": 5, "rank": 20}}

    shift: Shift = "split"
    """What changes from task to task."""
    seeds: Count = 3
    """Number of seeds: each has other images and starting weights."""
    rank: Natural = 10
    """Directions kept by the low-rank filters."""
    train: Count = 750
    """Training images a task."""
    steps: Count = 300
    """Gradient steps a task."""
    side: Count = 16
    """Pixels along each side of an image."""
    structures: tuple[Form, ...] = ("network", "kronecker")
    """Structures of the filters' precision."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        seeds = range(self.seeds)
        sizes = {"train": self.train, "val": 300, "test": 1000}
        rates = {"learning_rate": (3e-3,)}
        fixed = rates | {"prior": (1.0,)}
        # Tasks that contradict each other are remembered with a hundred times more.
        strengths = (3.0, 10.0, 30.0) if self.shift == "brightness" else (3.0, 30.0, 300.0, 3000.0)
        drift = {"noise": (0.0, 0.01, 0.1), "curvature": strengths}
        filters = [
            Method(reports(form, REPORTS), fixed | drift, follow(filtering(Structure(form, self.rank))))
            for form in self.structures
        ]
        baselines = ("sequential", "anchor", "ewc", "lofi")
        pairs = [Pair(f"{PREFIX[form]}filter_last", each) for form in self.structures for each in baselines]
        parts = _parts(self.shift, self.side)
        if self.shift == "brightness":  # the light changes in steps, so one that was never seen can be filled in
            middle = len(parts) // 2
            for form in self.structures:
                run = follow(filtering(Structure(form, self.rank)), middle)
                filters.append(Method(reports(form, UNSEEN), fixed | drift, run, (middle,)))
                pairs += looking_back(PREFIX[form], middle)
        else:
            others = ("{}filter", "alone")  # what a task's own data is worth
            pairs += [
                Pair(f"{PREFIX[form]}smoother", other.format(PREFIX[form]))
                for form in self.structures
                for other in others
            ]
        self.compare(
            console,
            f"shifts-{self.shift}",
            f"Shift of {self.shift}: test accuracy, %",
            methods=(
                Method({"sequential": "last"}, rates, follow(learners.sequential)),
                Method({"alone": "own"}, rates, follow(learners.alone)),
                Method({"anchor": "last"}, fixed | {"strength": (3.0, 30.0, 300.0, 3000.0)}, follow(learners.anchor)),
                Method(
                    {"ewc": "last"},
                    fixed | {"curvature": strengths},
                    follow(filtering(Structure("network", 0))),
                ),
                Method({"lofi": "last"}, {"prior": (10.0, 30.0), "noise": (0.0,)}, follow(lofi(self.rank))),
                *filters,
                Method({"joint": "joint"}, rates, learners.joint),
            ),
            network=mlp(self.side**2, (50, 50), 10),
            training=learners.Training(self.steps, 150, None),
            tasks=tasks.sequence(parts, **sizes, seeds=seeds),
            settings=sizes | {"shift": self.shift, "side": self.side, "hidden": (50, 50)},
            pairs=pairs,
        )


def _parts(shift: Shift, side: int) -> list[tasks.Part]:
    if shift == "sets":
        sets = {"MNIST": mnist, "notMNIST": notmnist, "Fashion": fashion_mnist, "USPS": usps}
        return [tasks.resized(name, load(), side) for name, load in sets.items()]
    if shift == "brightness":
        parts = tasks.brightness(fashion_mnist(), [float(factor) for factor in np.linspace(1, 0.2, 5)])
    elif shift == "split":
        parts = tasks.split(mnist(), [(digit, digit + 1) for digit in range(0, 10, 2)], labels="position")
    else:
        parts = tasks.split(mnist(), [range(5), range(5, 10)], labels="class")
    return [tasks.smaller(part, side) for part in parts]
