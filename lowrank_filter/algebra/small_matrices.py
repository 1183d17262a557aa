"""Factorizations of small matrices (k×k, n×n): Cholesky of identity plus a Gram matrix, and a symmetric eigenbasis.

What float32 does to small pivots, and gradients to repeated eigenvalues, is answered here and nowhere else.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def cholesky_plus_identity(gram: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """L with L Lᵀ = I + G, for a Gram matrix G.

    Rows and columns are scaled to a unit diagonal first, so that the scale of single columns costs no accuracy.
    Repeated columns of large norm would still make a pivot vanish in rounding. Every G_ii is therefore raised by 4k
    units of rounding, which is no more than the error with which G itself was summed, and nothing where G is zero:
    without process noise, prediction stays exact.
    """
    diagonal = jnp.diagonal(gram)
    scale = jax.lax.rsqrt(1 + diagonal)
    raised = 1 + diagonal * (1 + 4 * len(gram) * jnp.finfo(gram.dtype).eps)
    scaled = jnp.fill_diagonal(gram * jnp.outer(scale, scale), raised * scale**2, inplace=False)
    return jnp.linalg.cholesky(scaled) / scale[:, None]


def solve_lower(lower: Float[Array, "k k"], right: Float[Array, "k *n"]) -> Float[Array, "k *n"]:
    """L⁻¹ b."""
    return jax.scipy.linalg.solve_triangular(lower, right, lower=True)


def solve_positive(lower: Float[Array, "k k"], right: Float[Array, "k *n"]) -> Float[Array, "k *n"]:
    """(L Lᵀ)⁻¹ b."""
    return jax.scipy.linalg.solve_triangular(lower, solve_lower(lower, right), lower=True, trans="T")


def inverse_lower(lower: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """L⁻¹ as a matrix: applied to D columns as a product, which is faster than D triangular solves."""
    return solve_lower(lower, jnp.eye(len(lower), dtype=lower.dtype))


def logdet(lower: Float[Array, "k k"]) -> Float[Array, ""]:
    """log det(L Lᵀ)."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(lower)))


def rounding(values: Float[Array, " n"]) -> Float[Array, ""]:
    """The size below which an eigenvalue, or the difference of two, is only rounding."""
    return len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))


def eigendecompose(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues in ascending order and eigenvectors (columns).

    The decomposition itself carries no gradient, which repeated eigenvalues would make NaN. First-order perturbation
    theory adds it, in a term that is zero in value; inside a group of equal eigenvalues the vectors do not turn, which
    changes nothing that depends on the group's span alone.
    """
    fixed = jax.lax.stop_gradient(matrix)
    values, vectors = jnp.linalg.eigh(fixed)
    change = vectors.T @ (matrix - fixed) @ vectors
    gap = values[None, :] - values[:, None]
    separate = jnp.abs(gap) > rounding(values)
    turned = vectors + vectors @ jnp.where(separate, change / jnp.where(separate, gap, 1), 0)
    return values + jnp.diagonal(change), turned
