"""The Cholesky factor of identity plus a Gram matrix, safe in float32."""

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
