"""Intervals that hold many steps ahead: how far paths spread at each step, learned from forecasts whose targets came.

A model that is calibrated one step ahead need not be so at 48, nor on rows that are calmer than those it was trained
on. Both show in forecasts that were made along rows that did not train it. Nothing here is traced: numbers of a few
hundred intervals a row.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

LEVELS = np.array([0.8, 0.95])
"""Of the central intervals that are held to what they say."""
_STEP = 0.2  # of an adaptive interval, in log units of its width; chosen on validation halves of ett and exchange
_PRIOR = 7.0  # forecasts that do not overlap as informative as the prior that log factors are N(0, .35²)
_WIDTH = 0.35  # of the smoothing over the logarithm of the step
_BOUND = np.log(8.0)

Samples = Float[np.ndarray, "... K h C"]
Factors = Float[np.ndarray, "L H C"]


class Calibration(NamedTuple):
    """Of one series: the factors of its spread, and the intervals that it was served and whose targets are to come.

    Attributes:
        factors: log c of each level, step ahead up to H, and target; further steps have that of H.
        ends: lower and upper ends that were served.
        age: rows that came since each of them was served.
        gap: rows between it and the one before, or ∞.
    """

    factors: Factors
    ends: Float[np.ndarray, "P 2 L H C"]
    age: Int[np.ndarray, " P"]
    gap: Float[np.ndarray, " P"]


def start(factors: Factors) -> Calibration:
    """Nothing served."""
    return Calibration(factors, np.zeros((0, 2, *factors.shape)), np.zeros(0, np.int64), np.zeros(0))


def quantiles(samples: Samples, q: Float[np.ndarray, " Q"]) -> Float[np.ndarray, "Q ... h C"]:
    """Of each step, at the positions of :meth:`latenttrack.Forecast.quantile`."""
    return np.quantile(samples, q, axis=-3, method="weibull")


def central(samples: Samples) -> tuple[Float[np.ndarray, "... h C"], Float[np.ndarray, "2 L ... h C"]]:
    """Median, and ends of the intervals of each level."""
    found = quantiles(samples, np.concatenate([[0.5], 0.5 - LEVELS / 2, 0.5 + LEVELS / 2]))
    return found[0], found[1:].reshape(2, len(LEVELS), *found.shape[1:])


def learned(samples: Float[np.ndarray, "N K h C"], ys: Float[np.ndarray, "N h C"], rows: int) -> Factors:
    """Factors with which the intervals of N forecasts hold what came in a share of its level.

    Split-conformal quantiles (Vovk et al. 2005) of the score

        |y − median| / (end − median),   the end on y's side,

    at each level and step, smoothed over the logarithm of the step, and drawn to 1 where ``rows`` / step, the number of
    forecasts that do not overlap, is small. A target that is NaN does not count.
    """
    median, (lower, upper) = central(samples)
    above = ys >= median
    far, width = np.abs(ys - median), np.where(above, upper - median, median - lower)
    scores = np.where(width > 0, far / np.where(width > 0, width, 1), np.where(far > 0, np.inf, far))
    seen = np.isfinite(ys).sum(axis=0)  # h, C
    order = np.sort(np.where(np.isnan(scores), np.inf, scores), axis=1)
    rank = np.ceil(LEVELS[:, None, None] * (seen + 1)).clip(1, np.maximum(seen, 1)).astype(int) - 1
    found = np.take_along_axis(order, rank[:, None], axis=1)[:, 0]
    with np.errstate(divide="ignore"):
        logs = np.where(seen > 0, np.clip(np.log(found), -_BOUND, _BOUND), 0)
    steps = np.arange(1, ys.shape[1] + 1)
    share = rows / steps
    weights = share / (share + _PRIOR)
    return np.einsum("st,ltc->lsc", _smoother(np.log(steps)), logs) * weights[:, None]


def _smoother(x: Float[np.ndarray, " h"]) -> Float[np.ndarray, "h h"]:
    """Of local linear regression with a Gaussian kernel (Fan 1993): rows of weights."""
    apart = x - x[:, None]
    kernel = np.exp(-0.5 * np.square(apart / _WIDTH))
    first, second = ((kernel * apart**power).sum(axis=1, keepdims=True) for power in (1, 2))
    weights = kernel * (second + 1e-6 - apart * first)
    return weights / weights.sum(axis=1, keepdims=True)


def stretched(samples: Samples, factors: Factors) -> Samples:
    """Each step's values moved away from their median, their order among the paths kept.

    A value at the end of the central interval of level p goes to median + c(p) (value − median), log c(p) being
    that of the first level below it, of the last above, and linear between. The map is monotone, so that quantiles of
    the result are the moved quantiles and what is joint in the paths, their ranks from step to step, stays.
    """
    if not factors.size:
        return samples
    count, steps = samples.shape[-3], samples.shape[-2]
    logs = factors[:, np.minimum(np.arange(steps), factors.shape[1] - 1)]
    ranks = np.argsort(np.argsort(samples, axis=-3), axis=-3)
    level = np.abs(2 * np.arange(1, count + 1) / (count + 1) - 1)
    share = np.clip((level - LEVELS[0]) / (LEVELS[1] - LEVELS[0]), 0, 1)[:, None, None]
    median = quantiles(samples, np.array([0.5]))[0][..., None, :, :]
    moved = median + np.exp((1 - share) * logs[0] + share * logs[1]) * (np.sort(samples, axis=-3) - median)
    return np.take_along_axis(np.sort(moved, axis=-3), ranks, axis=-3)


def served(state: Calibration, samples: Float[np.ndarray, "K h C"]) -> tuple[Calibration, Samples]:
    """The calibrated paths, whose intervals are kept until their targets have come; one served before is replaced."""
    samples = stretched(samples, state.factors)
    horizon = state.factors.shape[1]
    if not horizon:
        return state, samples
    _, found = central(samples[:, :horizon])
    ends = np.full((1, *state.ends.shape[1:]), np.nan)
    ends[0, :, :, : found.shape[2]] = found
    keep = state.age > 0
    gap = np.min(state.age[keep].astype(float), initial=np.inf)
    columns = (state.ends[keep], ends), (state.age[keep], [0]), (state.gap[keep], [gap])
    return Calibration(state.factors, *(np.concatenate(both) for both in columns)), samples


def observed(state: Calibration, y: Float[np.ndarray, " C"]) -> Calibration:
    """A row has come: the factors of the steps that it was ahead move against what their intervals missed.

        log c ← log c + η (1{y outside} − (1 − level)),   η = η₀ min(1, gap / step),

    adaptive conformal inference (Gibbs and Candès 2021) of the intervals that were served, so that over time they hold
    their share of what comes, whatever the stream does. Forecasts that overlap share a step of η₀. Steps beyond the
    last of a forecast move with it.
    """
    if not len(state.age):
        return state
    horizon = state.factors.shape[1]
    served = np.arange(len(state.age))
    lower, upper = state.ends[served, :, :, state.age].swapaxes(0, 1)
    outside = (y < lower) | (y > upper)
    rate = _STEP * np.minimum(1, state.gap / (state.age + 1))
    change = rate[:, None, None] * (outside - (1 - LEVELS)[:, None])
    change = np.where(np.isnan(lower) | np.isnan(y), 0, change)
    factors = state.factors.copy()
    keep = state.age + 1 < horizon
    following = state.ends[served, 0, 0, np.minimum(state.age + 1, horizon - 1), 0]
    for age, moved, last in zip(state.age, change, np.isnan(following), strict=True):
        steps = slice(age, None if last else age + 1)
        factors[:, steps] = np.clip(factors[:, steps] + moved[:, None], -_BOUND, _BOUND)
    return Calibration(factors, state.ends[keep], state.age[keep] + 1, state.gap[keep])
