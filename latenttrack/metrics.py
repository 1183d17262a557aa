"""Scores of mixtures of Gaussians: pure functions of components [T, K, y_dim] and targets [T, y_dim].

Nothing is clipped and nothing left out: a density of zero is an infinite score, and stays one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from latenttrack import stream_checks
from latenttrack.algebra import gaussian
from latenttrack.interface import Outputs
from lowrank_filter.common import checks

Components = Float[Array, "T K y_dim"]
Targets = Float[Array, "T y_dim"]


def nll(ys: Targets, mean: Components, variance: Components) -> Float[Array, " T"]:
    """−log (1/K) Σ_k N(y; mean_k, diag variance_k) at each step, in nats, by log-sum-exp."""
    ys, mean = stream_checks.scored(ys, mean)
    mean, variance = stream_checks.components(mean, variance)
    return -gaussian.mixture(gaussian.log_density(ys[:, None], mean, variance))


def squared_error(ys: Targets, mean: Components) -> Float[Array, "T y_dim"]:
    """(y − mixture mean)²."""
    ys, mean = stream_checks.scored(ys, mean)
    return jnp.square(ys - jnp.mean(mean, axis=1))


def crps(ys: Targets, mean: Components, variance: Components, *, batch_size: int = 256) -> Float[Array, "T y_dim"]:
    """Continuous ranked probability score of each channel's mixture, in closed form (Grimit et al. 2006).

    (1/K) Σ_k A(y − μ_k, σ_k²) − 1/(2K²) Σ_kl A(μ_k − μ_l, σ_k² + σ_l²), A(m, s²) = 2 s φ(m/s) + m (2 Φ(m/s) − 1).
    In units of y. ``batch_size`` steps at a time hold K² numbers per channel.
    """
    ys, mean = stream_checks.scored(ys, mean)
    mean, variance = stream_checks.components(mean, variance)
    checks.count("batch_size", batch_size, minimum=1)

    def one(inputs: tuple[Array, Array, Array]) -> Float[Array, " y_dim"]:
        y, m, v = inputs
        pairs = _absolute(m[:, None] - m[None], v[:, None] + v[None])
        return jnp.mean(_absolute(y - m, v), axis=0) - 0.5 * jnp.mean(pairs, axis=(0, 1))

    return jax.lax.map(one, (ys, mean, variance), batch_size=batch_size)


def _absolute(mean: Array, variance: Array) -> Array:
    """E|X| of X ~ N(mean, variance)."""
    scale = jnp.sqrt(variance)
    return 2 * scale * norm.pdf(mean / scale) + mean * (2 * norm.cdf(mean / scale) - 1)


def pit(ys: Targets, mean: Components, variance: Components) -> Float[Array, "T y_dim"]:
    """Probability integral transform: the mixture's distribution function at y. Uniform where calibrated."""
    ys, mean = stream_checks.scored(ys, mean)
    mean, variance = stream_checks.components(mean, variance)
    return jnp.mean(norm.cdf((ys[:, None] - mean) / jnp.sqrt(variance)), axis=1)


def coverage(pits: Float[Array, "..."], level: ArrayLike) -> Float[Array, "..."]:
    """1 where y lies in the mixture's central interval of probability ``level``, else 0; from the :func:`pit`."""
    pits = stream_checks.axes("pits", pits, 0, "(...,) from pit")
    checks.within("level", level, 0.0, 1.0, "values in [0, 1]")
    return (jnp.abs(pits - 0.5) <= 0.5 * jnp.asarray(level)).astype(pits.dtype)


def calibration_error(
    pits: Float[Array, "T y_dim"], mask: Bool[Array, " T"] | None = None, *, levels: int = 99
) -> Float[Array, ""]:
    """Mean over probabilities p = 1/(levels + 1) … and channels of |share of PIT ≤ p − p| (Kuleshov et al. 2018)."""
    pits = stream_checks.axes("pits", pits, 2, "(T, y_dim) from pit")
    checks.count("levels", levels, minimum=1)
    if mask is not None:
        mask = checks.booleans("mask", mask)
        checks.shape("mask", mask, pits.shape[:1], "one boolean per time step")
    share = _shares(len(pits), mask)
    expected = jnp.arange(1, levels + 1) / (levels + 1)

    def gap(p: Array) -> Array:
        return jnp.abs(share @ (pits <= p).astype(pits.dtype) - p)

    return jnp.mean(jax.lax.map(gap, expected))


def uncertainty(mean: Components, variance: Components) -> tuple[Float[Array, "T y_dim"], Float[Array, "T y_dim"]]:
    """Aleatoric and epistemic variance: the mean of the variances, the variance of the means. Their sum is total."""
    mean, variance = stream_checks.components(mean, variance)
    return jnp.mean(variance, axis=1), jnp.var(mean, axis=1)


def failure_rate(nlls: Float[Array, "runs T"], threshold: ArrayLike = 1e6) -> Float[Array, ""]:
    """Share of runs with a step above ``threshold`` nats, or without a number."""
    nlls = stream_checks.axes("nlls", nlls, 1, "(runs, T)")
    stream_checks.threshold(threshold)
    return jnp.mean(jnp.any(~(nlls <= threshold), axis=-1))


