"""Regression, gaps and forecasts of ETTh1's oil temperature by a Gaussian process: beside tinygp, dynamax and dense.

The prior is a Matérn 3/2 process and an Ornstein-Uhlenbeck process, in hours, with length scales, variances and noise
learned here by the evidence of the first 4,096 hours; all take these numbers, dynamax as the matrices that ours makes
of them. Errors are those of float32, against a dense posterior in float64, in nats and in standard deviations of it.
Then what it is for: mornings that are taken out, and the day after each of 60 midnights.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import cho_factor, cho_solve

from benchmarks.gaussian_process import processor_time
from benchmarks.measure import report
from experiments.data import series
from latenttrack import gaussian_process as gp

HOURS, DAY, PAST, DAYS = 4096, 24, 1024, 60


class Found(NamedTuple):
    """Log evidence of the data, and moments of the process [T]."""

    log_evidence: Any
    mean: Any
    variance: Any


def oil() -> np.ndarray:
    """The series [T], centred and in standard deviations of the hours that are learned from."""
    loaded = series.ett_h1()
    level = loaded.values[:, loaded.column("OT")].astype(np.float64)
    return (level - level[:HOURS].mean()) / level[:HOURS].std()


def prior(logs: Any) -> gp.StateSpace:
    """Of log length scale and variance of each part."""
    slow, size, fast, small = jnp.exp(logs[:4])
    return gp.add(gp.matern(1.5, slow, size), gp.matern(0.5, fast, small))


@jax.jit
def learned(y: jax.Array) -> jax.Array:
    """Logs of length scale, variance, length scale, variance and noise: 100 steps of Adam on the evidence."""
    optimizer = optax.adam(0.05)
    start = jnp.log(jnp.asarray([10.0, 0.5, 50.0, 0.5, 0.01]))

    def body(_: int, carry: tuple) -> tuple:
        logs, state = carry
        loss = lambda logs: -gp.log_prob(prior(logs), y, noise=jnp.exp(logs[4])) / len(y)  # noqa: E731
        change, state = optimizer.update(jax.grad(loss)(logs), state)
        return optax.apply_updates(logs, change), state

    return jax.lax.fori_loop(0, 100, body, (start, optimizer.init(start)))[0]


def ours(logs: jax.Array, y: jax.Array) -> Found:
    """One pass forward and one back."""
    precision = jnp.exp(-logs[4])
    q = gp.posterior(prior(logs), gp.Site(y, jnp.full_like(y, precision)))
    return Found(q.log_evidence + 0.5 * len(y) * (-logs[4] - jnp.log(2 * jnp.pi)), q.mean, q.variance)


def by_tinygp(logs: jax.Array, y: jax.Array) -> Found:
    """Quasiseparable kernels; of a sum of them it gives no variances (its ``condition`` asserts)."""
    from tinygp import GaussianProcess  # noqa: PLC0415  a peer that need not be installed  # pyright: ignore[reportMissingImports]
    from tinygp.kernels import quasisep  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    slow, size, fast, small, noise = jnp.exp(logs)
    kernel = quasisep.Matern32(slow, jnp.sqrt(size)) + quasisep.Exp(fast, jnp.sqrt(small))
    process = GaussianProcess(kernel, jnp.arange(len(y), dtype=y.dtype), diag=jnp.full_like(y, noise))
    solver = process.solver
    solved = solver.solve_triangular(solver.solve_triangular(y), transpose=True)
    return Found(process.log_probability(y), y - noise * solved, jnp.full_like(y, jnp.nan))


def by_dynamax(logs: jax.Array, y: jax.Array) -> Found:
    """Its smoother, given our matrices."""
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_smoother  # noqa: PLC0415

    model = prior(logs)
    size = len(model.transition)
    params = LinearGaussianSSM(size, 1).initialize(
        jax.random.PRNGKey(0),
        initial_mean=jnp.zeros(size),
        initial_covariance=model.stationary_root @ model.stationary_root.T,
        dynamics_weights=model.transition,
        dynamics_bias=jnp.zeros(size),
        dynamics_covariance=model.noise_root @ model.noise_root.T,
        emission_weights=_output(model)[None],
        emission_bias=jnp.zeros(1),
        emission_covariance=jnp.exp(logs[4])[None, None],
    )[0]
    found = lgssm_smoother(params, y[:, None])
    row = _output(model)
    spread = jnp.einsum("i,tij,j->t", row, found.smoothed_covariances, row)
    return Found(found.marginal_loglik, found.smoothed_means @ row, spread)


def _output(model: gp.StateSpace) -> jax.Array:
    return jnp.eye(len(model.transition))[0]


def dense(logs: np.ndarray, y: np.ndarray) -> Found:
    """In float64, by a Cholesky factor."""
    slow, size, fast, small, noise = np.exp(np.asarray(logs, np.float64))
    lag = np.abs(np.arange(len(y))[:, None] - np.arange(len(y)))
    scaled = np.sqrt(3) * lag / slow
    covariance = size * (1 + scaled) * np.exp(-scaled) + small * np.exp(-lag / fast)
    factor = cho_factor(covariance + noise * np.eye(len(y)), lower=True)
    solved = cho_solve(factor, y)
    evidence = -0.5 * (y @ solved + len(y) * np.log(2 * np.pi)) - np.log(np.diag(factor[0])).sum()
    variance = np.diag(covariance) - (covariance * cho_solve(factor, covariance)).sum(0)
    return Found(evidence, covariance @ solved, variance)


def uses(logs: jax.Array, y: np.ndarray) -> dict[str, float]:
    """Errors and coverage of what was left out: six hours of each third day, and the day after each midnight."""
    noise = float(jnp.exp(logs[4]))

    @functools.partial(jax.jit, static_argnums=2)
    def at(values: jax.Array, seen: jax.Array, steps: int) -> tuple:
        q = gp.posterior(prior(logs), gp.Site(values, jnp.where(seen, 1 / noise, 0)))
        return q.mean[-steps:], jnp.sqrt(q.variance[-steps:] + noise)

    test = y[HOURS : HOURS + PAST + DAYS * DAY]
    hour = np.arange(len(test)) % (3 * DAY)
    gap = (hour >= 30) & (hour < 36)
    mean, deviation = map(np.asarray, at(jnp.asarray(test, jnp.float32), jnp.asarray(~gap), len(test)))
    inside = np.abs(test - mean) < 1.2816 * deviation
    straight = np.interp(np.arange(len(test)), np.flatnonzero(~gap), test[~gap])
    found = {
        "gaps, mean error": float(np.abs(test - mean)[gap].mean()),
        "gaps, mean error of a straight line": float(np.abs(test - straight)[gap].mean()),
        "gaps, share inside 80 %": float(inside[gap].mean()),
    }
    errors, last, held = [], [], []
    seen = jnp.arange(PAST + DAY) < PAST
    for day in range(DAYS):
        window = test[day * DAY : day * DAY + PAST + DAY]
        mean, deviation = map(np.asarray, at(jnp.asarray(window, jnp.float32), seen, DAY))
        future = window[PAST:]
        errors.append(np.abs(future - mean).mean())
        last.append(np.abs(future - window[PAST - 1]).mean())
        held.append((np.abs(future - mean) < 1.2816 * deviation).mean())
    return found | {
        "a day ahead, mean error": float(np.mean(errors)),
        "a day ahead, mean error of the last value": float(np.mean(last)),
        "a day ahead, share inside 80 %": float(np.mean(held)),
    }


def main(repeats: int = 15) -> None:
    """The table."""
    y = oil()
    known = jnp.asarray(y[:HOURS], jnp.float32)
    logs = learned(known)
    exact = dense(np.asarray(logs), np.asarray(known, np.float64))
    forms: dict[str, Callable[[jax.Array, jax.Array], Found]] = {"weightfilter": ours}
    if importlib.util.find_spec("tinygp"):
        forms["tinygp"] = by_tinygp
    if importlib.util.find_spec("dynamax"):
        forms["dynamax"] = by_dynamax
    rows = []
    for name, form in forms.items():
        # Parameters are arguments: of constants, a compiler computes in advance all that data do not change.
        run = functools.partial(jax.jit(form), logs)
        seconds, compiling = processor_time(run, known, repeats)
        slope = jax.jit(jax.grad(lambda logs, y, form=form: form(logs, y).log_evidence))
        gradient = processor_time(functools.partial(slope, logs), known, repeats)[0]
        found = Found(*(np.asarray(part, np.float64) for part in run(known)))
        deviation = np.sqrt(exact.variance)
        off = np.abs(np.sqrt(np.maximum(found.variance, 0)) / deviation - 1).max()
        rows.append(
            (
                name,
                f"{1e3 * seconds:.3g}",
                f"{1e3 * gradient:.3g}",
                f"{compiling:.2g}",
                f"{abs(found.log_evidence - exact.log_evidence):.2g}",
                f"{np.abs((found.mean - exact.mean) / deviation).max():.1e}",
                f"{off:.1e}" if np.isfinite(off) else "–",
            )
        )
    columns = ("float32", "ms", "ms, gradient of evidence", "to compile, s", "nats off", "means off", "deviations off")
    title = f"Evidence, means and variances of {HOURS:,} hours of ETTh1's oil temperature"
    named = ("slow length scale", "slow variance", "fast length scale", "fast variance", "noise")
    facts = {
        "uses": uses(logs, y),
        "parameters": dict(zip(named, map(float, jnp.exp(logs)), strict=True)),
        "note": "least processor time of repeated calls; errors are against dense float64, means in its deviations",
    }
    for name, value in facts["uses"].items():
        print(f"{name}: {value:.3f}")
    report("gaussian_regression", title, columns, rows, facts)
