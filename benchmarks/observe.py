"""Serving: 1,000 rows through ``lt.Forecaster.observe``, one at a time, with the default configuration."""

import time

import numpy as np
import pandas as pd

import latenttrack as lt
from benchmarks.measure import report

TRAINED, ROWS = 2_400, 1_000


def frame(rows: int) -> pd.DataFrame:
    """Hourly: a season of a day on a random walk."""
    rng = np.random.default_rng(0)
    values = 10 * np.sin(2 * np.pi * np.arange(rows) / 24) + np.cumsum(rng.normal(size=rows))
    return pd.DataFrame({"time": pd.date_range("2024-01-01", periods=rows, freq="h"), "load": values})


def main() -> None:
    """Print and write the table: milliseconds a row, by the clock and of the processor."""
    table = [
        *taken("alone", lt.Forecaster(target="load")),
        *taken("adapted", lt.Forecaster(target="load", adapt="filter")),
    ]
    report("observe", f"{ROWS} calls of observe", ("", "ms"), table)


def taken(name: str, forecaster: lt.Forecaster) -> list[tuple[str, float | str]]:
    """Rows of the table, of a forecaster that is not yet fitted."""
    whole = frame(TRAINED + ROWS + 1)
    found = forecaster.fit(whole[:TRAINED], updates=1)
    first, *rows = whole[TRAINED:].to_dict("records")
    found.observe(first)  # compiled here
    times = []
    processor = time.process_time()
    for row in rows:
        began = time.perf_counter()
        found.observe(row)
        times.append(1e3 * (time.perf_counter() - began))
    processor = 1e3 * (time.process_time() - processor) / ROWS
    lower, median, upper = np.percentile(times, (25, 50, 75))
    return [
        (f"{name}: a row, mean", float(np.mean(times))),
        (f"{name}: a row, median", float(median)),
        (f"{name}: quartiles", f"{lower:.3g} to {upper:.3g}"),
        (f"{name}: the slowest of {ROWS}", float(np.max(times))),
        (f"{name}: a row, processor time", processor),
    ]
