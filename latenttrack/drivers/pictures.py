"""Pictures of a forecast: what was, bands of what may come, and how calibrated forecasts have been."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from latenttrack.drivers.forecast import Forecast

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        "plot: expected the package matplotlib, got none; pip install 'weightfilter[forecast]'"
    ) from error

SHOWN = 3
"""Rows of the past for each row ahead."""


def forecast(
    time: np.ndarray, past: np.ndarray, ahead: Forecast, levels: Sequence[float], names: Sequence[str], pits: np.ndarray
) -> Any:
    """One axis for each target, and the histogram of the probability integral transforms at the right."""
    h = ahead.samples.shape[1]
    past, before = past[-max(SHOWN * h, 48) :], len(past)
    figure = Figure(figsize=(11, 2.6 * len(names) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(names), 2, width_ratios=(4, 1))
    mean = np.asarray(ahead.mean())
    for row, name in enumerate(names):
        axis = figure.add_subplot(grid[row, 0])
        axis.plot(time[before - len(past) : before], past[:, row], color="black", linewidth=1)
        for index, level in enumerate(sorted(levels, reverse=True)):
            lower, upper = (np.asarray(end)[:, row] for end in ahead.interval(level / 100))
            shade = 0.2 + 0.25 * index / max(1, len(levels) - 1)
            axis.fill_between(
                time[before:], lower, upper, color="#0072b2", alpha=shade, linewidth=0, label=f"{level:g} %"
            )
        axis.plot(time[before:], mean[:, row], color="#0072b2", linewidth=1.5, label="mean")
        axis.set_title(name, loc="left")
        axis.legend(loc="upper left", frameon=False, ncols=len(levels) + 1)
        axis.tick_params(axis="x", rotation=20)
    axis = figure.add_subplot(grid[:, 1])
    axis.hist(pits, bins=[index / 10 for index in range(11)], density=True, color="#999999")
    axis.axhline(1, color="black", linewidth=1)
    axis.set_title("PIT, validation rows", loc="left")
    return figure