def first_shares(nlls: Float[Array, "models T"]) -> Float[Array, " models"]:
    """Share of steps at which each model has the lowest score; models that tie divide the step, NaN is last."""
    nlls = stream_checks.axes("nlls", nlls, 2, "(models, T)")
    scores = jnp.where(jnp.isnan(nlls), jnp.inf, nlls)
    first = (scores == jnp.min(scores, axis=0)).astype(nlls.dtype)
    return jnp.mean(first / jnp.sum(first, axis=0), axis=-1)


def spikes(nlls: Float[Array, "*batch T"], threshold: ArrayLike = 10.0) -> Int[Array, "*batch"]:
    """Steps above ``threshold`` nats, or without a number."""
    nlls = stream_checks.axes("nlls", nlls, 1, "(..., T)")
    stream_checks.threshold(threshold)
    return jnp.sum(~(nlls <= threshold), axis=-1)


class Summary(NamedTuple):
    """Means over the observed steps (and channels), and extremes."""

    nll: Float[Array, ""]
    median_nll: Float[Array, ""]
    max_nll: Float[Array, ""]
    mse: Float[Array, ""]
    crps: Float[Array, ""]
    coverage90: Float[Array, ""]
    calibration_error: Float[Array, ""]
    aleatoric: Float[Array, ""]
    epistemic: Float[Array, ""]
    spikes: Int[Array, ""]


def summary(outputs: Outputs, ys: Targets, mask: Bool[Array, " T"] | None = None) -> Summary:
    """The scores of one stream. The nll is the model's own ``log_prob``; invalid steps count as not observed."""
    ys, seen = _observed(outputs, ys, mask)
    mask = None if mask is None and outputs.invalid is None else seen
    share = _shares(len(ys), mask)
    ys = jnp.where(seen[:, None], ys, 0)
    scores = jnp.where(seen, -outputs.log_prob, jnp.nan)
    pits = pit(ys, outputs.mean, outputs.variance)

    def average(values: Float[Array, "T y_dim"]) -> Float[Array, ""]:
        return jnp.mean(share @ values)

    aleatoric, epistemic = uncertainty(outputs.mean, outputs.variance)
    return Summary(
        jnp.sum(jnp.where(seen, -share * outputs.log_prob, 0)),
        jnp.nanmedian(scores),
        jnp.max(jnp.where(seen, -outputs.log_prob, -jnp.inf)),
        average(squared_error(ys, outputs.mean)),
        average(crps(ys, outputs.mean, outputs.variance)),
        average(coverage(pits, 0.9)),
        calibration_error(pits, mask),
        average(aleatoric),
        average(epistemic),
        spikes(jnp.where(seen, -outputs.log_prob, -jnp.inf)),
    )


class Health(NamedTuple):
    """How a filter has been doing over the last steps, at each step [T].

    Attributes:
        innovation: mean over channels and the window's observed steps of (y − mixture mean)² / mixture variance: the
            innovation against its predicted scale, about 1 where calibrated, 0 without an observation.
        observed: observed steps in the window.
        invalid: steps in the window that were left out because they were not finite.
    """

    innovation: Float[Array, " T"]
    observed: Int[Array, " T"]
    invalid: Int[Array, " T"]


def health(outputs: Outputs, ys: Targets, mask: Bool[Array, " T"] | None = None, *, window: int = 100) -> Health:
    """A sliding record of a stream, from its outputs; nothing of it is computed in the rollout.

    Args:
        outputs: of a rollout.
        ys, mask: its targets, and which were observed.
        window: steps that a record looks back over, static.

    Raises:
        TypeError: ``outputs`` is not an :class:`Outputs`.
        ValueError: shapes do not fit, or ``window`` is not a static integer ≥ 1.
    """
    checks.count("window", window, minimum=1)
    ys, seen = _observed(outputs, ys, mask)
    aleatoric, epistemic = uncertainty(outputs.mean, outputs.variance)
    innovation = jnp.mean(squared_error(ys, outputs.mean) / (aleatoric + epistemic), axis=1)
    invalid = jnp.zeros(len(ys), bool) if outputs.invalid is None else outputs.invalid

    def total(values: Array) -> Array:
        zero = jnp.zeros((), values.dtype)
        return jax.lax.reduce_window(values, zero, jax.lax.add, (window,), (1,), [(window - 1, 0)])

    observed = total(seen.astype(jnp.int32))
    mean = total(jnp.where(seen, innovation, 0)) / jnp.maximum(observed, 1)
    return Health(mean, observed, total(invalid.astype(jnp.int32)))


def _observed(outputs: Outputs, ys: Targets, mask: Any) -> tuple[Targets, Bool[Array, " T"]]:
    """Targets, zero where not observed, and which steps were."""
    checks.instance("outputs", outputs, Outputs, "take it from a rollout")
    ys, _ = stream_checks.scored(ys, outputs.mean)
    stream_checks.components(outputs.mean, outputs.variance)
    _, ys, mask = stream_checks.stream(ys, ys, mask)
    seen = jnp.ones(len(ys), bool) if mask is None else mask
    if outputs.invalid is not None:
        seen = seen & ~outputs.invalid
    return jnp.where(seen[:, None], ys, 0), seen


def _shares(size: int, mask: Bool[Array, " T"] | None) -> Float[Array, " T"]:
    seen = jnp.ones(size) if mask is None else mask.astype(jnp.result_type(float))
    return seen / jnp.sum(seen)
