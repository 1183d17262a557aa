"""How often intervals of daily forecasts of 24 hours hold the target, by horizon: ETTh1's oil temperature.

One model of the default configuration each, trained on the first 60 % of the hours with the default options and kept
where it scores best on the next 20 %; in the last 20 % a forecast starts at each midnight, from a state that has seen
everything before it. Inputs are the calendar's alone, so that every input of a step ahead is known: the level itself by
``lt.forecast``, with phases of day and week; and ``lt.Forecaster``, which models increments, alone and adapted.
"""

import functools
import time
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import latenttrack as lt
from benchmarks.measure import report
from experiments.data import series
from latenttrack.drivers import calendar

DAY, TARGET, PATHS = 24, "OT", 256
LEVELS, SHOWN = (0.8, 0.95), (1, 3, 6, 13, 18, 24)


class Daily(NamedTuple):
    """Of each forecast and step ahead [N, h], in standard deviations of the training span."""

    mean: np.ndarray
    ends: list[tuple[np.ndarray, np.ndarray]]


class Oil(NamedTuple):
    """The series in its own unit [T], the stamps, where validation and test begin, its mean and standard deviation."""

    level: np.ndarray
    time: np.ndarray
    validation: int
    test: int
    centre: float
    unit: float


def oil() -> Oil:
    loaded = series.ett_h1()
    level = loaded.values[:, loaded.column(TARGET)].astype(np.float64)
    validation, test = int(0.6 * len(level)), int(0.8 * len(level))
    test += -test % DAY  # the file begins at midnight
    return Oil(level, loaded.time, validation, test, level[:validation].mean(), level[:validation].std())


def of_the_level(data: Oil, days: int) -> Daily:
    """``lt.fit`` and ``lt.forecast`` as they are."""
    seconds = data.time.astype("datetime64[s]").astype(np.int64)
    xs = jnp.asarray(calendar.features(seconds, ("day", "week")), jnp.float32)
    ys = jnp.asarray(((data.level - data.centre) / data.unit)[:, None], jnp.float32)
    model = lt.build(lt.Config(), xs.shape[1], 1)
    train, held_out = slice(0, data.validation), slice(data.validation - 512, data.test)
    validation = (xs[held_out], ys[held_out])
    fit = lt.fit(
        model, jax.random.key(0), jnp.asarray(xs[train]), jnp.asarray(ys[train]), validation=validation, burn_in=512
    )
    state, _ = jax.jit(model.rollout)(fit.params, jax.random.key(1), xs[: data.test], ys[: data.test])
    daily = [leaf[data.test :][: days * DAY].reshape(days, DAY, -1) for leaf in (xs, ys)]

    def advance(state: lt.State, day: tuple) -> tuple[lt.State, tuple]:
        inputs, targets, key = day
        ahead = lt.forecast(model, fit.params, key, state, inputs, samples=PATHS)
        after, _ = model.rollout(fit.params, key, inputs, targets, state)
        return after, (ahead.mean(), [ahead.interval(level) for level in LEVELS])

    keys = jax.random.split(jax.random.key(2), days)
    _, (mean, ends) = jax.jit(lambda state, day: jax.lax.scan(advance, state, day))(state, (*daily, keys))
    return Daily(np.asarray(mean)[..., 0], [(np.asarray(low)[..., 0], np.asarray(high)[..., 0]) for low, high in ends])


def of_the_forecaster(data: Oil, days: int, adapt: Literal["filter"] | None = None) -> Daily:
    """A frame in, a frame out."""
    import pandas as pd  # noqa: PLC0415  one of two libraries that it takes

    frame = pd.DataFrame({"time": data.time, TARGET: data.level})
    share = 1 - data.validation / data.test
    found = lt.Forecaster(target=TARGET, adapt=adapt).fit(frame[: data.test], validation=share)
    rows = frame[data.test :][: days * DAY]
    ahead = found.backtest(rows, DAY, level=[100 * level for level in LEVELS], paths=PATHS)

    def column(name: str) -> np.ndarray:
        return (ahead[name].to_numpy().reshape(days, DAY) - data.centre) / data.unit

    return Daily(column("mean"), [(column(f"lo-{100 * level:g}"), column(f"hi-{100 * level:g}")) for level in LEVELS])


def main() -> None:
    """Print and write the table."""
    data = oil()
    days = (len(data.level) - data.test) // DAY - 1
    scaled = (data.level - data.centre) / data.unit
    targets = scaled[data.test :][: days * DAY].reshape(days, DAY)
    last = scaled[data.test - 1 :][: days * DAY : DAY]
    naive = np.abs(last[:, None] - targets).mean(0)
    columns = ("hours ahead", *(f"in {level:.0%}" for level in LEVELS), "MAE", "MAE, last value")
    rows: list[tuple] = []
    facts: dict[str, Any] = {"forecasts": days, "paths": PATHS}
    runs = {
        "the level, lt.forecast": of_the_level,
        "lt.Forecaster": of_the_forecaster,
        "lt.Forecaster, adapted": functools.partial(of_the_forecaster, adapt="filter"),
    }
    for name, run in runs.items():
        began = time.perf_counter()
        found = run(data, days)
        shares = [np.mean((low <= targets) & (targets <= high), axis=0) for low, high in found.ends]
        lines = [*shares, np.abs(found.mean - targets).mean(0), naive]
        rows += [(f"{name}: {h}", *(float(line[h - 1]) for line in lines)) for h in SHOWN]
        rows.append((f"{name}: all", *(float(np.mean(line)) for line in lines)))
        facts[name] = {"by horizon": np.stack(lines).tolist(), "seconds": time.perf_counter() - began}
    report("coverage", f"{days} forecasts of {DAY} hours, ETTh1 {TARGET}", columns, rows, facts)
