"""Scores of mixtures of Gaussians, of quantiles and of paths: pure functions of predictions and targets.

Mixtures come as components [T, K, y_dim], targets as [T, y_dim]. Nothing is clipped and nothing left out: a density of
zero is an infinite score, and stays one; a target that is NaN has a score of NaN. A variance of zero is a point.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from latenttrack import stream_checks
from latenttrack.algebra import gaussian
from latenttrack.interface import Outputs
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled

Components = Float[Array, "T K y_dim"]
Targets = Float[Array, "T y_dim"]

# Steps whose pairs of components are compared at a time, probabilities of a calibration curve, nats of a spike.
_STEPS, _LEVELS, _SPIKE = 256, 99, 10.0


def nll(ys: Targets, mean: Components, variance: Components) -> Float[Array, " T"]:
    """−log (1/K) Σ_k N(y; mean_k, diag variance_k) at each step, in nats, by log-sum-exp; NaN without a y.

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> print(lt.metrics.nll(jnp.array([[1.0]]), mean, variance).round(3))  # ½ log 2π + ½
        [1.419]
    """
    ys, mean = stream_checks.scored(ys, mean)
    mean, variance = stream_checks.components(mean, variance)
    return compiled(_nll, ys, mean, variance)


def _nll(ys: Array, mean: Array, variance: Array) -> Float[Array, " T"]:
    return -gaussian.mixture(gaussian.log_density(ys[:, None], mean, variance))


def squared_error(ys: Targets, mean: Components) -> Float[Array, "T y_dim"]:
    """(y − mixture mean)².

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> print(lt.metrics.squared_error(jnp.array([[3.0]]), mean))
        [[4.]]
    """
    return compiled(_squared_error, *stream_checks.scored(ys, mean))


def _squared_error(ys: Array, mean: Array) -> Float[Array, "T y_dim"]:
    return jnp.square(ys - jnp.mean(mean, axis=1))


def crps(ys: Targets, mean: Components, variance: Components, *, batch_size: int = _STEPS) -> Float[Array, "T y_dim"]:
    """Continuous ranked probability score of each channel's mixture, in closed form (Grimit et al. 2006).

    (1/K) Σ_k A(y − μ_k, σ_k²) − 1/(2K²) Σ_kl A(μ_k − μ_l, σ_k² + σ_l²), A(m, s²) = 2 s φ(m/s) + m (2 Φ(m/s) − 1).
    In units of y. ``batch_size`` steps at a time hold K² numbers per channel.

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> round(float(lt.metrics.crps(jnp.array([[1.0]]), mean, variance)[0, 0]), 2)
        0.36
    """
    ys, mean = stream_checks.scored(ys, mean)
    mean, variance = stream_checks.components(mean, variance)
    checks.count("batch_size", batch_size, minimum=1)
    return compiled(_crps, ys, mean, variance, batch_size=batch_size)


def _crps(ys: Array, mean: Array, variance: Array, *, batch_size: int) -> Float[Array, "T y_dim"]:
    def one(inputs: tuple[Array, Array, Array]) -> Float[Array, " y_dim"]:
        y, m, v = inputs
        pairs = _absolute(m[:, None] - m[None], v[:, None] + v[None])
        return jnp.mean(_absolute(y - m, v), axis=0) - 0.5 * jnp.mean(pairs, axis=(0, 1))

    return jax.lax.map(one, (ys, mean, variance), batch_size=batch_size)


def _absolute(mean: Array, variance: Array) -> Array:
    """E|X| of X ~ N(mean, variance)."""
    point = variance == 0
    scale = jnp.sqrt(jnp.where(point, 1, variance))
    spread = 2 * scale * norm.pdf(mean / scale) + mean * (2 * norm.cdf(mean / scale) - 1)
    return jnp.where(point, jnp.abs(mean), spread)


def pit(ys: Targets, mean: Components, variance: Components) -> Float[Array, "T y_dim"]:
    """Probability integral transform: the mixture's distribution function at y. Uniform where calibrated.

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> print(lt.metrics.pit(jnp.array([[1.0]]), mean, variance).round(3))
        [[0.5]]
    """
    ys, mean = stream_checks.scored(ys, mean)
    mean, variance = stream_checks.components(mean, variance)
    return compiled(_pit, ys, mean, variance)


def _pit(ys: Array, mean: Array, variance: Array) -> Float[Array, "T y_dim"]:
    return jnp.mean(_below(ys[:, None], mean, variance), axis=1)


def _below(y: Array, mean: Array, variance: Array) -> Array:
    """P(X ≤ y) of X ~ N(mean, variance)."""
    point = variance == 0
    inside = norm.cdf((y - mean) / jnp.sqrt(jnp.where(point, 1, variance)))
    return jnp.where(point & ~jnp.isnan(inside), (y >= mean).astype(inside.dtype), inside)


def quantile(mean: Components, variance: Components, q: ArrayLike) -> Float[Array, "..."]:
    """The smallest y at which each channel's mixture has at least probability ``q`` below it [T, y_dim].

    By bisection between the lowest and the highest quantile of the components, which enclose it however far apart they
    are; its gradient is that of the implicit function F(y) = q. q [Q] gives [Q, T, y_dim]; 0 and 1 the support's ends.

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> print(lt.metrics.quantile(mean, variance, 0.5).round(3))
        [[1.]]
    """
    mean, variance = stream_checks.components(mean, variance)
    q = stream_checks.probabilities("q", q).astype(mean.dtype)
    return compiled(_quantiles, mean, variance, q)


def _quantiles(mean: Array, variance: Array, q: Array) -> Float[Array, "..."]:
    one = functools.partial(_quantile, mean, variance)
    return jax.vmap(one)(q) if q.ndim else one(q)


def _quantile(mean: Array, variance: Array, q: Array) -> Float[Array, "T y_dim"]:
    fixed_mean, fixed_variance, level = jax.lax.stop_gradient((mean, variance, q))
    offset = jnp.where(fixed_variance > 0, jnp.sqrt(fixed_variance) * norm.ppf(level), 0)
    ends = jnp.min(fixed_mean + offset, axis=1), jnp.max(fixed_mean + offset, axis=1)
    inside = (level > 0) & (level < 1)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + 0.5 * (high - low)
        enough = jnp.mean(_below(middle[:, None], fixed_mean, fixed_variance), axis=1) >= level
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    finite = jax.tree.map(lambda end: jnp.where(inside, end, 0), ends)
    _, y = jax.lax.fori_loop(0, jnp.finfo(mean.dtype).nmant + 16, halve, finite)
    probability = jnp.mean(_below(y[:, None], mean, variance), axis=1) - q
    point = fixed_variance == 0
    width = jnp.sqrt(jnp.where(point, 1, fixed_variance))
    density = jnp.mean(jnp.where(point, 0, norm.pdf(y[:, None], fixed_mean, width)), axis=1)
    slope = jnp.where(density > 0, density, jnp.inf)
    moved = y - (probability - jax.lax.stop_gradient(probability)) / slope
    return jnp.where(inside, moved, jnp.where(level > 0, ends[1], ends[0]))


def interval(
    mean: Components, variance: Components, level: ArrayLike
) -> tuple[Float[Array, "T y_dim"], Float[Array, "T y_dim"]]:
    """Lower and upper end of each channel's central interval of probability ``level``.

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> [round(float(end[0, 0]), 1) for end in lt.metrics.interval(mean, variance, 0.9)]
        [-1.3, 3.3]
    """
    mean, variance = stream_checks.components(mean, variance)
    checks.within("level", level, 0.0, 1.0, "values in [0, 1]")
    lower, upper = quantile(mean, variance, 0.5 + 0.5 * jnp.asarray([-1.0, 1.0]) * level)
    return lower, upper


def quantile_loss(ys: Targets, quantiles: Float[Array, "Q T y_dim"], q: Float[Array, " Q"]) -> Float[Array, "..."]:
    """2 (1{y < f} − q)(f − y), the pinball loss doubled, of each quantile f at each step [Q, T, y_dim].

    Its integral over q is the CRPS. In units of y.

    Examples:
        >>> print(lt.metrics.quantile_loss(jnp.array([[3.0]]), jnp.array([[[1.0]]]), jnp.array([0.5])))
        [[[2.]]]
    """
    return compiled(_doubled, *stream_checks.quantiles(ys, quantiles, q))


def _doubled(ys: Array, quantiles: Array, q: Array) -> Array:
    """The pinball loss, doubled."""
    beyond = ys - quantiles
    return 2 * jnp.maximum(q[:, None, None] * beyond, (q[:, None, None] - 1) * beyond)


def weighted_quantile_loss(
    ys: Targets,
    quantiles: Float[Array, "Q T y_dim"],
    q: Float[Array, " Q"],
    mask: Bool[Array, " T"] | None = None,
) -> Float[Array, ""]:
    """Mean over q of Σ :func:`quantile_loss` / Σ |y|, the sums over the observed steps and channels.

    With q = 0.1, 0.2 … 0.9 what GluonTS and GIFT-Eval report as CRPS.

    Examples:
        >>> print(lt.metrics.weighted_quantile_loss(jnp.array([[4.0]]), jnp.array([[[3.0]]]), jnp.array([0.5])))
        0.25
    """
    ys, quantiles, q = stream_checks.quantiles(ys, quantiles, q)
    return compiled(_weighted, ys, quantiles, q, _scored(mask, ys))


def _weighted(ys: Array, quantiles: Array, q: Array, mask: Array | None) -> Float[Array, ""]:
    loss, seen = _doubled(ys, quantiles, q), _seen(mask, ys)
    return jnp.mean(jnp.sum(jnp.where(seen, loss, 0), axis=(1, 2))) / jnp.sum(jnp.where(seen, jnp.abs(ys), 0))


def mase(
    ys: Targets,
    points: Targets,
    history: Float[Array, "N y_dim"],
    *,
    season: int = 1,
    mask: Bool[Array, " T"] | None = None,
) -> Float[Array, " y_dim"]:
    """Mean |y − point| over the mean |history_t − history_{t−season}|, of each channel (Hyndman and Koehler 2006).

    Below 1: better ahead than the seasonal naive forecast was one step ahead in ``history``, the training span. Pairs
    of the history that lack a number are left out.

    Examples:
        >>> print(lt.metrics.mase(jnp.array([[5.0]]), jnp.array([[4.0]]), history=jnp.array([[0.0], [2.0], [4.0]])))
        [0.5]
    """
    ys, points = stream_checks.points(ys, points)
    history = stream_checks.rows("history", history)
    checks.count("season", season, minimum=1)
    if history.shape[1] != ys.shape[1] or len(history) <= season:
        raise ValueError(
            f"history: expected more than season = {season} rows of {ys.shape[1]} channels, got shape "
            f"{history.shape}; give the training span's targets"
        )
    return compiled(_mase, ys, points, history, _scored(mask, ys), season=season)


def _mase(ys: Array, points: Array, history: Array, mask: Array | None, *, season: int) -> Float[Array, " y_dim"]:
    seen = _seen(mask, ys)
    error = jnp.sum(jnp.where(seen, jnp.abs(ys - points), 0), axis=0) / jnp.sum(seen, axis=0)
    return error / jnp.nanmean(jnp.abs(history[season:] - history[:-season]), axis=0)


def horizon_coverage(
    ys: Float[Array, "N h y_dim"],
    lower: Float[Array, "N h y_dim"],
    upper: Float[Array, "N h y_dim"],
    mask: Bool[Array, "N h"] | None = None,
) -> Float[Array, "h y_dim"]:
    """Share of N forecasts whose interval holds y, at each of the h steps ahead.

    Examples:
        >>> ys = jnp.array([[[0.0], [3.0]], [[1.0], [0.5]]])  # two forecasts of two steps
        >>> print(lt.metrics.horizon_coverage(ys, jnp.full((2, 2, 1), -2.0), jnp.full((2, 2, 1), 2.0)).ravel())
        [1.  0.5]
    """
    ys, lower, upper = stream_checks.intervals(ys, lower, upper)
    return compiled(_held, ys, lower, upper, _scored(mask, ys))


def _held(ys: Array, lower: Array, upper: Array, mask: Array | None) -> Float[Array, "h y_dim"]:
    seen = _seen(mask, ys)
    held = (lower <= ys) & (ys <= upper)
    return jnp.sum(seen & held, axis=0) / jnp.sum(seen, axis=0)


def energy_score(
    ys: Float[Array, "h y_dim"], samples: Float[Array, "K h y_dim"], *, batch_size: int = 32
) -> Float[Array, ""]:
    """(1/K) Σ_k ‖X_k − y‖ − 1/(2K²) Σ_kl ‖X_k − X_l‖ of paths X_k, the norm over steps and channels together.

    The CRPS of whole paths (Gneiting and Raftery 2007, eq. 22): unlike a score of each step it sees how steps belong
    together. In units of y. ``batch_size`` paths at a time are compared with all.

    Examples:
        >>> print(lt.metrics.energy_score(jnp.array([[3.0], [4.0]]), jnp.zeros((2, 2, 1))))  # two paths of zeros
        5.0
    """
    ys = stream_checks.rows("ys", ys)
    samples = stream_checks.paths("samples", samples, ys)
    checks.count("batch_size", batch_size, minimum=1)
    return compiled(_energy, ys, samples, batch_size=batch_size)


def _energy(ys: Array, samples: Array, *, batch_size: int) -> Float[Array, ""]:
    flat = samples.reshape(len(samples), -1)

    def one(path: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.mean(_norm(flat - path))

    return jnp.mean(_norm(flat - ys.reshape(-1))) - 0.5 * jnp.mean(jax.lax.map(one, flat, batch_size=batch_size))


def _norm(difference: Float[Array, "K d"]) -> Float[Array, " K"]:
    """Euclidean, with the gradient 0 at 0."""
    square = jnp.sum(jnp.square(difference), axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)


def _scored(mask: Any, ys: Array) -> Array | None:
    """Which steps are scored: all without a mask."""
    if mask is not None:
        mask = checks.booleans("mask", mask)
        checks.shape("mask", mask, ys.shape[:-1], "one boolean per time step")
    return mask


def _seen(mask: Array | None, ys: Array) -> Bool[Array, "..."]:
    """Which targets are scored, in their shape."""
    return jnp.ones(ys.shape, bool) if mask is None else jnp.broadcast_to(mask[..., None], ys.shape)


def coverage(pits: Float[Array, "..."], level: ArrayLike) -> Float[Array, "..."]:
    """1 where y lies in the mixture's central interval of probability ``level``, else 0; from the :func:`pit`.

    Examples:
        >>> print(lt.metrics.coverage(jnp.array([0.5, 0.96]), 0.9))
        [1. 0.]
    """
    pits = stream_checks.axes("pits", pits, 0, "(...,) from pit")
    checks.within("level", level, 0.0, 1.0, "values in [0, 1]")
    return compiled(_covered, pits, level)


def _covered(pits: Array, level: ArrayLike) -> Float[Array, "..."]:
    return (jnp.abs(pits - 0.5) <= 0.5 * jnp.asarray(level)).astype(pits.dtype)


def calibration_error(
    pits: Float[Array, "T y_dim"], mask: Bool[Array, " T"] | None = None, *, levels: int = _LEVELS
) -> Float[Array, ""]:
    """Mean over probabilities p = 1/(levels + 1) … and channels of |share of PIT ≤ p − p| (Kuleshov et al. 2018).

    Examples:
        >>> pits = jnp.linspace(0.005, 0.995, 100)[:, None]
        >>> print(lt.metrics.calibration_error(pits).round(3))
        0.0
    """
    pits = stream_checks.axes("pits", pits, 2, "(T, y_dim) from pit")
    checks.count("levels", levels, minimum=1)
    return compiled(_calibration_error, pits, _scored(mask, pits), levels=levels)


def _calibration_error(pits: Array, mask: Array | None, *, levels: int) -> Float[Array, ""]:
    share = _shares(len(pits), mask)
    expected = jnp.arange(1, levels + 1) / (levels + 1)

    def gap(p: Array) -> Array:
        return jnp.abs(share @ (pits <= p).astype(pits.dtype) - p)

    return jnp.mean(jax.lax.map(gap, expected))


def uncertainty(mean: Components, variance: Components) -> tuple[Float[Array, "T y_dim"], Float[Array, "T y_dim"]]:
    """Aleatoric and epistemic variance: the mean of the variances, the variance of the means. Their sum is total.

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> aleatoric, epistemic = lt.metrics.uncertainty(mean, variance)
        >>> print(aleatoric, epistemic)
        [[1.]] [[1.]]
    """
    return compiled(_uncertainty, *stream_checks.components(mean, variance))


def _uncertainty(mean: Array, variance: Array) -> tuple[Array, Array]:
    return jnp.mean(variance, axis=1), jnp.var(mean, axis=1)


def failure_rate(nlls: Float[Array, "runs T"], threshold: ArrayLike = 1e6) -> Float[Array, ""]:
    """Share of runs with a step above ``threshold`` nats, or without a number.

    Examples:
        >>> print(lt.metrics.failure_rate(jnp.array([[0.0, 1.0], [2.0, jnp.nan]])))
        0.5
    """
    nlls = stream_checks.axes("nlls", nlls, 1, "(runs, T)")
    stream_checks.threshold(threshold)
    return compiled(_failure_rate, nlls, threshold)


def _failure_rate(nlls: Array, threshold: ArrayLike) -> Float[Array, ""]:
    return jnp.mean(jnp.any(~(nlls <= threshold), axis=-1))


def first_shares(nlls: Float[Array, "models T"]) -> Float[Array, " models"]:
    """Share of steps at which each model has the lowest score; models that tie divide the step, NaN is last.

    Examples:
        >>> print(lt.metrics.first_shares(jnp.array([[0.0, 3.0], [1.0, 2.0]])))
        [0.5 0.5]
    """
    return compiled(_first_shares, stream_checks.axes("nlls", nlls, 2, "(models, T)"))


def _first_shares(nlls: Array) -> Float[Array, " models"]:
    scores = jnp.where(jnp.isnan(nlls), jnp.inf, nlls)
    first = (scores == jnp.min(scores, axis=0)).astype(nlls.dtype)
    return jnp.mean(first / jnp.sum(first, axis=0), axis=-1)


def spikes(nlls: Float[Array, "*batch T"], threshold: ArrayLike = _SPIKE) -> Int[Array, "*batch"]:
    """Steps above ``threshold`` nats, or without a number.

    Examples:
        >>> print(lt.metrics.spikes(jnp.array([0.0, 11.0, jnp.inf])))
        2
    """
    nlls = stream_checks.axes("nlls", nlls, 1, "(..., T)")
    stream_checks.threshold(threshold)
    return compiled(_spikes, nlls, threshold)


def _spikes(nlls: Array, threshold: ArrayLike) -> Int[Array, "*batch"]:
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
    """The scores of one stream. The nll is the model's own ``log_prob``; invalid steps count as not observed.

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> outputs = lt.Outputs(mean, variance, log_prob=jnp.array([-1.5]))
        >>> found = lt.metrics.summary(outputs, jnp.array([[3.0]]))
        >>> print(found.nll, found.mse)
        1.5 4.0
    """
    return compiled(_summary, outputs, *_observed(outputs, ys, mask))


def _summary(outputs: Outputs, ys: Array, mask: Array | None) -> Summary:
    seen = _valid(outputs, mask)
    share = _shares(len(ys), seen)
    ys = jnp.where(seen[:, None], ys, 0)
    scores = jnp.where(seen, -outputs.log_prob, jnp.nan)
    pits = _pit(ys, outputs.mean, outputs.variance)

    def average(values: Float[Array, "T y_dim"]) -> Float[Array, ""]:
        return jnp.mean(share @ values)

    aleatoric, epistemic = _uncertainty(outputs.mean, outputs.variance)
    return Summary(
        jnp.sum(jnp.where(seen, -share * outputs.log_prob, 0)),
        jnp.nanmedian(scores),
        jnp.max(jnp.where(seen, -outputs.log_prob, -jnp.inf)),
        average(_squared_error(ys, outputs.mean)),
        average(_crps(ys, outputs.mean, outputs.variance, batch_size=_STEPS)),
        average(_covered(pits, 0.9)),
        _calibration_error(pits, seen, levels=_LEVELS),
        average(aleatoric),
        average(epistemic),
        _spikes(jnp.where(seen, -outputs.log_prob, -jnp.inf), _SPIKE),
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

    Examples:
        >>> mean, variance = jnp.array([[[0.0], [2.0]]]), jnp.ones((1, 2, 1))  # one step, two components
        >>> outputs = lt.Outputs(mean, variance, log_prob=jnp.array([-1.5]))
        >>> print(lt.metrics.health(outputs, jnp.array([[3.0]]), window=2).innovation)  # 4 where 2 was expected
        [2.]
    """
    checks.count("window", window, minimum=1)
    return compiled(_health, outputs, *_observed(outputs, ys, mask), window=window)


