"""Forecasts of 48 steps on a transformer, the Jena station, electricity demand and exchange rates."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import numpy as np
import pandas as pd
from rich.console import Console

from experiments.data import series
from experiments.data.files import DataFileError
from experiments.run.experiment import Content, Experiment, Study
from experiments.run.labels import label
from experiments.run.options import Count, Range
from experiments.run.report import Table
from experiments.streaming import ahead, weather
from experiments.streaming.ahead import Span
from experiments.streaming.scores import block_error

HORIZONS = (1, 3, 6, 12, 24, 48)


class Setting(NamedTuple):
    """A target, rows of its season, rows between origins, and each how many rows are taken.

    Origins are at every phase of the season, so that each step ahead is: a day's hours are not alike.
    """

    target: str
    season: int
    every: int
    thinned: int = 1


SETTINGS = {
    "ett": Setting("OT", 24, 23),
    "jena-2020": Setting("T (degC)", 24, 23, thinned=6),
    "victoria": Setting("Demand", 48, 47),
    "elec2": Setting("nswdemand", 48, 47),
    "exchange": Setting("Britain", 7, 12),
}
TRAINED: dict[str, dict[str, Any]] = {
    "forecaster": {},
    "forecaster_adapted": {"adapt": "filter"},
    "forecaster_gru_8": {"build": ahead.mixture_of_8},
    "forecaster_gru_32": {"build": ahead.mixture_of_32},
    "forecaster_kalman": {"build": ahead.linear},
    "gp": {"build": ahead.process},
}
"""Models behind ``lt.Forecaster``'s frames and inputs, and what is chosen of them."""
OTHERS: dict[str, Callable[[Span], np.ndarray]] = {"boosted": ahead.boosted, "seasonal_naive": ahead.seasonal_naive}
MODELS = (*TRAINED, *OTHERS)
WINDOWED = ("forecaster",)
DRAWN = "_drawn"
SCORES = ("loss", "in80", "in95", "error")

INTRODUCTION = """48 steps ahead from many origins, made by `python -m experiments forecast`: train on the first 60 % of
the rows, choose on the next 20 %, and on the rest forecast from every origin with all rows before it seen, no weight
trained there. All models know the calendar and the target's own past alone. Trained models are `lt.Forecaster` and the
same inputs, increments, budget and sampled paths around a GRU with a mixture as its head, around a linear-Gaussian
state-space model and around a Gaussian process; one learning rate for all, not searched. Their intervals are
calibrated by step ahead, on the validation rows and then by each forecast whose rows have come; "as drawn": the same
paths without. Adapted: a filter of a last layer goes on learning. Boosted: LightGBM, one model a quantile, direct.
Seasonal naive: the last season's value with the quantiles of its errors in training. wQL: mean weighted quantile loss
at 0.1 … 0.9 (2 Σ pinball / Σ |y|); MASE: of the median, against the seasonal naive error in training; relative: wQL
over seasonal naive's. Errors: bootstrap over blocks of a week of origins, of the first seed; not over seeds."""

WINDOWS = """The Jena station's 2020 by the windows of GIFT-Eval's jena_weather/H: the mean of each hour, 21 channels,
each forecast from its own past; the last tenth of the rows in windows that follow each other, at most twenty; CRPS is
the mean weighted quantile loss over all channels, MASE a mean over channels and windows, relative: CRPS over seasonal
naive's. Published at 48 steps: seasonal naive .154, AutoARIMA .143, PatchTST .050, TFT .0483, Chronos-2 .0419.

What differs: that file keeps −9999 where nothing was measured (81 of the 10-minute values, all before the test rows),
here they are missing. With them kept, the seasonal naive of the same code has {sentinels:.4f} at 48 steps, the
published value; without them {naive:.4f}, so that ours is to be held against published CRPS and not against published
ratios. One model of all channels, with parameters that they share, serves all numbers of steps: it was trained on the
rows before the first window of the longest, and chosen on the last tenth of those. The calendar is an input."""
"""Above the windows' table."""


