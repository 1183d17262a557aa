"""The eigendecomposition of a small symmetric matrix, with gradients that survive repeated eigenvalues."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rounding(values: Float[Array, " n"]) -> Float[Array, ""]:
    """The size below which an eigenvalue, or the difference of two, is only rounding."""
    return len(values) * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))


def decompose(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
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
