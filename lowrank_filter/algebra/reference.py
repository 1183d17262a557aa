"""Conditioning a diagonal plus low rank, written plainly: what ``DiagLowRank.condition`` is compared with in the tests.

Everything is built and every matrix is D×D; nothing is fast, and nothing is done about rounding.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra.precision import Misfit
from lowrank_filter.algebra.truncation import Metric, Residual


def propagate(
    diag: Float[Array, " D"], factor: Float[Array, "k D"], noise: Float[Array, " D"], transition: Float[Array, " D"]
) -> tuple[Float[Array, " D"], Float[Array, "k D"]]:
    """The diagonal and the factor of (A P⁻¹ A + Q)⁻¹."""
    shrink = 1 / (transition**2 + noise * diag)
    middle = jnp.eye(len(factor)) + (factor * noise * shrink) @ factor.T
    return shrink * diag, jnp.linalg.solve(jnp.linalg.cholesky(middle), factor) * transition * shrink


def correct(
    before: Float[Array, "D D"], columns: Float[Array, "n D"], target: Float[Array, " n"]
) -> tuple[Float[Array, " D"], Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """The step, what it explains, what it leaves, and by how much the log-determinant grows."""
    after = before + columns.T @ columns
    step = jnp.linalg.solve(after, columns.T @ target)
    innovation = jnp.eye(len(columns)) + columns @ jnp.linalg.solve(before, columns.T)
    unexplained = target @ jnp.linalg.solve(innovation, target)
    return step, target @ columns @ step, unexplained, jnp.linalg.slogdet(innovation)[1]


def truncate(
    diag: Float[Array, " D"], columns: Float[Array, "n D"], measure: Float[Array, " D"], *, rank: int,
    residual: Residual, metric: Metric,
) -> tuple[Float[Array, "D D"], Misfit]:  # fmt: skip
    """diag + the leading part of Σ aaᵀ (+ the diagonal of the rest), a matrix; the metric is that of ``measure``."""
    root = jnp.sqrt(measure) if metric == "relative" else jnp.ones_like(measure)
    _, values, right = jnp.linalg.svd(columns / root, full_matrices=False)
    vectors = values[:, None] * right * root
    kept, rest = vectors[:rank], vectors[rank:]
    left_out = jnp.sum(rest**2, axis=0) if residual == "diagonal" else jnp.zeros_like(diag)
    return jnp.diag(diag + left_out) + kept.T @ kept, Misfit(jnp.sum(values[rank:] ** 2), jnp.sum(values**2))
