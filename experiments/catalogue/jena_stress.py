"""What an under-weighted divergence does to the worst steps of latent models, on Jena Climate."""

import dataclasses
from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from experiments.data import series
from experiments.run import pictures
from experiments.run.experiment import Arrays, Content
from experiments.run.labels import label
from experiments.run.options import Count, Positive
from experiments.run.report import Table
from experiments.streaming import models, protocol
from experiments.streaming.comparison import StreamComparison
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.latent import LT
from experiments.streaming.training import Budget

INTRODUCTION = """The weight β of the divergence against the worst steps, made by `python -m experiments jena-stress`:
trained on the evidence bound alone, "easy", 2015–2016, all seeds together. "floor": no variance below (0.02 residual
standard deviations)², which bounds what one step can cost; "no floor": a variance may go to zero. A GRU and an MLP
have no divergence; their row is for comparison. Inf: a density of zero in float32; failed: runs with a step above 1e6
nats or without a number."""

MODELS = ("lt_structured", "lt_unstructured", "vrnn", "dssm", "bbb", "gru", "mlp")
UNWEIGHTED = ("gru", "mlp")
FLOORS = {"floor": LT.variance_floor, "no floor": 0.0}


def stressed(name: str, floor: float) -> Entry:
    """A model with a variance floor, and one prior sample in training."""
    entry = models.known()[name]
    changes = {"variance_floor": floor} if name.startswith("lt_") else {"floor": floor}
    if name.startswith("lt_"):
        changes |= {"prior_samples": 1}
    elif name in ("vrnn", "dssm"):
        changes |= {"train_samples": 1}
    return dataclasses.replace(entry, options={**entry.options, **changes})


@dataclasses.dataclass(frozen=True)
class JenaStress(StreamComparison):
    """The stress test of an under-weighted divergence: evidence bound alone, with and without a variance floor."""

    seeds: Count = 3
    """Number of scored runs of each row."""
    updates: Count = 200
    """Gradient steps."""
    batch: Count = 4
    """Windows in each."""
    learning_rate: Positive = 1e-2
    """For all rows."""
    betas: tuple[Positive, ...] = (0.01, 0.1, 1.0)
    """Weights of the divergence; models without one have the last alone."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        # The evidence bound alone: an objective of prior samples would hide what β does.
        budget = Budget(
            seeds=self.seeds,
            updates=self.updates,
            batch=self.batch,
            learning_rates=(self.learning_rate,),
            predictives=(0.0,),
            evaluate_every=self.updates,
        )
        entries, budgets = {}, {}
        for floor, value in FLOORS.items():
            for name in MODELS:
                for beta in self.betas[-1:] if name in UNWEIGHTED else self.betas:
                    entries[_row(name, floor, beta)] = stressed(name, value)
                    budgets[_row(name, floor, beta)] = budget._replace(beta=beta)
        stream = {"easy": protocol.jena(series.jena_hourly(), "easy")}
        more = {"budgets": budgets, "pairs": (), "timed": False}
        self.compare(console, "jena-stress", INTRODUCTION, stream, entries, budget, **more)

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """The worst step, the 99.9 % quantile and the steps above 10 nats of each model, floor and β."""
        rows = []
        for name, floor, beta, one in _ordered(content):
            worst, tail, mean = (
                "inf" if value is None else f"{value:,.{digits}f}"
                for value, digits in ((one["max_nll"], 0), (one["quantile999"], 1), (one["nll"]["mean"], 3))
            )
            weight = "–" if name in UNWEIGHTED else f"{beta:g}"
            spikes, failed = f"{one['spikes']['mean']:.1f}", f"{100 * one['failure_rate']:.0f} %"
            rows.append([label(name), floor, weight, mean, worst, tail, spikes, failed])
        head = ("model", "floor", "β", "NLL", "max NLL", "99.9 %", "steps > 10", "failed")
        return {"stress": Table(head, rows, words=2)}

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """The worst step of any seed against β, with and without the floor."""
        y = "NLL of the worst step, nats"
        rows = [(floor, name, beta, one["max_nll"]) for name, floor, beta, one in _ordered(content)]
        frame = pd.DataFrame(rows, columns=["floor", "name", "weight of the divergence β", y])
        frame = frame[~frame["name"].isin(UNWEIGHTED)]
        panels = {f"with {floor}".replace("with no", "without"): part for floor, part in frame.groupby("floor")}
        title = "An under-weighted divergence makes catastrophes in every latent model"
        return {"max-nll": lambda: pictures.logarithmic(panels, title, "weight of the divergence β", y)}


def _row(name: str, floor: str, beta: float) -> str:
    return f"{name}, {floor}, β = {beta:g}"


def _ordered(content: Content) -> list[tuple]:
    """Name, floor, β and the scores of each row."""
    found = content["variants"]["easy"]["models"]
    betas = sorted({float(name.rpartition("= ")[2]) for name in found})
    places = [(name, floor, beta) for name in MODELS for floor in FLOORS for beta in betas]
    return [(*place, found[_row(*place)]) for place in places if _row(*place) in found]
