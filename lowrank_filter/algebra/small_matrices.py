"""Factorizations of small matrices (k×k, n×n): Cholesky of identity plus a Gram matrix, and a symmetric eigenbasis.

What float32 does to small pivots, and gradients to repeated eigenvalues, is answered here and nowhere else.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

_LARGE = 256


@jax.custom_jvp
def cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """L with L Lᵀ the matrix; NaN where rounding left no positive pivot, and then without a derivative."""
    return jax.lax.linalg.cholesky(matrix, symmetrize_input=False)


@cholesky.defjvp
def _cholesky_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """dL = L Φ(L⁻¹ dG L⁻ᵀ), Φ the lower triangle with half the diagonal."""
    lower = cholesky(*primals)
    exists = jnp.all(jnp.isfinite(lower))
    # As a NaN would pass through a product with zero, it is replaced before.
    safe = jnp.where(exists, lower, jnp.eye(len(lower), dtype=lower.dtype))
    middle = solve_lower(safe, solve_lower(safe, (tangents[0] + tangents[0].T) / 2).T)
    halved = jnp.tril(middle) - jnp.diag(jnp.diagonal(middle)) / 2
    return lower, jnp.where(exists, safe @ halved, 0)


def diagonal(matrix: Float[Array, "n n"]) -> Float[Array, " n"]:
    """Its diagonal, as a slice: a gather takes a compiler a program more."""
    return matrix.ravel()[:: len(matrix) + 1]


def unit_diagonal(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The matrix with ones on its diagonal; a scatter would be compiled to a loop."""
    return jnp.where(np.eye(len(matrix), dtype=bool), 1, matrix)


def scaled_plus_identity(gram: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, " n"]]:
    """E(I + G)E with a unit diagonal, and the diagonal of E: the scale of single columns then costs no accuracy."""
    scale = jax.lax.rsqrt(1 + diagonal(gram))
    return unit_diagonal(gram * jnp.outer(scale, scale)), scale


def cholesky_plus_identity(gram: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """L with L Lᵀ = I + G, for a Gram matrix G.

    Repeated columns of large norm can make a pivot vanish in the rounding of G's sums. Only then the diagonal is
    raised, by 4k units of rounding.
    """
    scaled, scale = scaled_plus_identity(gram)
    if len(gram) < _LARGE:  # twice a small factorisation takes less time than a branch
        return cholesky(raised(scaled, cholesky(jax.lax.stop_gradient(scaled)))) / scale[:, None]
    lower = cholesky(scaled)
    short = anywhere(~jnp.all(diagonal(lower) ** 2 > _floor(scaled)))
    return jax.lax.cond(short, lambda: cholesky(raised(scaled, lower)), lambda: lower) / scale[:, None]


def raised(scaled: Float[Array, "n n"], lower: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """A matrix of unit diagonal with that raised by rounding, where its Cholesky factor shows that it has to be."""
    floor = jnp.where(jnp.all(diagonal(lower) ** 2 > _floor(scaled)), 0, _floor(scaled))
    return scaled + floor * jnp.eye(len(scaled), dtype=scaled.dtype)


def raised_root(covariance: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """R with R Rᵀ = Σ, raised by rounding so that it exists where Σ is singular; of Σ's diagonal alone where rounding
    left it indefinite even so."""
    variances = jnp.maximum(diagonal(covariance), 0)
    scale = jnp.max(variances)
    raised = len(covariance) * jnp.finfo(covariance.dtype).eps * 4 * jnp.where(scale > 0, scale, 1)
    whole = covariance + raised * jnp.eye(len(covariance), dtype=covariance.dtype)
    definite = jnp.all(jnp.isfinite(diagonal(cholesky(jax.lax.stop_gradient(whole)))))
    return cholesky(jnp.where(definite, whole, jnp.diag(variances + raised)))


def pivots(lower: Float[Array, "n n"]) -> Float[Array, " n"]:
    """Lᵢᵢ² over the diagonal of L Lᵀ: what elimination left of each column, one where they are orthogonal."""
    lower = jax.lax.stop_gradient(lower)
    return diagonal(lower) ** 2 / jnp.sum(lower**2, axis=1)


def _floor(matrix: Float[Array, "n n"]) -> float:
    return 4 * len(matrix) * float(jnp.finfo(matrix.dtype).eps)


@jax.custom_batching.custom_vmap
def anywhere(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """The flag; of all of a batch whether one is up. So a rare case stays a branch under ``vmap``, where a ``cond`` on
    a batch would take both."""
    return flag


@anywhere.def_vmap
def _anywhere_of_batch(_: int, __: list[bool], flags: Bool[Array, " N"]) -> tuple[Bool[Array, ""], bool]:
    return anywhere(jnp.any(flags)), False


def solve_lower(lower: Float[Array, "k k"], right: Float[Array, "k *n"]) -> Float[Array, "k *n"]:
    """L⁻¹ b."""
    return jax.scipy.linalg.solve_triangular(lower, right, lower=True)


def solve_lower_transposed(lower: Float[Array, "k k"], right: Float[Array, "k *n"]) -> Float[Array, "k *n"]:
    """L⁻ᵀ b."""
    return jax.scipy.linalg.solve_triangular(lower, right, lower=True, trans="T")


def solve_positive(lower: Float[Array, "k k"], right: Float[Array, "k *n"]) -> Float[Array, "k *n"]:
    """(L Lᵀ)⁻¹ b."""
    return solve_lower_transposed(lower, solve_lower(lower, right))


def inverse_lower(lower: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """L⁻¹ as a matrix: applied to D columns as a product, which is faster than D triangular solves."""
    return solve_lower(lower, jnp.eye(len(lower), dtype=lower.dtype))


def logdet(lower: Float[Array, "k k"]) -> Float[Array, ""]:
    """log det(L Lᵀ)."""
    return 2 * jnp.sum(jnp.log(diagonal(lower)))


def rounding(values: Float[Array, " n"]) -> Float[Array, ""]:
    """The size below which an eigenvalue, or the difference of two, is only rounding."""
    return len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))


@jax.custom_jvp
def eigendecompose(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues in ascending order and eigenvectors (columns).

    Repeated eigenvalues would make the derivative NaN: inside a group of equal ones the vectors do not turn, which
    changes nothing that depends on the group's span alone.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@eigendecompose.defjvp
def _eigendecompose_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple, tuple]:
    """First-order perturbation theory, in terms of the same function: so the second derivative is right too."""
    values, vectors = eigendecompose(*primals)
    change = vectors.T @ tangents[0] @ vectors
    gap = values[None, :] - values[:, None]
    separate = jnp.abs(gap) > rounding(jax.lax.stop_gradient(values))
    turned = vectors @ jnp.where(separate, change / jnp.where(separate, gap, 1), 0)
    return (values, vectors), (jnp.diagonal(change), turned)
