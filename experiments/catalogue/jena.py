"""Jena Climate: the latent filter and its baselines on the temperature of the next hour."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from experiments import options
from experiments.data import series
from experiments.streaming import comparison, protocol
from experiments.streaming.protocol import Variant
from experiments.streaming.study import Budget

Preset = Literal["quick", "default", "published"]
PRESETS: dict[Preset, Budget] = {
    "quick": Budget(seeds=2, updates=100, learning_rates=(1e-2,), predictives=(0.9,), evaluate_every=100),
    "default": Budget(),
    "published": Budget(seeds=25, tuning_seeds=3, updates=6000),
}

INTRODUCTION = """Temperature of the next hour at Jena, made by `python -m experiments jena`. Trained on 2009–2013,
chosen on 2014, one streaming pass over 2015–2016 without gradients; each prediction is made before its value is seen.
NLL in nats of the standardised temperature, mean over seeds ± standard error. Every model has the same number of
updates and windows, the same search for its learning rate (0.01, 0.02, then on by factors of 2 until the best is not
the first or last) and the same objective: what is scored, the log density of the prediction. Where that is a mixture
over a prior, it is of 32 samples, as online (LatentTrack takes them at fixed points), and 2014 also chooses whether a
tenth of the objective is the evidence bound. The variance floor of every head is (0.02 residual standard deviations)².
"easy": the last hour is an input. "hard": inputs are a day old, and only the state knows what happened since."""


@dataclasses.dataclass(frozen=True)
class Jena:
    """LatentTrack against VRNN, DSSM, a GRU, static models, a Kalman filter and the weight filter, on Jena Climate."""

    preset: Preset = "default"
    """quick: minutes, for a look; default: an hour and a half on two cores; published: the size of the publication."""
    seeds: int | None = None
    """Number of scored runs of each model, instead of the preset's."""
    updates: int | None = None
    """Gradient steps, instead of the preset's."""
    models: tuple[str, ...] | None = None
    """Only these models."""
    variants: tuple[Variant, ...] = protocol.VARIANTS
    """What the inputs know: the last hour (easy), or the last day (hard)."""
    output: Path = Path("results")
    """Folder for the results; what is there already is not computed again."""
    resume: bool = True
    """Go on with what is there; otherwise remove it first."""

    def __post_init__(self) -> None:
        """Raise ValueError on an option out of its range."""
        options.check(self)

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        changes: dict[str, Any] = {"seeds": self.seeds, "updates": self.updates}
        budget = PRESETS[self.preset]._replace(**{name: value for name, value in changes.items() if value is not None})
        budget = budget._replace(evaluate_every=_divisor(budget.updates, budget.evaluate_every))
        station = series.jena_hourly()
        streams = {variant: protocol.jena(station, variant) for variant in self.variants}
        entries = comparison.pick(self.models)
        comparison.report("jena", INTRODUCTION, streams, entries, budget, self.output, console, resume=self.resume)


def _divisor(updates: int, wanted: int) -> int:
    """The largest divisor of ``updates`` that is at most ``wanted``."""
    return next(size for size in range(min(updates, wanted), 0, -1) if updates % size == 0)
