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
    whole = frame(TRAINED + ROWS + 1)
    found = lt.Forecaster(target="load").fit(whole[:TRAINED], updates=1)
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
    table = [
        ("a row, mean", float(np.mean(times))),
        ("a row, median", float(median)),
        ("quartiles", f"{lower:.3g} to {upper:.3g}"),
        ("the slowest of 1,000", float(np.max(times))),
        ("a row, processor time", processor),
    ]
    report("observe", f"{ROWS} calls of observe", ("", "ms"), table)
