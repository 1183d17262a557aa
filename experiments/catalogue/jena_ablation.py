"""What of LatentTrack matters on Jena Climate: one thing changed at a time."""

import dataclasses
from typing import Any, ClassVar

from rich.console import Console

from experiments.data import series
from experiments.run.options import Count, Positive
from experiments.streaming import protocol
from experiments.streaming.comparison import StreamComparison
from experiments.streaming.models.latent import latent
from experiments.streaming.protocol import Variant
from experiments.streaming.training import Budget

INTRODUCTION = """Each row changes one thing of the latent filter; made by `python -m experiments jena-ablation`.
Smaller than the comparison of `jena`: 300 updates of 4 windows, one learning rate for all rows, nothing chosen on 2014.
The objective is the log density of the prediction, a mixture over 32 prior samples at fixed points, unless a row says
otherwise. The variance floor is (0.02 residual standard deviations)²."""

REFERENCE = "as compared"
CHANGES: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "unstructured": {"transition": "unstructured"},
    "latent 2": {"latent_dim": 2},
    "latent 16": {"latent_dim": 16},
    "no summary to the predictor": {"summary": False},
    "z as an input, nothing generated": {"conditioning": "input", "predictor_hidden": (60,)},
    "generator of rank 4": {"generator_hidden": (4,)},
    "generator of rank 32": {"generator_hidden": (32,)},
    "random points": {"points": "random"},
    "random points, 8 in training": {"points": "random", "prior_samples": 8},
}
BUDGETS: dict[str, dict[str, Any]] = {
    "window 64": {"window": 64},
    "K = 8": {"samples": 8},
    "K = 128": {"samples": 128},
    "evidence bound alone": {"predictives": (0.0,)},
    "a tenth evidence bound": {"predictives": (0.9,)},
    "half evidence bound": {"predictives": (0.5,)},
}


@dataclasses.dataclass(frozen=True)
class JenaAblation(StreamComparison):
    """Ablations of the latent filter on Jena Climate."""

    looked_for: ClassVar = (*CHANGES, *BUDGETS)

    seeds: Count = 3
    """Number of scored runs of each row."""
    updates: Count = 300
    """Gradient steps."""
    batch: Count = 4
    """Windows in each."""
    learning_rate: Positive = 1e-2
    """For all rows."""
    variants: tuple[Variant, ...] = ("hard",)
    """Which variants of the stream."""
    rows: tuple[str, ...] | None = None
    """Only these rows of the ablation."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        known = (*CHANGES, *BUDGETS)
        rows = known if self.rows is None else self.rows
        if unknown := sorted(set(rows) - set(known)):
            raise ValueError(f"rows: expected names of {', '.join(known)}, got {', '.join(unknown)}; correct the name")
        station = series.jena_hourly()
        budget = Budget(
            seeds=self.seeds,
            updates=self.updates,
            batch=self.batch,
            learning_rates=(self.learning_rate,),
            predictives=(1.0,),
            evaluate_every=self.updates,
        )
        self.compare(
            console,
            "jena-ablation",
            INTRODUCTION,
            {variant: protocol.jena(station, variant) for variant in self.variants},
            {row: latent(**CHANGES.get(row, {})) for row in rows},
            budget,
            budgets={row: budget._replace(**BUDGETS[row]) for row in rows if row in BUDGETS},
            pairs=[(row, REFERENCE) for row in rows if row != REFERENCE],
            timed=False,
        )
