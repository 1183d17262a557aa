"""The causal protocol: what a model knows when it predicts step t.

At step t a model has seen x_1, y_1, …, x_{t−1}, y_{t−1} and x_t. With lag L, s the series standardised with the mean
and standard deviation of the training span, and r the standard deviation of s_t − s_{t−L} of the target there,

    x_t = (s_{t−L} of all channels, sin and cos of the hour of t and of the day of the year of t)
    y_t = (s_t − s_{t−L}) / r    of the target channel: the prediction is "last value + residual".

"easy" has L = 1 step: the last value is an input. "hard" has L = one day: the inputs are day-old, so what happened
since is known only through the y that a model with a state has absorbed. A step is a row of the series; the two gaps
of Jena Climate (17 h and 75 h) are not filled. Missing values are carried forward, and a missing y_t, or one whose
s_{t−L} is missing, is masked. Scores are in the units of s: a negative log density gains log r, an error is times r.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from experiments.data.series import Series

Variant = Literal["easy", "hard"]
VARIANTS: tuple[Variant, ...] = ("easy", "hard")
CALENDAR = ("hour sin", "hour cos", "year sin", "year cos")


class Spans(NamedTuple):
    """Where validation and test begin; training begins at the first row, test ends with the last."""

    validation: np.datetime64
    test: np.datetime64


class Data(NamedTuple):
    """A span of a stream: x [T, x_dim], y [T, 1] in units of r, which y were observed [T], and their time."""

    xs: Float32[np.ndarray, "T x_dim"]
    ys: Float32[np.ndarray, "T 1"]
    mask: Bool[np.ndarray, " T"] | None
    time: np.ndarray


class Stream(NamedTuple):
    """A stream cut into its spans.

    Attributes:
        train, validation, test: the spans, in order and without overlap.
        scale: r, in standard deviations of the target.
        unit: the standard deviation of the target in its own unit.
        last: s_{t−L} of the target over the test span [T], to add to predictions.
        centre: the mean of the target in its own unit.
        inputs: names of the columns of x.
        target: name of the target.
        label: the target and its unit, for pictures.
    """

    train: Data
    validation: Data
    test: Data
    scale: float
    unit: float
    last: Float32[np.ndarray, " T"]
    centre: float
    inputs: tuple[str, ...]
    target: str
    label: str


JENA_SPANS = Spans(np.datetime64("2014-01-01"), np.datetime64("2015-01-01"))
"""Train 2009–2013, validate 2014, test 2015–2016."""


def shares(series: Series, train: float = 0.6, validation: float = 0.2) -> Spans:
    """Spans by share of the rows, for series without a published split."""
    count = len(series.time)
    return Spans(series.time[int(train * count)], series.time[int((train + validation) * count)])


def prepare(series: Series, target: str, *, lag: int, day: int, spans: Spans, label: str = "") -> Stream:
    """Cut a series into a stream by the protocol above.

    Args:
        series: values in order of time.
        target: the column to predict.
        lag: L in rows.
        day: rows of one day; the first ``max(lag, day)`` rows are only inputs: all variants have the same steps.
        spans: where validation and test begin.
        label: the target and its unit, for pictures.

    Raises:
        ValueError: a span is empty, the lag below 1, or the target unknown or constant.
    """
    column = series.column(target)
    first = max(lag, day)
    validation, test = (int(np.searchsorted(series.time, start)) for start in spans)
    if lag < 1 or not first < validation < test < len(series.time):
        raise ValueError(
            f"spans: expected {first} < validation < test < {len(series.time)} rows and a lag >= 1, "
            f"got rows {validation} and {test}, lag {lag}"
        )
    present = np.isfinite(series.values)
    filled = _carried(series.values.astype(np.float64), present)
    centre, spread = filled[:validation].mean(0), filled[:validation].std(0)
    standard = (filled - centre) / np.where(spread > 0, spread, 1)
    level = standard[:, column]
    residual = level[lag:] - level[:-lag]
    scale = float(residual[: validation - lag].std())
    if not scale > 0:
        raise ValueError(f"target: expected a series that moves, but {target!r} is constant on the training span")

    steps = np.arange(first, len(series.time))
    xs = np.concatenate([standard[steps - lag], _calendar(series.time[steps])], axis=1).astype(np.float32)
    ys = (residual[steps - lag, None] / scale).astype(np.float32)
    seen = present[steps, column] & present[steps - lag, column]

    def span(start: int, stop: int) -> Data:
        part = slice(start - first, stop - first)
        return Data(xs[part], ys[part], None if seen.all() else seen[part], series.time[steps][part])

    return Stream(
        span(first, validation),
        span(validation, test),
        span(test, len(series.time)),
        scale,
        float(spread[column]),
        level[np.arange(test, len(series.time)) - lag].astype(np.float32),
        float(centre[column]),
        tuple(f"{name} at t-{lag}" for name in series.columns) + CALENDAR,
        target,
        label or target,
    )


def jena(series: Series, variant: Variant, target: str = "T (degC)") -> Stream:
    """The Jena stream: temperature of the next hour."""
    return prepare(
        series, target, lag=1 if variant == "easy" else 24, day=24, spans=JENA_SPANS, label="temperature, °C"
    )


def _carried(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The last value that was present; the column's first one before that."""
    rows = np.where(present, np.arange(len(values))[:, None], -1)
    last = np.maximum.accumulate(rows, axis=0)
    last = np.where(last < 0, np.argmax(present, axis=0), last)
    return np.take_along_axis(values, last, axis=0)


def _calendar(time: np.ndarray) -> np.ndarray:
    day = (time - time.astype("datetime64[D]")) / np.timedelta64(1, "D")
    year = (time - time.astype("datetime64[Y]")) / np.timedelta64(1, "D") / 365.25
    return np.stack([f(2 * np.pi * phase) for phase in (day, year) for f in (np.sin, np.cos)], axis=1)