def _health(outputs: Outputs, ys: Array, mask: Array | None, *, window: int) -> Health:
    seen = _valid(outputs, mask)
    ys = jnp.where(seen[:, None], ys, 0)
    aleatoric, epistemic = _uncertainty(outputs.mean, outputs.variance)
    error, total = _squared_error(ys, outputs.mean), aleatoric + epistemic
    innovation = jnp.mean(jnp.where(error > 0, error / total, 0), axis=1)
    invalid = jnp.zeros(len(ys), bool) if outputs.invalid is None else outputs.invalid

    def recent(values: Array) -> Array:
        zero = jnp.zeros((), values.dtype)
        return jax.lax.reduce_window(values, zero, jax.lax.add, (window,), (1,), [(window - 1, 0)])

    observed = recent(seen.astype(jnp.int32))
    mean = recent(jnp.where(seen, innovation, 0)) / jnp.maximum(observed, 1)
    return Health(mean, observed, recent(invalid.astype(jnp.int32)))


def _observed(outputs: Outputs, ys: Targets, mask: Any) -> tuple[Targets, Bool[Array, " T"] | None]:
    """Targets and mask that fit the outputs."""
    checks.instance("outputs", outputs, Outputs, "take it from a rollout")
    ys, _ = stream_checks.scored(ys, outputs.mean)
    stream_checks.components(outputs.mean, outputs.variance)
    _, ys, mask = stream_checks.stream(ys, ys, mask)
    return ys, mask


def _valid(outputs: Outputs, mask: Array | None) -> Bool[Array, " T"]:
    """Which steps are scored: those observed that were not invalid."""
    seen = jnp.ones(outputs.log_prob.shape, bool) if mask is None else mask
    return seen if outputs.invalid is None else seen & ~outputs.invalid


def _shares(size: int, mask: Bool[Array, " T"] | None) -> Float[Array, " T"]:
    seen = jnp.ones(size) if mask is None else mask.astype(jnp.result_type(float))
    return seen / jnp.sum(seen)
