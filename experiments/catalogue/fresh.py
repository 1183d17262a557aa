"""One step ahead on targets that nothing was chosen on: chosen on old data, scored once."""

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np
from rich.console import Console

from experiments.data import series
from experiments.run.options import Count
from experiments.streaming import models, protocol
from experiments.streaming.chosen import CHOSEN, CORRECTED, as_chosen
from experiments.streaming.comparison import OURS, StreamComparison
from experiments.streaming.protocol import Spans
from experiments.streaming.training import Budget


class Setting(NamedTuple):
    """A series and its target, a day in rows, where validation and test begin (None: at 60 % and 80 %), and a label."""

    series: str
    target: str
    day: int
    spans: Spans | None
    label: str


SETTINGS = {
    "elec2": Setting("elec2", "nswdemand", 48, None, "demand, scaled"),
    "ett-load": Setting("ett", "HUFL", 24, None, "high useful load"),
    "jena-carried": Setting(
        *("jena-carried", "T (degC)", 24, Spans(np.datetime64("2014-01-01"), np.datetime64("2019-12-31"))),
        "temperature, °C",
    ),
}
MODELS = (
    *("lt_structured", "latent_input", "gru_mixture", "gru_32", "vrnn", "dssm", "transformer", "nextlat", "gp"),
    *("kalman", "persistence"),
)
PAIRS = (
    *((ours, name) for ours in (OURS[0], "lt_adapted") for name in MODELS if name not in (OURS[0], "persistence")),
    *(("lt_adapted", name) for name in (OURS[0], "gru_32_adapted")),
    *((OURS[0], "gru_32_adapted"), ("gru_32_adapted", "gru_32")),
)

INTRODUCTION = """Targets on which nothing was chosen and nothing scored before, made by `python -m experiments fresh`.
The protocol was committed before its one run; the two models that a filter corrects came after it, with the parameters
of those that they correct and nothing chosen here. *elec2*: demand of New South Wales (half-hourly, 1996–1998).
*ett-load*: the high useful load HUFL of ETTh1, whose oil temperature is one of `streams`. *jena-carried*: the station's
temperature in 2020, hourly, by models trained on 2009–2013 and not trained again (the ten-minute values of that year
are a stream of `streams`, for models trained on that year itself). The inputs are the last row's values and the
calendar. Trained on the first 60 % of the rows, or 2009–2013; the last update is kept, and the next 20 %, or 2014, warm
the state up and say whether LatentTrack is taken with or without the filter; one streaming pass over the rest without
gradients.

Nothing is searched here: shapes are those of `jena`, and each model's learning rate and share of the prediction in the
objective are those that 2014 chose in `{chosen}`, by the same search for all and at the budget of this page: {seeds}
seeds, {updates} updates of {batch} windows of {window} steps. That is small, a third of the updates and a twelfth of
the steps of `jena`: it ranks models by what they reach with it. NLL in nats of the standardised target."""


@dataclasses.dataclass(frozen=True)
class Fresh(StreamComparison):
    """A fresh span: models as chosen on Jena Climate, trained and scored once on other targets."""

    presets: ClassVar = {"quick": {"seeds": 2, "updates": 50, "streams": ("ett-load",)}}

    streams: tuple[str, ...] = tuple(SETTINGS)
    """Which of elec2, ett-load, jena-carried."""
    seeds: Count = 3
    """Number of scored runs of each model."""
    updates: Count = 200
    """Gradient steps."""
    batch: Count = 4
    """Windows in each."""
    window: Count = 128
    """Steps of backpropagation."""
    models: tuple[str, ...] = (*MODELS, *CORRECTED)
    """Only these models, of those that jena-small has."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        if unknown := [name for name in self.streams if name not in SETTINGS]:
            raise ValueError(f"streams: expected names of {', '.join(SETTINGS)}, got {', '.join(unknown)}; correct it")
        given = {name: getattr(self, name) for name in ("seeds", "updates", "batch", "window")}
        budget = Budget(**given, evaluate_every=self.updates)
        folder, introduction = self.named("fresh", INTRODUCTION.format(chosen=CHOSEN[0], **given))
        entries = models.pick(self.models)
        budgets = {name: as_chosen(name, budget) for name, entry in entries.items() if entry.trained}
        more = {"budgets": budgets, "pairs": PAIRS, "timed": False}
        self.compare(console, folder, introduction, prepared(self.streams), entries, budget, **more)


def prepared(names: tuple[str, ...]) -> dict[str, protocol.Stream]:
    """The streams by name."""
    streams = {}
    for name in names:
        setting = SETTINGS[name]
        loaded = series.LOADERS[setting.series]()
        streams[name] = protocol.prepare(
            loaded,
            setting.target,
            lag=1,
            day=setting.day,
            spans=setting.spans or protocol.shares(loaded),
            label=setting.label,
        )
    return streams
