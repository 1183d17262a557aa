"""A sensor that is exchanged.

A forecaster is trained once, then its sensor is exchanged for one that shows half as much again. What the model learned
of the level no longer holds, and `observe` alone does not change it: intervals stay narrow in the wrong place. With
`adapt="filter"` a low-rank filter of a last layer's weights goes on learning from each row, without gradients: it
moves the predictions and widens them as far as they were wrong. Parameters and training are the same.
"""

import numpy as np
import pandas as pd

import latenttrack as lt

rows, exchanged = 1200, 1000
hours = pd.date_range("2024-01-01", periods=rows, freq="h")
random = np.random.default_rng(0)
noise = np.zeros(rows)
for t in range(1, rows):
    noise[t] = 0.7 * noise[t - 1] + random.normal()
flow = 100 + 10 * np.sin(2 * np.pi * hours.hour / 24) + 2 * noise
flow = np.where(np.arange(rows) < exchanged, flow, 50 + flow)
frame = pd.DataFrame({"time": hours, "flow": flow})
past, first, rest = frame[:exchanged], frame[exchanged : exchanged + 60], frame[exchanged + 60 :]

config = lt.Config(latent_dim=3, hidden_dim=16, prior_samples=8)


def held(name, adapt):
    model = lt.Forecaster(config, target="flow", adapt=adapt).fit(past, updates=100)
    model.observe(first)  # sixty hours with the new sensor
    ahead = model.backtest(rest, h=1, level=80)  # then the next value, hour by hour
    inside = (ahead["lo-80"] <= ahead["actual"]) & (ahead["actual"] <= ahead["hi-80"])
    width, error = (ahead["hi-80"] - ahead["lo-80"]).mean(), (ahead["mean"] - ahead["actual"]).abs().mean()
    print(f"{name}: {inside.mean():.0%} of values inside their 80 % intervals, {width:.1f} wide; error {error:.1f}")
    return inside.mean()


alone, adapted = held("as trained", None), held("adapted", "filter")
assert adapted > 0.6 and adapted > alone + 0.2
