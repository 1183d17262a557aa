"""What of the latent filter matters on Jena Climate, and what the weight of the divergence does to the worst steps."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.baselines import dssm, vrnn
from experiments.data import series
from experiments.streams import comparison, pictures, protocol
from experiments.streams.models import LT, Entry, latent
from experiments.streams.protocol import Variant
from experiments.streams.study import Budget

INTRODUCTION = """Each row changes one thing of the latent filter; made by `python -m experiments jena-ablation`.
The rows named β give the divergence that weight; "no floor" lets a variance go to zero, elsewhere the floor is
(0.02 residual standard deviations)²."""

CHANGES: dict[str, dict[str, Any]] = {
    "as compared": {},
    "unstructured": {"transition": "unstructured"},
    "latent 2": {"latent_dim": 2},
    "latent 16": {"latent_dim": 16},
    "no summary to the predictor": {"summary": False},
    "generator of rank 4": {"generator_hidden": (4,)},
    "generator of rank 32": {"generator_hidden": (32,)},
    "one training sample": {"prior_samples": 1},
}
BUDGETS: dict[str, dict[str, Any]] = {
    "window 64": {"window": 64},
    "K = 8": {"samples": 8},
    "K = 128": {"samples": 128},
    "evidence bound alone": {"predictives": (0.0,)},
    "prior samples alone": {"predictives": (1.0,)},
}
BETAS = (0.01, 0.1, 1.0)


def stress_entries() -> dict[str, Entry]:
    """The models with a divergence, with the floor and without."""
    found: dict[str, Entry] = {}
    for floor, name in ((LT.variance_floor, "floor"), (0.0, "no floor")):
        found |= {
            f"lt_structured, {name}": latent(transition="structured", variance_floor=floor),
            f"lt_unstructured, {name}": latent(transition="unstructured", variance_floor=floor),
            f"vrnn, {name}": Entry(lambda x, y, _, floor=floor: vrnn.build(x, y, floor=floor), samples_prior=True),
            f"dssm, {name}": Entry(lambda x, y, _, floor=floor: dssm.build(x, y, floor=floor), samples_prior=True),
        }
    return found


@dataclasses.dataclass(frozen=True)
class JenaAblation:
    """Ablations of the latent filter on Jena Climate, and the stress test of an under-weighted divergence."""

    seeds: int = 3
    """Number of scored runs of each row."""
    updates: int = 300
    """Gradient steps."""
    learning_rate: float = 1e-2
    """For all rows."""
    variants: tuple[Variant, ...] = ("hard",)
    """Which variants of the stream."""
    rows: tuple[str, ...] | None = None
    """Only these rows of the ablation."""
    betas: tuple[float, ...] = BETAS
    """Weights of the divergence in the stress test; none to leave it out."""
    output: Path = Path("results")
    """Folder for the results; what is there already is not computed again."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        known = (*CHANGES, *BUDGETS)
        rows = known if self.rows is None else self.rows
        if set(rows) - set(known):
            raise ValueError(
                f"rows: expected names of {', '.join(known)}, got {', '.join(sorted(set(rows) - set(known)))}"
            )
        station = series.jena_hourly()
        streams = {variant: protocol.jena(station, variant) for variant in self.variants}
        budget = Budget(
            seeds=self.seeds,
            updates=self.updates,
            learning_rates=(self.learning_rate,),
            predictives=(0.9,),
            evaluate_every=self.updates,
        )
        folder = self.output / "jena-ablation"
        entries = {row: latent(**CHANGES[row]) for row in rows if row in CHANGES}
        budgets = {row: budget._replace(**BUDGETS[row]) for row in rows if row in BUDGETS}
        entries |= dict.fromkeys(budgets, latent())
        content, _ = comparison.run("jena-ablation", streams, entries, budget, self.output, console, budgets=budgets)
        comparison.print_tables(console, content)
        comparison.write_report(folder / "README.md", content, INTRODUCTION, [])
        if self.betas:
            self._stress(console, budget, {"easy": protocol.jena(station, "easy")})

    def _stress(self, console: Console, budget: Budget, streams: dict[str, Any]) -> None:
        entries, budgets = {}, {}
        for beta in self.betas:
            for name, entry in stress_entries().items():
                entries[f"{name}, β = {beta:g}"] = entry
                # The evidence bound alone: half an objective of prior samples would hide what β does.
                budgets[f"{name}, β = {beta:g}"] = budget._replace(beta=beta, predictives=(0.0,))
        content, _ = comparison.run("jena-stress", streams, entries, budget, self.output, console, budgets=budgets)
        comparison.print_tables(console, content)
        folder = self.output / "jena-stress"
        comparison.write_report(folder / "README.md", content, INTRODUCTION, [])
        models = content["variants"]["easy"]["models"]
        lines = {
            name: (self.betas, [models[f"{name}, β = {beta:g}"]["max_nll"] or float("nan") for beta in self.betas])
            for name in stress_entries()
        }
        pictures.curves(folder / "max-nll.png", "The worst step of any seed", "β", lines)
