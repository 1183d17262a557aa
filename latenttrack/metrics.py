"""Scores of mixtures of Gaussians: pure functions of components [T, K, y_dim] and targets [T, y_dim].

Nothing is clipped and nothing left out: a density of zero is an infinite score, and stays one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from latenttrack.algebra import gaussian
from latenttrack.kernels.interface import Outputs

Components = Float[Array, "T K y_dim"]
Targets = Float[Array, "T y_dim"]


def nll(ys: Targets, mean: Components, variance: Components) -> Float[Array, " T"]:
    """−log (1/K) Σ_k N(y; mean_k, diag variance_k) at each step, in nats, by log-sum-exp."""
    return -gaussian.mixture(gaussian.log_density(ys[:, None], mean, variance))


def squared_error(ys: Targets, mean: Components) -> Float[Array, "T y_dim"]:
    """(y − mixture mean)²."""
    return jnp.square(ys - jnp.mean(mean, axis=1))


def crps(ys: Targets, mean: Components, variance: Components, *, batch_size: int = 256) -> Float[Array, "T y_dim"]:
    """Continuous ranked probability score of each channel's mixture, in closed form (Grimit et al. 2006).

    (1/K) Σ_k A(y − μ_k, σ_k²) − 1/(2K²) Σ_kl A(μ_k − μ_l, σ_k² + σ_l²), A(m, s²) = 2 s φ(m/s) + m (2 Φ(m/s) − 1).
    In units of y. ``batch_size`` steps at a time hold K² numbers per channel.
    """

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
    return jnp.mean(norm.cdf((ys[:, None] - mean) / jnp.sqrt(variance)), axis=1)


def coverage(pits: Float[Array, "..."], level: ArrayLike) -> Float[Array, "..."]:
    """1 where y lies in the mixture's central interval of probability ``level``, else 0; from the :func:`pit`."""
    return (jnp.abs(pits - 0.5) <= 0.5 * jnp.asarray(level)).astype(pits.dtype)


def calibration_error(
    pits: Float[Array, "T y_dim"], mask: Bool[Array, " T"] | None = None, *, levels: int = 99
) -> Float[Array, ""]:
    """Mean over probabilities p = 1/(levels + 1) … and channels of |share of PIT ≤ p − p| (Kuleshov et al. 2018)."""
    share = _shares(len(pits), mask)
    expected = jnp.arange(1, levels + 1) / (levels + 1)

    def gap(p: Array) -> Array:
        return jnp.abs(share @ (pits <= p).astype(pits.dtype) - p)

    return jnp.mean(jax.lax.map(gap, expected))


def uncertainty(mean: Components, variance: Components) -> tuple[Float[Array, "T y_dim"], Float[Array, "T y_dim"]]:
    """Aleatoric and epistemic variance: the mean of the variances, the variance of the means. Their sum is total."""
    return jnp.mean(variance, axis=1), jnp.var(mean, axis=1)


def failure_rate(nlls: Float[Array, "runs T"], threshold: ArrayLike = 1e6) -> Float[Array, ""]:
    """Share of runs with a step above ``threshold`` nats, or without a number."""
    return jnp.mean(jnp.any(~(nlls <= threshold), axis=-1))


def first_shares(nlls: Float[Array, "models T"]) -> Float[Array, " models"]:
    """Share of steps at which each model has the lowest score; models that tie divide the step, NaN is last."""
    scores = jnp.where(jnp.isnan(nlls), jnp.inf, nlls)
    first = (scores == jnp.min(scores, axis=0)).astype(nlls.dtype)
    return jnp.mean(first / jnp.sum(first, axis=0), axis=-1)


def spikes(nlls: Float[Array, "*batch T"], threshold: ArrayLike = 10.0) -> Int[Array, "*batch"]:
    """Steps above ``threshold`` nats, or without a number."""
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
    """The scores of one stream. The nll is the model's own ``log_prob``."""
    share = _shares(len(ys), mask)
    seen = jnp.ones(len(ys), bool) if mask is None else mask
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


def _shares(size: int, mask: Bool[Array, " T"] | None) -> Float[Array, " T"]:
    seen = jnp.ones(size) if mask is None else mask.astype(jnp.result_type(float))
    return seen / jnp.sum(seen)
