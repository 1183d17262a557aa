"""MNIST in one pass over single images: each is predicted, then learned from."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.figure import Figure
from rich.console import Console

from experiments.continual.networks import lenet
from experiments.continual.online import comparison
from experiments.continual.online.comparison import Case, OnlineComparison
from experiments.continual.online.interface import Hyper, Online, labels
from experiments.continual.online.stream import Steps
from experiments.data.mnist import mnist
from experiments.run.experiment import Arrays, Content
from experiments.run.options import Count
from experiments.run.report import Table

INTRODUCTION = """One pass over {steps:,} single images of MNIST, made by `python -m experiments online-mnist`: LeNet
(6-16-120-84-10, 61,706 parameters), each image predicted before it is learned from, {seeds} shuffles with other
starting weights. *Accuracy* is that over the last {tail:,} predictions, *whole pass* that over all. Settings are chosen
for each method alike, by accuracy over the last half of {search:,} test images, which no scored pass sees; milliseconds
are CPU time of a step, its prediction included. LRKF, HiLoFi and LoLoFi (arXiv 2506.11898) are written anew after their
authors' code, LO-FI (arXiv 2305.19535) is a plain step of this library. Grids of all methods were chosen by passes in
other orders, which are not scored here."""

PUBLISHED = 60_000, {"LO-FI, rank 50": 97.7, "LoLoFi": 97.7, "LRKF": 97.3, "HiLoFi, AdamW and Muon": "97.0 to 97.3"}


def step(online: Online, settings: Hyper, state: Any, item: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
    """Predict the label, then learn from it."""
    x, y = item["x"][None], item["y"][None]
    right = jnp.argmax(online.outputs(state, x)[0]) == y[0]
    state, diverged = online.update(state, x, y)
    return state, {"value": right, "diverged": diverged}


def tail(steps: int) -> int:
    """How many of the last predictions count: 5,000 of 60,000, otherwise a tenth."""
    return min(5_000, math.ceil(steps / 10))


def scores(kept: Steps) -> dict[str, float]:
    """Accuracy at the end, and over all."""
    right = kept["value"]
    return {"accuracy": float(np.mean(right[-tail(len(right)) :])), "whole": float(np.mean(right))}


@dataclasses.dataclass(frozen=True)
class OnlineMnist(OnlineComparison):
    """LeNet learns MNIST in one pass over single images: filters by rank, LO-FI, LRKF, HiLoFi, LoLoFi, AdamW, Muon."""

    presets: ClassVar = {
        "published": {"seeds": 10, "steps": 60_000, "search": 5_000, "ranks": (10, 20, 50, 100)},
        "minutes": {},
        "small": {"steps": 1_000, "search": 200},
    }

    ranks: tuple[Count, ...] = (10,)
    """Directions kept by the filters."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        given = {name: getattr(self, name) for name in ("steps", "seeds", "search")}
        introduction = INTRODUCTION.format(tail=tail(self.steps), **given)
        case = Case(labels(lenet(10)), lambda x: x, step, scores)
        self.compare(console, "online-mnist", "MNIST, one image at a time", introduction, case, mnist())

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Scores of every rank, whom our filters are ahead of, what was chosen, and what was published."""
        columns = {
            "accuracy": ("accuracy, %", 100, ".1f"),
            "whole": ("whole pass, %", 100, ".1f"),
            "milliseconds": ("ms a step", 1, ".3g"),
            "diverged": ("steps diverged", 1, ".3g"),
        }
        return {
            "scores": comparison.score_table(content, columns),
            "verdicts": comparison.verdicts(content, "accuracy", 100, "points of accuracy at the end"),
            "verdicts-whole": comparison.verdicts(content, "whole", 100, "points of accuracy over the whole pass"),
            "chosen": comparison.chosen_table(content),
            "published": comparison.published(content, cls.known, *PUBLISHED, "accuracy over the last 5,000, %"),
        }

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Accuracy of every shuffle, and along the pass."""
        return {"accuracy": lambda: comparison.drawn(content, "", "whole", 100, "accuracy over the whole pass, %")}
