"""What of the latent filter matters on Jena Climate, and what the weight of the divergence does to the worst steps."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import options, pages, pictures
from experiments.data import series
from experiments.run.results import written_whole
from experiments.streaming import comparison, protocol
from experiments.streaming.models import LABELS, LT, Entry, dssm, gru, latent, static, vrnn
from experiments.streaming.protocol import Variant
from experiments.streaming.study import Budget

INTRODUCTION = """Each row changes one thing of the latent filter; made by `python -m experiments jena-ablation`.
Smaller than the comparison of `jena`: 300 updates of 4 windows, one learning rate for all rows, nothing chosen on 2014.
The objective is the log density of the prediction, a mixture over 32 prior samples at fixed points, unless a row says
otherwise. The variance floor is (0.02 residual standard deviations)²."""

STRESS = """The weight β of the divergence against the worst steps, made by `python -m experiments jena-ablation`:
trained on the evidence bound alone, "easy", 2015–2016, all seeds together. "floor": no variance below (0.02 residual
standard deviations)², which bounds what one step can cost; "no floor": a variance may go to zero. A GRU and an MLP
have no divergence; their row is for comparison. Inf: a density of zero in float32; failed: runs with a step above 1e6
nats or without a number."""

REFERENCE = "as compared"
CHANGES: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "unstructured": {"transition": "unstructured"},
    "latent 2": {"latent_dim": 2},
    "latent 16": {"latent_dim": 16},
    "no summary to the predictor": {"summary": False},
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
FLOORS = {"floor": LT.variance_floor, "no floor": 0.0}
BUILDERS: dict[str, Callable[..., Any]] = {
    "vrnn": vrnn.build,
    "dssm": dssm.build,
    "bbb": static.bayes_by_backprop,
    "gru": gru.build,
    "mlp": static.mlp,
}
UNWEIGHTED = ("gru", "mlp")


def stressed(name: str, floor: float) -> Entry:
    """A model of the stress test with a variance floor."""
    if name.startswith("lt_"):
        return latent(transition=name.removeprefix("lt_"), variance_floor=floor, prior_samples=1)
    build = BUILDERS[name]
    if name in ("vrnn", "dssm"):
        return Entry(lambda x, y, _: build(x, y, floor=floor, train_samples=1), samples_prior=True)
    if name == "bbb":
        return Entry(lambda x, y, steps: build(x, y, steps=steps, floor=floor))
    return Entry(lambda x, y, _: build(x, y, floor=floor))


@dataclasses.dataclass(frozen=True)
class JenaAblation:
    """Ablations of the latent filter on Jena Climate, and the stress test of an under-weighted divergence."""

    seeds: int = 3
    """Number of scored runs of each row."""
    updates: int = 300
    """Gradient steps."""
    batch: int = 4
    """Windows in each."""
    learning_rate: float = 1e-2
    """For all rows."""
    variants: tuple[Variant, ...] = ("hard",)
    """Which variants of the stream."""
    rows: tuple[str, ...] | None = None
    """Only these rows of the ablation."""
    betas: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Weights of the divergence in the stress test; none to leave it out."""
    stress_updates: int = 200
    """Gradient steps in the stress test."""
    output: Path = Path("results")
    """Folder for the results; what is there already is not computed again."""
    resume: bool = True
    """Go on with what is there; otherwise remove it first."""

    def __post_init__(self) -> None:
        """Raise ValueError on an option out of its range."""
        options.check(self)

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        known = (*CHANGES, *BUDGETS)
        rows = known if self.rows is None else self.rows
        if unknown := sorted(set(rows) - set(known)):
            raise ValueError(f"rows: expected names of {', '.join(known)}, got {', '.join(unknown)}")
        station = series.jena_hourly()
        budget = Budget(
            seeds=self.seeds,
            updates=self.updates,
            batch=self.batch,
            learning_rates=(self.learning_rate,),
            predictives=(1.0,),
            evaluate_every=self.updates,
        )
        comparison.report(
            "jena-ablation",
            INTRODUCTION,
            {variant: protocol.jena(station, variant) for variant in self.variants},
            {row: latent(**CHANGES.get(row, {})) for row in rows},
            budget,
            self.output,
            console,
            budgets={row: budget._replace(**BUDGETS[row]) for row in rows if row in BUDGETS},
            pairs=[(row, REFERENCE) for row in rows if row != REFERENCE],
            timed=False,
            resume=self.resume,
        )
        if self.betas:
            self._stress(console, budget, protocol.jena(station, "easy"))

    def _stress(self, console: Console, budget: Budget, stream: protocol.Stream) -> None:
        entries, budgets = {}, {}
        # The evidence bound alone: an objective of prior samples would hide what β does.
        updates = self.stress_updates
        budget = budget._replace(updates=updates, evaluate_every=updates, predictives=(0.0,))
        for floor, value in FLOORS.items():
            for name in ("lt_structured", "lt_unstructured", *BUILDERS):
                for beta in self.betas[-1:] if name in UNWEIGHTED else self.betas:
                    entries[_row(name, floor, beta)] = stressed(name, value)
                    budgets[_row(name, floor, beta)] = budget._replace(beta=beta)
        content, _ = comparison.run(
            "jena-stress",
            {"easy": stream},
            entries,
            budget,
            self.output,
            console,
            budgets=budgets,
            pairs=(),
            timed=False,
            resume=self.resume,
        )
        folder = self.output / "jena-stress"
        models = content["variants"]["easy"]["models"]
        text = f"# jena-stress\n\n{STRESS}\n\n{stress_table(models, self.betas)}\n\n![max-nll.png](max-nll.png)\n"
        with written_whole(folder / "README.md") as file:
            file.write(text.encode())
        console.print(stress_table(models, self.betas), highlight=False)
        panels = {
            floor: {
                LABELS[name]: (
                    self.betas,
                    [models[_row(name, floor, beta)]["max_nll"] or float("nan") for beta in self.betas],
                )
                for name in ("lt_structured", "lt_unstructured", *BUILDERS)
                if name not in UNWEIGHTED
            }
            for floor in FLOORS
        }
        pictures.log_lines(folder / "max-nll.png", "β", "NLL of the worst step of any seed [nats]", panels)


def _row(name: str, floor: str, beta: float) -> str:
    return f"{name}, {floor}, β = {beta:g}"


def stress_table(models: Mapping[str, Any], betas: tuple[float, ...]) -> str:
    """The worst step, the 99.9 % quantile and the steps above 10 nats of each model, floor and β, as markdown."""
    rows = []
    for name in ("lt_structured", "lt_unstructured", *BUILDERS):
        for floor in FLOORS:
            for beta in betas[-1:] if name in UNWEIGHTED else betas:
                one = models[_row(name, floor, beta)]
                worst, tail, mean = (
                    "inf" if value is None else f"{value:,.{digits}f}"
                    for value, digits in ((one["max_nll"], 0), (one["quantile999"], 1), (one["nll"]["mean"], 3))
                )
                weight = "–" if name in UNWEIGHTED else f"{beta:g}"
                spikes, failed = f"{one['spikes']['mean']:.1f}", f"{100 * one['failure_rate']:.0f} %"
                rows.append((LABELS[name], floor, weight, mean, worst, tail, spikes, failed))
    head = ("model", "floor", "β", "NLL", "max NLL", "99.9 %", "steps > 10", "failed")
    return pages.table(head, rows, words=2)
