"""Scores of a stream of predictions, step by step and summarised; nothing is clipped and nothing dropped."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from experiments.run.results import number, over_seeds, standard_error
from latenttrack import Outputs, metrics


class Steps(NamedTuple):
    """Scores of each step [T] (or [S, T]), in units of the standardised series; NaN where y is masked.

    Attributes:
        nll: −log p(y_t | past), in nats.
        error: mean of the prediction less y_t.
        crps: continuous ranked probability score.
        pit: the predictive distribution function at y_t.
        aleatoric: mean of the components' variances.
        epistemic: variance of their means.
    """

    nll: Any
    error: Any
    crps: Any
    pit: Any
    aleatoric: Any
    epistemic: Any


def steps(outputs: Outputs, ys: Any, mask: Any, scale: Any) -> Steps:
    """Score the predictions of one target; ``scale`` is the unit of y in standard deviations of the series."""
    mean, variance = outputs.mean, outputs.variance
    aleatoric, epistemic = metrics.uncertainty(mean, variance)
    found = Steps(
        -outputs.log_prob + jnp.log(scale),
        scale * (jnp.mean(mean, 1) - ys)[:, 0],
        scale * metrics.crps(ys, mean, variance)[:, 0],
        metrics.pit(ys, mean, variance)[:, 0],
        scale**2 * aleatoric[:, 0],
        scale**2 * epistemic[:, 0],
    )
    return found if mask is None else jax.tree.map(lambda leaf: jnp.where(mask, leaf, jnp.nan), found)


def calibration(pit: Float[np.ndarray, "*seeds T"], levels: int = 19) -> tuple[np.ndarray, np.ndarray]:
    """Nominal levels of central intervals, and the share of targets inside."""
    nominal, finite = np.arange(1, levels + 1) / (levels + 1), pit[np.isfinite(pit)]
    return nominal, np.array([jnp.mean(metrics.coverage(jnp.asarray(finite), level)) for level in nominal])


def summary(found: Steps, mask: Bool[np.ndarray, " T"] | None, week: int = 1) -> dict[str, Any]:
    """What ``results.json`` says of one model's scores [S, T]; a number that is not finite is None, and counted.

    ``week`` is the number of steps in a block of the error over time.
    """
    nll, error = np.asarray(found.nll, np.float64), np.asarray(found.error, np.float64)
    scored = slice(None) if mask is None else mask
    nll, error = nll[:, scored], error[:, scored]
    pit, losses = jnp.asarray(found.pit[:, scored]), jnp.asarray(nll)
    largest = np.max(np.where(np.isnan(nll), np.inf, nll), axis=1)
    return {
        "nll": _spread(nll.mean(1)) | {"median_step": number(np.median(nll)), "error": error_of(nll, week)},
        "mse": _spread((error**2).mean(1)),
        "crps": _spread(np.asarray(found.crps, np.float64)[:, scored].mean(1)),
        "coverage90": _spread(np.asarray(metrics.coverage(pit, 0.9)).mean(1)),
        "calibration_error": number(metrics.calibration_error(pit.reshape(-1, 1))),
        "max_nll": number(np.max(largest)),
        "max_nll_per_seed": [number(value) for value in largest],
        "quantile999": number(np.quantile(nll, 0.999, method="higher")),
        "spikes": _spread(np.asarray(metrics.spikes(losses), float)),
        "failure_rate": float(metrics.failure_rate(losses)),
        "not_finite": int((~np.isfinite(nll)).sum()),
        "aleatoric": number(np.mean(np.asarray(found.aleatoric)[:, scored])),
        "epistemic": number(np.mean(np.asarray(found.epistemic)[:, scored])),
    }


def rank_one(nll: Mapping[str, Float[np.ndarray, "S T"]]) -> dict[str, float]:
    """The share of steps on which each model has the lowest negative log density, over the seeds that all have.

    A step that no model scored, a masked one, does not count.
    """
    seeds = min(len(values) for values in nll.values())
    stacked = np.stack([values[:seeds].ravel() for values in nll.values()])
    scored = stacked[:, ~np.isnan(stacked).all(0)]
    return dict(zip(nll, metrics.first_shares(jnp.asarray(scored)).tolist(), strict=True))


def paired(better: Float[np.ndarray, "S T"], worse: Float[np.ndarray, "S T"], week: int = 1) -> dict[str, Any]:
    """Mean difference of scores, every seed's, and errors: over seeds, and over weeks and seeds together.

    A single seed of one side meets all; masked steps are NaN in both.
    """
    steps = np.asarray(better, np.float64) - np.asarray(worse, np.float64)
    steps = steps[:, ~np.isnan(steps).all(0)]
    difference = _spread(steps.mean(1))
    names = ("standard_error", "per_seed")
    return {"difference": difference["mean"], "error": error_of(steps, week)} | {n: difference[n] for n in names}


def error_of(steps: Float[np.ndarray, "S T"], week: int) -> float | None:
    """The standard error of the mean over seeds and steps: over blocks of a week, and over seeds, added in squares."""
    if not np.isfinite(steps).all():
        return None
    return float(np.hypot(block_error(steps.mean(0), week), standard_error(steps.mean(1)) or 0.0))


def block_error(values: Float[np.ndarray, " N"], block: int, draws: int = 1000) -> float:
    """The standard error of a mean over time by the moving block bootstrap (Künsch 1989); the same blocks every time.

    Neighbours are alike: blocks keep what they share. Of few values the blocks are at most half as long.
    """
    count = len(values)
    block = max(1, min(block, count // 2))
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    means = (total[block:] - total[:-block]) / block
    picked = np.random.default_rng(0).integers(0, len(means), (draws, -(-count // block)))
    return float(means[picked].mean(axis=1).std())


def _spread(per_seed: Float[np.ndarray, " S"]) -> dict[str, Any]:
    return over_seeds(per_seed) | {"median": number(np.median(per_seed))}
