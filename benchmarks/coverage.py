"""How often intervals of forecasts of 24 hours hold the target, by horizon: ETTh1's oil temperature.

One model of the default configuration each, trained on the first 60 % of the hours with the default options and kept
where it scores best on the next 20 %; in the last 20 % a forecast starts every six hours, from a state that has seen
everything before it. Neighbours share hours and weather: errors are of blocks of a week of forecasts. Inputs are the
calendar's alone, so that every input of a step ahead is known: the level itself by ``lt.forecast``, with phases of day
and week; and ``lt.Forecaster``, which models increments, alone and adapted.
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
from experiments.streaming.scores import block_error
from latenttrack.drivers import calendar

DAY, EVERY, TARGET, PATHS = 24, 6, "OT", 256
LEVELS, SHOWN = (0.8, 0.95), (1, 3, 6, 13, 18, 24)
WEEK = 7 * DAY // EVERY
MARGIN = 0.03
"""How far a share may be from its level."""


class Ahead(NamedTuple):
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


def origins(data: Oil) -> np.ndarray:
    """The first row of each forecast."""
    return np.arange(data.test, len(data.level) - DAY + 1, EVERY)


def of_the_level(data: Oil) -> Ahead:
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
    rows = origins(data)[:, None]
    inputs, seen = xs[rows + np.arange(DAY)], ys[rows + np.arange(EVERY)]

    def advance(state: lt.State, part: tuple) -> tuple[lt.State, tuple]:
        inputs, targets, key = part
        ahead = lt.forecast(model, fit.params, key, state, inputs, samples=PATHS)
        after, _ = model.rollout(fit.params, key, inputs[:EVERY], targets, state)
        return after, (ahead.mean(), [ahead.interval(level) for level in LEVELS])

    keys = jax.random.split(jax.random.key(2), len(rows))
    _, (mean, ends) = jax.jit(lambda state, parts: jax.lax.scan(advance, state, parts))(state, (inputs, seen, keys))
    return Ahead(np.asarray(mean)[..., 0], [(np.asarray(low)[..., 0], np.asarray(high)[..., 0]) for low, high in ends])


def of_the_forecaster(data: Oil, adapt: Literal["filter"] | None = None) -> Ahead:
    """A frame in, a frame out."""
    import pandas as pd  # noqa: PLC0415  one of two libraries that it takes

    frame = pd.DataFrame({"time": data.time, TARGET: data.level})
    share = 1 - data.validation / data.test
    found = lt.Forecaster(target=TARGET, adapt=adapt).fit(frame[: data.test], validation=share)
    levels = [100 * level for level in LEVELS]
    ahead = found.backtest(frame[data.test :], DAY, every=EVERY, level=levels, paths=PATHS)

    def column(name: str) -> np.ndarray:
        return (ahead[name].to_numpy().reshape(-1, DAY) - data.centre) / data.unit

    return Ahead(column("mean"), [(column(f"lo-{100 * level:g}"), column(f"hi-{100 * level:g}")) for level in LEVELS])


def main() -> None:
    """Print and write the table, after each model: they take minutes."""
    data = oil()
    rows = origins(data)[:, None]
    scaled = (data.level - data.centre) / data.unit
    targets = scaled[rows + np.arange(DAY)]
    naive = np.abs(scaled[rows - 1] - targets).mean(0)
    levels = [name for level in LEVELS for name in (f"in {level:.0%}", "±")]
    columns = ("hours ahead", *levels, "MAE", "MAE, last value")
    table: list[tuple] = []
    facts: dict[str, Any] = {"forecasts": len(rows), "paths": PATHS}
    runs = {
        "lt.Forecaster, adapted": functools.partial(of_the_forecaster, adapt="filter"),
        "lt.Forecaster": of_the_forecaster,
        "the level, lt.forecast": of_the_level,
    }
    for name, run in runs.items():
        began = time.perf_counter()
        found = run(data)
        lines, facts[name] = [], {}
        for level, (low, high) in zip(LEVELS, found.ends, strict=True):
            inside = ((low <= targets) & (targets <= high)).astype(float)
            share, errors = inside.mean(0), np.array([block_error(one, WEEK) for one in inside.T])
            lines += [share, errors]
            off = np.abs(share - level)
            facts[name][f"{level:.0%}"] = {
                "all": float(inside.mean()),
                "error of all": block_error(inside.mean(1), WEEK),
                "hours within 3 points": int(np.sum(off <= MARGIN)),
                "hours beyond by two errors": int(np.sum(off - MARGIN > 2 * errors)),
            }
        lines += [np.abs(found.mean - targets).mean(0), naive]
        table += [(f"{name}: {h}", *(float(line[h - 1]) for line in lines)) for h in SHOWN]
        whole = [float(np.mean(line)) for line in lines]
        for place, level in enumerate(LEVELS):
            whole[2 * place + 1] = facts[name][f"{level:.0%}"]["error of all"]
        table.append((f"{name}: all", *whole))
        facts[name] |= {"by horizon": np.stack(lines).tolist(), "seconds": time.perf_counter() - began}
        report("coverage", f"{len(rows)} forecasts of {DAY} hours, ETTh1 {TARGET}", columns, table, facts)
