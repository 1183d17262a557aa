"""Forecasts of 48 steps on a transformer, the Jena station, electricity demand and exchange rates."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from rich.console import Console

from experiments.data import series
from experiments.run.experiment import Content, Experiment
from experiments.run.labels import label
from experiments.run.options import Count
from experiments.run.report import Table
from experiments.streaming import ahead
from experiments.streaming.ahead import Span
from experiments.streaming.scores import block_error

HORIZONS = (1, 3, 6, 12, 24, 48)


class Setting(NamedTuple):
    """A target, rows of its season, rows between origins, and each how many rows are taken."""

    target: str
    season: int
    every: int
    thinned: int = 1


SETTINGS = {
    "ett": Setting("OT", 24, 24),
    "jena-2020": Setting("T (degC)", 24, 24, thinned=6),
    "victoria": Setting("Demand", 48, 48),
    "exchange": Setting("Britain", 7, 24),
}
TRAINED = {
    "forecaster": None,
    "forecaster_gru_8": ahead.mixture_of_8,
    "forecaster_gru_32": ahead.mixture_of_32,
    "forecaster_kalman": ahead.linear,
    "gp": ahead.process,
}
"""Models behind ``lt.Forecaster``'s frames and inputs; None: its own."""
OTHERS: dict[str, Callable[[Span], np.ndarray]] = {"boosted": ahead.boosted, "seasonal_naive": ahead.seasonal_naive}
MODELS = (*TRAINED, *OTHERS)

INTRODUCTION = """48 steps ahead from many origins, made by `python -m experiments forecast`: train on the first 60 % of
the rows, choose on the next 20 %, and on the rest forecast from every origin with all rows before it seen, nothing
trained there. All models know the calendar and the target's own past alone. Trained models are `lt.Forecaster` and the
same inputs, increments, budget and sampled paths around a GRU with a mixture as its head, around a linear-Gaussian
state-space model and around a Gaussian process; one learning rate for all, not searched. Boosted: LightGBM, one model
a quantile, direct. Seasonal naive: the last season's value with the quantiles of its errors in training. wQL: mean
weighted quantile loss at 0.1 … 0.9 (2 Σ pinball / Σ |y|); MASE: of the median, against the seasonal naive error in
training; relative: wQL over seasonal naive's. Errors: bootstrap over blocks of a week of origins, of the first seed;
not over seeds."""


