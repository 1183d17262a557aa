"""Forecasting a CSV.

`lt.Forecaster` takes a frame of pandas or polars and the roles of its columns, and gives a frame of means and
calibrated intervals: sampled paths of a latent filter that was trained once, whose spread at each step ahead is learned
from forecasts of rows that were not trained on. Gaps are put on the grid and masked. New rows are absorbed by
`observe`, without training, at the same cost each, and move the spread of later forecasts by whether they lay inside
those made for them; `backtest` replays forecasts along rows that were not trained on, which says how often an interval
held.
"""

import io

import numpy as np
import pandas as pd

import latenttrack as lt

# A CSV as it comes: hourly load with a day's rhythm, a week's, a slow wander, and a few rows missing.
hours = pd.date_range("2024-01-01", periods=24 * 130, freq="h")
random = np.random.default_rng(0)
load = 500 + 40 * np.sin(2 * np.pi * hours.hour / 24) - 30 * (hours.dayofweek > 4) + np.cumsum(random.normal(size=3120))
table = pd.DataFrame({"time": hours, "load": load}).drop(index=[100, 101, 300])
csv = io.StringIO(table.to_csv(index=False))

frame = pd.read_csv(csv, parse_dates=["time"])
past, new = frame[frame.time < "2024-05-01"], frame[frame.time >= "2024-05-01"]

config = lt.Config(latent_dim=3, hidden_dim=16, prior_samples=8)
model = lt.Forecaster(config, target="load").fit(past, updates=60)
print(model.predict(3, level=80))

model.observe(new.iloc[0].to_dict())  # a row has come
print(model.predict(1, level=80))

replayed = model.backtest(new.iloc[1:], h=12, level=80)
inside = (replayed["lo-80"] <= replayed["actual"]) & (replayed["actual"] <= replayed["hi-80"])
error = (replayed["mean"] - replayed["actual"]).abs().mean()
print(f"{inside.mean():.0%} of values inside their 80 % intervals; error {error:.1f}, spread {new.load.std():.1f}")
assert error < new.load.std() / 2 and 0.5 < inside.mean() < 1
