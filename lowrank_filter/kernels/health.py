"""How a filter is doing, from what an update has computed anyway."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lowrank_filter.algebra import small_matrices
from lowrank_filter.algebra.precision import Correction, Misfit
from lowrank_filter.common import checks
from lowrank_filter.kernels.expansion import Local


class Health(NamedTuple):
    """One update's vital signs, or those of many along a leading axis.

    Attributes:
        innovation: uᵀ(I + AᵀP⁻¹A)⁻¹u / n, the normalised innovation squared of the n whitened residuals: the innovation
            against its predicted scale, about 1 where both belief and likelihood are right, 0 without data.
        condition: the largest ratio Kᵢᵢ/Lᵢᵢ² of a diagonal entry to its pivot in the matrix K = L Lᵀ that was solved
            with (the small one, or the precision where the parameters are fewer); at least 1, free of the scale of
            single columns. Infinite where the step is not finite. A Gram matrix loses as many digits as its logarithm
            has; square roots, which are used from eps^(-1/3) on, lose half of them.
        truncated: as in :class:`Info`.
        residuals: n, those of the examples that count.
    """

    innovation: Float[Array, "*steps"]
    condition: Float[Array, "*steps"]
    truncated: Float[Array, "*steps"]
    residuals: Float[Array, "*steps"]

    @property
    def ruined(self) -> Bool[Array, "*steps"]:
        """Where fewer than two digits are left, √condition·eps ≥ 0.01, or the step is not finite."""
        return ~(jnp.sqrt(self.condition) * jnp.finfo(self.condition.dtype).eps < 0.01)


def measure(correction: Correction, misfit: Misfit, local: Local) -> Health:
    """The record of one update."""
    lower = correction.lower
    count = local.residuals.astype(lower.dtype)
    finite = functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(s)) for s in jax.tree.leaves(correction.step)])
    condition = jnp.where(finite, jnp.max(1 / small_matrices.pivots(lower)), jnp.inf)
    return Health(correction.unexplained / jnp.maximum(count, 1), condition, misfit.share, count)


def sliding_health(health: Health, window: int) -> Health:
    """The same over the last ``window`` steps at each step: a sliding record of a stream.

    Args:
        health: of N steps, ``steps.info.health`` of :func:`filter_stream`.
        window: static; the first steps have what there is.

    Returns:
        The mean innovation per residual, the worst condition, the mean share truncated, the number of residuals; [N].

    Raises:
        TypeError: ``health`` is not a :class:`Health`, for instance None because it was not asked for.
        ValueError: ``window`` is not a static integer ≥ 1, or the record is not of N steps.

    Examples:
        >>> record = lf.Health(jnp.array([1.0, 3.0, 5.0]), *jnp.ones((3, 3)))
        >>> print(lf.sliding_health(record, window=2).innovation)
        [1. 2. 4.]
    """
    if not isinstance(health, Health):
        raise TypeError(
            f"health: expected the Health of a stream, got {type(health).__name__}; filter it with "
            "extended_filter(..., health=True) and take steps.info.health"
        )
    checks.count("window", window, minimum=1)
    shapes = [jnp.shape(leaf) for leaf in health]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        raise ValueError(
            f"health: expected one number for each of N steps, got shapes {shapes}; take steps.info.health of "
            "filter_stream"
        )

    def over(values: Array, start: float, function: Callable) -> Float[Array, " N"]:
        return jax.lax.reduce_window(
            values, jnp.asarray(start, values.dtype), function, (window,), (1,), [(window - 1, 0)]
        )

    def total(values: Array) -> Float[Array, " N"]:
        return over(values, 0, jax.lax.add)

    count, steps = total(health.residuals), total(jnp.ones_like(health.residuals))
    innovation = total(health.innovation * health.residuals) / jnp.maximum(count, 1)
    return Health(innovation, over(health.condition, 1, jax.lax.max), total(health.truncated) / steps, count)
