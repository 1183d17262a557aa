"""The Jena station's 2020, hourly, 21 channels, by windows as close to GIFT-Eval's jena_weather/H as its data allow."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import norm

import latenttrack as lt
from experiments.data import series
from experiments.streaming.ahead import column

NINE = np.arange(1, 10) / 10
"""Of which the mean weighted quantile loss is taken."""
LEVELS = (80, 95)
SEASON = 24
SCORES = ("wql", "mase", "in80", "in95")
_SHARE, _MOST = 0.1, 20

Quantiles = Float[np.ndarray, "Q N h C"]


class Forecasts(NamedTuple):
    """Of N windows: the nine quantiles, and lower and upper ends of the intervals of 80 % and 95 %."""

    quantiles: Quantiles
    ends: Float[np.ndarray, "2 L N h C"]


def hourly(sentinels: bool = False) -> pd.DataFrame:
    """The mean of each hour's values; NaN where there was none. ``sentinels``: −9999 is taken for a measurement."""
    loaded = series.jena_2020()
    values = np.where(np.isnan(loaded.values), series.MISSING, loaded.values) if sentinels else loaded.values
    frame = pd.DataFrame(values.astype(float), index=pd.DatetimeIndex(loaded.time), columns=list(loaded.columns))
    return frame[~frame.index.duplicated()].resample("1h").mean()


def origins(rows: int, steps: int) -> np.ndarray:
    """First rows of the windows: the last tenth in windows that follow each other, at most twenty."""
    count = min(_MOST, int(np.ceil(_SHARE * rows / steps)))
    return rows - steps * np.arange(count, 0, -1)


def seasonal_naive(values: Float[np.ndarray, "T C"], steps: int) -> Forecasts:
    """The value a day before, normal, with the root mean square of its errors so far times √(days ahead)."""
    days = np.arange(steps) // SEASON + 1
    found = []
    for origin in origins(len(values), steps):
        past = values[:origin]
        scale = np.sqrt(np.nanmean(np.square(past[SEASON:] - past[:-SEASON]), axis=0))
        point = past[origin - SEASON + np.arange(steps) % SEASON]
        shares = np.concatenate([NINE, [0.1, 0.025, 0.9, 0.975]])
        found.append(point + norm.ppf(shares)[:, None, None] * np.sqrt(days)[:, None] * scale)
    stacked = np.stack(found, axis=1)
    return Forecasts(stacked[: len(NINE)], stacked[len(NINE) :].reshape(2, 2, *stacked.shape[1:]))


def trained(
    frame: pd.DataFrame, horizons: tuple[int, ...], updates: int, seed: int, paths: int = 100, **options: Any
) -> dict[int, Forecasts]:
    """By one :class:`latenttrack.Forecaster` of 21 series that share parameters, fitted before the first window of all.

    A tenth of the rows before it choose; afterwards rows are absorbed, and nothing is trained.
    """
    first = min(origins(len(frame), steps)[0] for steps in horizons)
    table = frame.rename_axis("time").reset_index().melt("time", var_name="channel", value_name="y")
    rows = np.tile(np.arange(len(frame)), frame.shape[1])
    model = lt.Forecaster(target="y", id="channel", **options)
    model.fit(table[rows < first], updates=updates, validation=0.1, seed=seed)
    level = sorted({*LEVELS, *(round(100 * abs(2 * q - 1), 6) for q in NINE)})
    found = {}
    for steps in horizons:
        start = int(origins(len(frame), steps)[0]) - first
        came = model.backtest(table[rows >= first], steps, every=steps, start=start, level=level, paths=paths)
        shape = frame.shape[1], -1, steps

        def values(name: str) -> Float[np.ndarray, "N h C"]:
            return np.moveaxis(came[name].to_numpy().reshape(shape), 0, -1)  # noqa: B023

        ends = [[values(f"{side}-{level}") for level in LEVELS] for side in ("lo", "hi")]
        found[steps] = Forecasts(np.stack([values(column(q)) for q in NINE]), np.asarray(ends))
    return found


def scores(values: Float[np.ndarray, "T C"], steps: int, forecasts: Forecasts) -> dict[str, Any]:
    """Mean weighted quantile loss over all channels, MASE of the median, and shares inside by step [h]."""
    begin = origins(len(values), steps)
    targets = values[begin[:, None] + np.arange(steps)]
    flat = targets.reshape(len(begin) * steps, -1)
    quantiles = forecasts.quantiles.reshape(len(NINE), *flat.shape)
    loss = lt.metrics.weighted_quantile_loss(jnp.asarray(flat), jnp.asarray(quantiles), jnp.asarray(NINE))
    errors = np.abs(forecasts.quantiles[len(NINE) // 2] - targets).mean(axis=1)
    before = [np.nanmean(np.abs(values[SEASON:row] - values[: row - SEASON]), axis=0) for row in begin]
    inside = (forecasts.ends[0] <= targets) & (targets <= forecasts.ends[1])
    return {
        "wql": np.asarray(loss),
        "mase": np.mean(errors / np.stack(before)),
        **{f"in{level}": inside[index].mean(axis=(0, 2)) for index, level in enumerate(LEVELS)},
    }
