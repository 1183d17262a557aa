"""How often intervals of daily forecasts of 24 hours hold the target, by horizon: ETTh1's oil temperature.

One latent filter of the default configuration, trained on the first 60 % of the hours and stopped on the next 20 %; in
the last 20 % a forecast starts at each midnight, from a state that has seen everything before it. Inputs are the
calendar's alone, so that every input of a step ahead is known.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

import latenttrack as lt
from benchmarks.measure import report
from experiments.data import series

DAY, TARGET, PATHS, UPDATES = 24, "OT", 256, 1200
LEVELS, SHOWN = (0.8, 0.95), (1, 3, 6, 13, 18, 24)


def stream() -> tuple[np.ndarray, np.ndarray, int, int]:
    """Calendar [T, 4], the standardised target [T, 1], and where validation and test begin."""
    loaded = series.ett_h1()
    level = loaded.values[:, [loaded.column(TARGET)]].astype(np.float64)
    validation, test = int(0.6 * len(level)), int(0.8 * len(level))
    test += -test % DAY  # the file begins at midnight
    hours = loaded.time.astype("datetime64[h]").astype(int)
    phases = 2 * np.pi * np.stack([hours / DAY, hours / (365.25 * DAY)], axis=1)
    xs = np.concatenate([np.sin(phases), np.cos(phases)], axis=1).astype(np.float32)
    ys = (level - level[:validation].mean()) / level[:validation].std()
    return xs, ys.astype(np.float32), validation, test


def main() -> None:
    """Print and write the table."""
    xs, ys, validation, test = stream()
    model = lt.build(lt.Config(), xs.shape[1], 1)
    train, held_out = slice(0, validation), slice(validation - 512, test)
    began = time.perf_counter()
    options = {"updates": UPDATES, "validation": (xs[held_out], ys[held_out]), "burn_in": 512}
    found = lt.fit(model, jax.random.key(0), xs[train], ys[train], **options)
    trained = time.perf_counter() - began
    days = (len(ys) - test) // DAY - 1
    cut = slice(test, test + days * DAY)
    daily = [leaf[cut].reshape(days, DAY, -1) for leaf in (xs, ys)]
    state, _ = jax.jit(model.rollout)(found.params, jax.random.key(1), xs[:test], ys[:test])

    def advance(state: lt.State, day: tuple) -> tuple[lt.State, tuple]:
        inputs, targets, key = day
        ahead = lt.forecast(model, found.params, key, state, inputs, samples=PATHS)
        scores = ahead.mean(), ahead.crps(targets), *(ahead.interval(level) for level in LEVELS)
        return model.rollout(found.params, key, inputs, targets, state)[0], scores

    _, (mean, crps, *ends) = jax.jit(functools.partial(jax.lax.scan, advance))(
        state, (*map(jnp.asarray, daily), jax.random.split(jax.random.key(2), days))
    )
    targets, last = daily[1], np.concatenate([ys[[test - 1]], daily[1][:-1, -1]])[:, None]
    shares = [lt.metrics.horizon_coverage(targets, *end)[:, 0] for end in ends]
    errors = [np.abs(point - targets).mean(0)[:, 0] for point in (mean, last)]
    columns = ("hours ahead", *(f"in {level:.0%}" for level in LEVELS), "MAE", "MAE, persistence", "CRPS")
    lines = [*shares, *errors, np.asarray(crps).mean((0, 2))]
    rows = [(str(h), *(float(line[h - 1]) for line in lines)) for h in range(1, DAY + 1)]
    shown = [row for row in rows if int(row[0]) in SHOWN] + [("all", *(float(np.mean(line)) for line in lines))]
    facts = {"forecasts": days, "paths": PATHS, "updates": UPDATES, "training, s": trained, "by horizon": rows}
    report("coverage", f"{days} forecasts of {DAY} hours, ETTh1 {TARGET}", columns, shown, facts)


if __name__ == "__main__":
    main()
