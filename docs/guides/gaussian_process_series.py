"""Regression, gaps and forecasts of a real series by a Gaussian process.

ETTh1 is the hourly oil temperature of a transformer over two years. A fast Matérn process and a slow one, whose scales,
variances and noise the evidence chooses, fill what is missing and say what comes. A day ahead the mean is no better
than the last value; the intervals hold. A pass over the hours costs O(T): `python -m benchmarks gaussian_regression`
shows time and accuracy beside tinygp and dynamax. The file is read from the folder WEIGHTFILTER_DATA, or from its
authors' repository.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from latenttrack import gaussian_process as gp

kept = Path(os.environ.get("WEIGHTFILTER_DATA", "")) / "series" / "ETTh1.csv.gz"
official = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv"
table = pd.read_csv(kept if kept.exists() else official, parse_dates=["date"])
T, day, starts = 2048, 24, 40
level = ((table.OT - table.OT[:T].mean()) / table.OT[:T].std()).to_numpy(np.float32)
y, test = level[:T], level[T : T + T + starts * day]


def prior(logs):
    fast, small, slow, size, _ = jnp.exp(logs)
    return gp.add(gp.matern(1.5, fast, small), gp.matern(0.5, slow, size))


loss = jax.jit(lambda logs: -gp.log_prob(prior(logs), y, noise=jnp.exp(logs[-1])) / T)
logs, optimizer = jnp.log(jnp.asarray([9.0, 0.1, 500.0, 1.0, 0.01])), optax.adam(0.1)
state, descend, before = optimizer.init(logs), jax.jit(jax.grad(loss)), loss(logs)
for _ in range(60):
    change, state = optimizer.update(descend(logs), state)
    logs = logs + change
print(f"nats per hour: {before:.2f}, learned {loss(logs):.2f}")


@jax.jit
def known(values, seen):
    q = gp.posterior(prior(logs), gp.Site(values, jnp.where(seen, jnp.exp(-logs[-1]), 0)))  # precision 0: not seen
    return q.mean, 1.2816 * jnp.sqrt(q.variance + jnp.exp(logs[-1]))  # 80 %


gap = np.arange(T) % 72 < 6  # six hours of each third day
mean, width = known(test[:T], ~gap)
off, inside = abs(test[:T] - mean)[gap], jnp.mean((abs(test[:T] - mean) < width)[gap])
print(f"gaps: error {off.mean():.3f}, {inside:.0%} inside their 80 % intervals")

windows = jnp.stack([test[start * day : start * day + T] for start in range(starts)])
mean, width = jax.lax.map(lambda window: known(window, jnp.arange(T) < T - day), windows)  # the last day is to come
ahead, still = abs(windows - mean)[:, -day:], abs(windows - windows[:, -day - 1, None])[:, -day:]
held = (ahead < width[:, -day:]).mean()
print(f"a day ahead: error {ahead.mean():.3f}, of the last value {still.mean():.3f}; {held:.0%} inside")
assert loss(logs) < before and inside > 0.7 and held > 0.7 and ahead.mean() < 1.2 * still.mean()
