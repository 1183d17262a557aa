"""Forecasts of many steps from many origins, and their scores by horizon with errors over blocks of origins."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float

import latenttrack as lt
from experiments.streaming.models import gaussian_process, gru, kalman
from latenttrack.drivers import calendar, calibration
from latenttrack.tracking.increments import Increments, increments

QUANTILES = (0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975)
PATHS = 128
"""Sampled of each forecast."""
NINE = slice(1, -1)
"""Those of which the mean weighted quantile loss is taken: 0.1 … 0.9."""


class Span(NamedTuple):
    """One target, and from where on it is forecast.

    Attributes:
        frame: columns time and y, on a grid without gaps.
        season: rows until the pattern comes again.
        train, test: rows where validation and test begin.
        ahead: h.
        every: rows between two origins.
    """

    frame: pd.DataFrame
    season: int
    train: int
    test: int
    ahead: int
    every: int

    def origins(self) -> np.ndarray:
        """The first row of each forecast."""
        return np.arange(self.test, len(self.frame) - self.ahead + 1, self.every)

    def targets(self) -> Float[np.ndarray, "N h"]:
        """What came."""
        return self.frame["y"].to_numpy()[self.origins()[:, None] + np.arange(self.ahead)]


Forecasts = Float[np.ndarray, "Q N h"]
"""Quantiles of each forecast and step ahead."""


class OfAnother(lt.Forecaster):
    """The same inputs, increments, training and paths around another model of a stream."""

    def __init__(self, build: Any, **roles: Any) -> None:
        """``build(x_dim, y_dim)`` → model; hashable."""
        super().__init__(**roles)
        self._build = build

    def _model(self, complete: bool) -> Increments:
        if self.shape is None:
            raise AssertionError
        known = len(self.shape.cycles) * 2 * calendar.HARMONICS
        return increments(self._build, known, self.shape.lags, self.shape.spread, True)


def _mixture(x_dim: int, y_dim: int, components: int) -> Any:
    return gru.build(x_dim, y_dim, components=components, hidden=60)


def mixture_of_8(x_dim: int, y_dim: int) -> Any:
    """A recurrent network with a mixture of 8 as its head."""
    return _mixture(x_dim, y_dim, 8)


def mixture_of_32(x_dim: int, y_dim: int) -> Any:
    """A recurrent network with a mixture of 32 as its head, about as many parameters as the latent filter."""
    return _mixture(x_dim, y_dim, 32)


def linear(x_dim: int, y_dim: int) -> Any:
    """A linear-Gaussian state-space model of the increments, whose matrices are trained."""
    return kalman.build(x_dim, y_dim)


def process(x_dim: int, y_dim: int) -> Any:
    """A Gaussian process of the increments, a Matérn sum beside a linear trend in the inputs."""
    return gaussian_process.build(x_dim, y_dim)


def trained(span: Span, seed: int, updates: int, build: Any = None, **choices: Any) -> tuple[Forecasts, Forecasts]:
    """By :class:`latenttrack.Forecaster`: fitted on training rows, chosen on validation rows, then replayed.

    Returns:
        Calibrated quantiles, and those of the paths as the same model draws them.
    """
    roles: dict[str, Any] = {"target": "y", "time": "time", **choices}
    model = lt.Forecaster(**roles) if build is None else OfAnother(build, **roles)
    share = 1 - span.train / span.test
    model.fit(span.frame[: span.test], updates=updates, validation=share, seed=seed)
    if model.values is None:
        raise AssertionError
    found = _replayed(model, span, seed)
    nothing = calibration.start(np.zeros((len(calibration.LEVELS), 0, 1)))
    model.values = model.values._replace(calibrations=(nothing,))
    return found, _replayed(model, span, seed)


def _replayed(model: lt.Forecaster, span: Span, seed: int) -> Forecasts:
    level = [round(100 * (2 * q - 1), 6) for q in QUANTILES if q >= 0.5]
    rows = span.frame[span.test :]
    found = model.backtest(rows, span.ahead, every=span.every, level=level, paths=PATHS, seed=seed)
    return np.stack([found[column(q)].to_numpy().reshape(-1, span.ahead) for q in QUANTILES])


def column(q: float) -> str:
    """Where a quantile stands in the frames of :class:`latenttrack.Forecaster`."""
    return f"{'lo' if q < 0.5 else 'hi'}-{round(100 * abs(2 * q - 1), 6):g}"


def seasonal_naive(span: Span) -> Forecasts:
    """The value of the season before, and the quantiles of its errors over the training rows at that many seasons."""
    values = span.frame["y"].to_numpy()
    steps = np.arange(span.ahead)
    seasons = steps // span.season + 1
    point = values[span.origins()[:, None] + steps - seasons * span.season]
    errors = [values[: span.train][k * span.season :] - values[: span.train][: -k * span.season] for k in seasons]
    return np.stack([point + [np.quantile(error, q) for error in errors] for q in QUANTILES])


def boosted(span: Span, rows: int = 30_000) -> Forecasts:
    """Gradient-boosted trees of each quantile, direct for all steps ahead: the step is an input.

    Of the last season before the origin relative to its last value, and the calendar of the step.
    """
    import lightgbm  # noqa: PLC0415  half a second for who does not use it

    values = span.frame["y"].to_numpy()
    seconds = span.frame["time"].to_numpy().astype("datetime64[s]").astype(np.int64)
    phases = calendar.features(seconds, ("day", "week"))
    rng = np.random.default_rng(0)

    def inputs(origins: np.ndarray, steps: np.ndarray) -> np.ndarray:
        last = values[origins - 1]
        lags = values[origins[:, None] - np.arange(2, span.season + 1)] - last[:, None]
        before = values[origins + steps - (steps // span.season + 1) * span.season] - last
        return np.column_stack([steps, last, before, lags, phases[origins + steps]])

    origins = rng.integers(2 * span.season, span.test - span.ahead, rows)
    steps = rng.integers(0, span.ahead, rows)
    given, moved = inputs(origins, steps), values[origins + steps] - values[origins - 1]
    ask = np.repeat(span.origins(), span.ahead), np.tile(np.arange(span.ahead), len(span.origins()))
    asked, last = inputs(*ask), values[ask[0] - 1]
    options: dict[str, Any] = {"num_leaves": 31, "n_estimators": 150, "learning_rate": 0.1, "n_jobs": 1, "verbose": -1}
    found = []
    for q in QUANTILES:
        model = lightgbm.LGBMRegressor(objective="quantile", alpha=q, **options).fit(given, moved)
        found.append((np.asarray(model.booster_.predict(asked)) + last).reshape(-1, span.ahead))
    return np.sort(np.stack(found), axis=0)  # quantiles of separate models can cross


def scored(span: Span, forecasts: Forecasts) -> dict[str, np.ndarray]:
    """Of each forecast and step ahead [N, h]: mean quantile loss, in 80 % and 95 %, absolute error of the median."""
    targets = span.targets()
    loss = lt.metrics.quantile_loss(jnp.asarray(targets), jnp.asarray(forecasts[NINE]), jnp.asarray(QUANTILES[NINE]))
    middle = QUANTILES.index(0.5)

    def inside(low: float, high: float) -> np.ndarray:
        below, above = forecasts[QUANTILES.index(low)], forecasts[QUANTILES.index(high)]
        return (below <= targets) & (targets <= above)

    return {
        "loss": np.asarray(loss).mean(0),
        "in80": inside(0.1, 0.9).astype(float),
        "in95": inside(0.025, 0.975).astype(float),
        "error": np.abs(forecasts[middle] - targets),
    }


def naive_error(span: Span) -> float:
    """Mean |y_t − y_{t−season}| over the training rows, which a MASE is relative to."""
    values = span.frame["y"].to_numpy()[: span.train]
    return float(np.abs(values[span.season :] - values[: -span.season]).mean())
