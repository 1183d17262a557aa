"""Conditioning on n rank-one terms, for any precision that can be solved with and whitened."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.algebra.precision import Correction
from lowrank_filter.algebra.tree import Tree


def correction(precision: Any, columns: Tree, target: Float[Array, " n"]) -> Correction:
    """With K = I + AᵀP⁻¹A = L Lᵀ, step = P⁻¹A K⁻¹u: the push-through identity (P + A Aᵀ)⁻¹A = P⁻¹A K⁻¹.

    AᵀP⁻¹A is a Gram matrix of whitened columns, so nothing is subtracted.
    """
    white = jax.vmap(precision.whiten)(columns)
    gram = tree.gram(white, white)
    lower = small_matrices.cholesky_plus_identity(gram)
    target = target.astype(gram.dtype)
    halfway = small_matrices.solve_lower(lower, target)
    coefficients = jax.scipy.linalg.solve_triangular(lower, halfway, lower=True, trans="T")
    step = precision.solve(tree.combine(coefficients, columns))
    explained = target @ (gram @ coefficients)
    return Correction(step, explained, jnp.sum(halfway**2), small_matrices.logdet(lower), lower)