@dataclasses.dataclass(frozen=True)
class Forecast(Experiment):
    """Quantiles of 48 steps ahead by lt.Forecaster, recurrent mixtures, boosted trees and the season before."""

    presets: ClassVar = {
        "published": {"seeds": 3, "updates": 1200},
        "minutes": {
            "updates": 200,
            "streams": ("ett", "exchange"),
            "models": ("forecaster", "forecaster_gru_8", "boosted", "seasonal_naive"),
            "windows": (48,),
        },
    }

    streams: tuple[str, ...] = tuple(SETTINGS)
    """Which of ett, jena-2020, victoria, elec2, exchange."""
    models: tuple[str, ...] = MODELS
    """Which of forecaster, forecaster_adapted, forecaster_gru_8, forecaster_gru_32, forecaster_kalman, gp, boosted,
    seasonal_naive."""
    windows: Annotated[tuple[Count, ...], Range(0)] = (48, 480, 720)
    """Steps ahead of the windows of the Jena station's 2020, as GIFT-Eval has them; none: leave them out."""
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
        weather_of = _weather(console) if self.windows else None
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
                                    lambda: _like(model),  # noqa: B023
                                )
                            )
                            advance()
                    content["models"][model] = _summary(span, [run["calibrated"] for run in runs])
                    if model in TRAINED:
                        content["models"][f"{model}{DRAWN}"] = _summary(span, [run["drawn"] for run in runs])
                found[stream] = content
                study.write({"streams": found, "windows": {}})
            windows = {} if weather_of is None else self._windows(study, weather_of)
            study.finish({"streams": found, "windows": windows})

    def _scored(self, span: Span, model: str, seed: int) -> dict[str, dict[str, np.ndarray]]:
        if model in OTHERS:
            return {"calibrated": ahead.scored(span, OTHERS[model](span))}
        both = ahead.trained(span, seed, self.updates, **TRAINED[model])
        return {name: ahead.scored(span, one) for name, one in zip(("calibrated", "drawn"), both, strict=True)}

    def _windows(self, study: Study, frame: pd.DataFrame) -> dict[str, Any]:
        """Scores of each number of steps by the models that are among those asked for."""
        values = frame.ffill().to_numpy()
        kept = weather.hourly(sentinels=True).ffill().to_numpy()
        short = 48
        found: dict[str, Any] = {
            "sentinels": weather.scores(kept, short, weather.seasonal_naive(kept, short))["wql"],
            "models": {},
            "steps": {str(steps): len(weather.origins(len(values), steps)) for steps in self.windows},
        }
        for model in (*(name for name in WINDOWED if name in self.models), "seasonal_naive"):
            with study.part(f"windows: {label(model)}") as advance:
                scores = study.cache.recall(
                    {"windows": sorted(self.windows), "model": model},
                    lambda: self._in_windows(frame, values, model),  # noqa: B023
                    lambda: {str(steps): dict.fromkeys(weather.SCORES, 0) for steps in self.windows},
                )
                found["models"][model] = jax.tree.map(np.ndarray.tolist, jax.tree.map(np.asarray, scores))
                advance()
        return found

    def _in_windows(self, frame: pd.DataFrame, values: np.ndarray, model: str) -> dict[str, Any]:
        if model == "seasonal_naive":
            forecasts = {steps: weather.seasonal_naive(values, steps) for steps in self.windows}
        else:
            forecasts = weather.trained(frame, self.windows, self.updates, 0, **TRAINED[model])
        return {str(steps): weather.scores(values, steps, found) for steps, found in forecasts.items()}

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Scores over all steps, coverage by horizon, the windows of the Jena station."""
        heads = ["stream", "model", "wQL", "relative", "MASE", "in 80 %, %", "in 95 %, %"]
        rows, by_horizon = [], []
        for stream, found in content["streams"].items():
            naive = found["models"].get("seasonal_naive", {}).get("wql")
            for model, scores in found["models"].items():
                relative = "–" if naive is None else f"{scores['wql'] / naive:.3f}"
                pairs = [_with_error(scores, name) for name in ("wql", "mase", "in80", "in95")]
                rows.append([stream, _label(model), pairs[0], relative, *pairs[1:]])
                for level in (80, 95):
                    shares = [f"{100 * value:.0f}" for value in scores["by_horizon"][f"in{level}"]]
                    by_horizon.append([stream, _label(model), str(level), *shares])
        coverage = Table(
            ["stream", "model", "level, %", *map(str, HORIZONS)], by_horizon, "Share of targets inside, %.", 2
        )
        parts: dict[str, Table | str] = {
            "scores": Table(heads, rows, "Value ± standard error.", 2),
            "coverage by steps ahead": coverage,
        }
        return parts | (_windows_tables(content["windows"]) if content["windows"] else {})


def prepared(name: str, steps: int) -> Span:
    """A stream on its grid, cut at 60 % and 80 % of its rows; a missing value is the one before."""
    loaded, setting = series.LOADERS[name](), SETTINGS[name]
    frame = pd.DataFrame({"time": loaded.time, "y": loaded.values[:, loaded.column(setting.target)]})
    frame = frame.assign(y=frame["y"].astype(float)).drop_duplicates("time")
    step = frame["time"].diff().mode()[0]
    grid = pd.date_range(frame["time"].iloc[0], frame["time"].iloc[-1], freq=step, name="time")
    frame = frame.set_index("time").reindex(grid).ffill()[:: setting.thinned].reset_index()
    train, test = int(0.6 * len(frame)), int(0.8 * len(frame))
    return Span(frame, setting.season, train, test, steps, setting.every)


def _like(model: str) -> dict[str, dict[str, int]]:
    """What is kept of a run: of trained models also the scores of the paths as drawn."""
    return {name: dict.fromkeys(SCORES, 0) for name in ("calibrated", "drawn")[: 2 if model in TRAINED else 1]}


def _weather(console: Console) -> pd.DataFrame | None:
    try:
        return weather.hourly()
    except DataFileError as error:
        console.print(f"windows of the Jena station's 2020 are left out: {error}")
        return None


def _label(model: str) -> str:
    return f"{label(model.removesuffix(DRAWN))}, as drawn" if model.endswith(DRAWN) else label(model)


def _windows_tables(found: Content) -> dict[str, Table | str]:
    """What differs from the published protocol, and scores by steps."""
    rows, by_step = [], []
    naive = found["models"]["seasonal_naive"]
    for steps, count in found["steps"].items():
        for model, scores in found["models"].items():
            one = scores[steps]
            relative = one["wql"] / naive[steps]["wql"]
            shares = [f"{100 * np.mean(one[name]):.1f}" for name in ("in80", "in95")]
            rows.append([steps, str(count), label(model), f"{one['wql']:.4f}", f"{relative:.3f}", f"{one['mase']:.3f}"])
            rows[-1] += shares
            if steps == "48" and model != "seasonal_naive":
                for level in (80, 95):
                    by_step.append(
                        [label(model), str(level), *(f"{100 * one[f'in{level}'][h - 1]:.0f}" for h in HORIZONS)]
                    )
    heads = ["steps", "windows", "model", "CRPS", "relative", "MASE", "in 80 %, %", "in 95 %, %"]
    text = WINDOWS.format(sentinels=found["sentinels"], naive=naive["48"]["wql"]) if "48" in naive else ""
    parts: dict[str, Table | str] = {"windows of 2020": text, "windows": Table(heads, rows, "Jena 2020.", 3)}
    if by_step:
        parts["windows by steps ahead"] = Table(
            ["model", "level, %", *map(str, HORIZONS)], by_step, "Share of targets inside in windows of 48, %.", 2
        )
    return parts


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