@dataclasses.dataclass(frozen=True)
class Forecast(Experiment):
    """Quantiles of 48 steps ahead by lt.Forecaster, recurrent mixtures, boosted trees and the season before."""

    presets: ClassVar = {
        "published": {"seeds": 3, "updates": 1200},
        "minutes": {
            "updates": 200,
            "streams": ("ett", "exchange"),
            "models": ("forecaster", "forecaster_gru_8", "boosted", "seasonal_naive"),
        },
    }

    streams: tuple[str, ...] = tuple(SETTINGS)
    """Which of ett, jena-2020, victoria, exchange."""
    models: tuple[str, ...] = MODELS
    """Which of forecaster, forecaster_gru_8, forecaster_gru_32, forecaster_kalman, gp, boosted, seasonal_naive."""
    seeds: Count = 1
    """Trainings of each trained model."""
    updates: Count = 600
    """Gradient steps."""
    ahead: Count = 48
    """Steps ahead."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        for name, given, known in (("streams", self.streams, SETTINGS), ("models", self.models, MODELS)):
            if unknown := [one for one in given if one not in known]:
                raise ValueError(f"{name}: expected names of {', '.join(known)}, got {', '.join(unknown)}; correct it")
        spans = {name: prepared(name, self.ahead) for name in self.streams}
        data = [span.frame["y"].to_numpy() for span in spans.values()]
        depends = {"ahead": self.ahead, "updates": self.updates}
        settings = {"depends": depends, "options": self.depends(), "introduction": INTRODUCTION}
        with self.study(console, "forecast", "Forecasts of 48 steps", data=data, **settings) as study:
            found: dict[str, Any] = {}
            for stream, span in spans.items():
                content: dict[str, Any] = {"origins": len(span.origins()), "models": {}}
                for model in self.models:
                    runs = []
                    with study.part(f"{stream}: {label(model)}", self.seeds if model in TRAINED else 1) as advance:
                        for seed in range(self.seeds if model in TRAINED else 1):
                            runs.append(
                                study.cache.recall(
                                    {"stream": stream, "model": model, "seed": seed},
                                    lambda: self._scored(span, model, seed),  # noqa: B023
                                    lambda: {"loss": 0, "in80": 0, "in95": 0, "error": 0},
                                )
                            )
                            advance()
                    content["models"][model] = _summary(span, runs)
                found[stream] = content
            study.finish({"streams": found})

    def _scored(self, span: Span, model: str, seed: int) -> dict[str, np.ndarray]:
        if model in OTHERS:
            return ahead.scored(span, OTHERS[model](span))
        return ahead.scored(span, ahead.trained(span, seed, self.updates, TRAINED[model]))

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Scores over all steps, coverage by horizon."""
        heads = ["stream", "model", "wQL", "relative", "MASE", "in 80 %, %", "in 95 %, %"]
        rows, by_horizon = [], []
        for stream, found in content["streams"].items():
            naive = found["models"].get("seasonal_naive", {}).get("wql")
            for model, scores in found["models"].items():
                relative = "–" if naive is None else f"{scores['wql'] / naive:.3f}"
                pairs = [_with_error(scores, name) for name in ("wql", "mase", "in80", "in95")]
                rows.append([stream, label(model), pairs[0], relative, *pairs[1:]])
                for level in (80, 95):
                    shares = [f"{100 * value:.0f}" for value in scores["by_horizon"][f"in{level}"]]
                    by_horizon.append([stream, label(model), str(level), *shares])
        coverage = Table(
            ["stream", "model", "level, %", *map(str, HORIZONS)], by_horizon, "Share of targets inside, %.", 2
        )
        return {"scores": Table(heads, rows, "Value ± standard error.", 2), "coverage by steps ahead": coverage}


def prepared(name: str, steps: int) -> Span:
    """A stream on its grid, cut at 60 % and 80 % of its rows; a missing value is the one before."""
    loaded, setting = series.LOADERS[name](), SETTINGS[name]
    rows = slice(None, None, setting.thinned)
    frame = pd.DataFrame({"time": loaded.time[rows], "y": loaded.values[rows, loaded.column(setting.target)]})
    frame = frame.assign(y=frame["y"].astype(float)).drop_duplicates("time")
    step = frame["time"].diff().mode()[0]
    grid = pd.date_range(frame["time"].iloc[0], frame["time"].iloc[-1], freq=step, name="time")
    frame = frame.set_index("time").reindex(grid).ffill().reset_index()
    train, test = int(0.6 * len(frame)), int(0.8 * len(frame))
    return Span(frame, setting.season, train, test, steps, setting.every)


def _summary(span: Span, runs: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    size, naive = np.abs(span.targets()).mean(), ahead.naive_error(span)
    week = max(1, round(7 * 24 * 3600 / _seconds(span)))
    each = {
        "wql": [run["loss"].mean(1) / size for run in runs],
        "mase": [run["error"].mean(1) / naive for run in runs],
        "in80": [run["in80"].mean(1) for run in runs],
        "in95": [run["in95"].mean(1) for run in runs],
    }
    errors = {name: block_error(values[0], week) for name, values in each.items()}
    horizons = [h - 1 for h in HORIZONS if h <= span.ahead]
    return {
        **{name: float(np.mean(values)) for name, values in each.items()},
        "per_seed": {name: [float(value.mean()) for value in values] for name, values in each.items()},
        "errors": errors,
        "by_horizon": {
            name: np.mean([run[name].mean(0) for run in runs], axis=0)[horizons].tolist()
            for name in ("in80", "in95", "error", "loss")
        },
    }


def _seconds(span: Span) -> float:
    """Between two origins."""
    return span.every * (span.frame["time"].iloc[1] - span.frame["time"].iloc[0]).total_seconds()


def _with_error(scores: dict[str, Any], name: str) -> str:
    factor, form = (100, ".1f") if name.startswith("in") else (1, ".4f" if name == "wql" else ".3f")
    return f"{factor * scores[name]:{form}} ± {factor * scores['errors'][name]:{form}}"
