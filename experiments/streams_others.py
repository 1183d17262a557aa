"""The other streams: the station at ten minutes, a transformer, electricity demand, exchange rates."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from experiments import options
from experiments.data import series
from experiments.streams import comparison, protocol
from experiments.streams.study import Budget


class Setting(NamedTuple):
    """The target of a series and the lag of its inputs, in rows."""

    target: str
    lag: int
    day: int


SETTINGS = {
    "jena-2020": Setting("T (degC)", lag=1, day=144),
    "ett": Setting("OT", lag=1, day=24),
    "victoria": Setting("Demand", lag=1, day=48),
    "exchange": Setting("Britain", lag=1, day=1),
}

INTRODUCTION = """One step ahead, made by `python -m experiments streams`: train on the first 60 % of the rows, choose
on the next 20 %, one streaming pass over the rest without gradients. NLL in nats of the standardised target; models,
objective and search for the learning rate as in `jena`, with 300 updates of 4 windows of 128 steps."""


@dataclasses.dataclass(frozen=True)
class Streams:
    """One step ahead on the station's 2020 file, ETTh1, Victoria's electricity demand and exchange rates."""

    streams: tuple[str, ...] = tuple(SETTINGS)
    """Which of jena-2020, ett, victoria, exchange."""
    seeds: int = 3
    """Number of scored runs of each model."""
    updates: int = 300
    """Gradient steps."""
    batch: int = 4
    """Windows in each."""
    window: int = 128
    """Steps of backpropagation; short enough for the shortest stream."""
    models: tuple[str, ...] | None = ("lt_structured", "vrnn", "gru_mixture", "mlp", "kalman", "persistence")
    """Only these models."""
    output: Path = Path("results")
    """Folder for the results; what is there already is not computed again."""
    resume: bool = True
    """Go on with what is there; otherwise remove it first."""

    def __post_init__(self) -> None:
        """Raise ValueError on an option out of its range."""
        options.check(self)

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        unknown = [name for name in self.streams if name not in SETTINGS]
        if unknown:
            raise ValueError(f"streams: expected names of {', '.join(SETTINGS)}, got {', '.join(unknown)}")
        budget = Budget(
            seeds=self.seeds,
            updates=self.updates,
            batch=self.batch,
            window=self.window,
            evaluate_every=self.updates,
        )
        streams = {}
        for name in self.streams:
            loaded, setting = series.LOADERS[name](), SETTINGS[name]
            spans = protocol.shares(loaded)
            streams[name] = protocol.prepare(loaded, setting.target, lag=setting.lag, day=setting.day, spans=spans)
        entries = comparison.pick(self.models)
        more = {"timed": False, "resume": self.resume}
        comparison.report("streams", INTRODUCTION, streams, entries, budget, self.output, console, **more)
