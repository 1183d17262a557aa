"""Conditioning on n rank-one terms, for any precision that whitens."""

from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.algebra.example_gradients import Columns
from lowrank_filter.algebra.precision import Correction, Misfit, Projection
from lowrank_filter.algebra.square_root import solve_few_parameters, solve_many_parameters
from lowrank_filter.algebra.tree import Tree


def correction(precision: Any, columns: Tree, target: Float[Array, " n"]) -> Correction:
    """With V = (R A)ᵀ for a whitening R, RᵀR = P⁻¹: step = (P + A Aᵀ)⁻¹A u = Rᵀ Vᵀ(I + V Vᵀ)⁻¹ u.

    V Vᵀ = AᵀP⁻¹A is a Gram matrix, so nothing is subtracted.
    """
    one = jax.tree.map(lambda leaf: leaf[0], columns)
    white = jax.vmap(precision.whiten)(columns)

    def back(vector: Tree) -> Tree:
        return jax.linear_transpose(precision.whiten, one)(vector)[0]

    size = len(target)
    if tree.dimension(one) <= size:
        rows = tree.flat_stack(white)
        identity = jnp.eye(rows.shape[1], dtype=rows.dtype)
        solution = solve_few_parameters(rows, identity, target.astype(rows.dtype))
        logdet = 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(solution.lower))))
        return Correction(back(tree.unflat(solution.vector, one)), *solution[1:3], logdet, solution.lower)
    gram = tree.gram(white, white)

    def plain(coefficients: Array) -> Tree:
        return back(tree.combine(coefficients, white))

    solution = solve_many_parameters(gram, target.astype(gram.dtype), plain, lambda: white, back)
    return Correction(*solution[:3], small_matrices.logdet(solution.lower), solution.lower, solution.image)


class PredictedFirst:
    """A precision whose prediction is built before data come."""

    def project(self, columns: Columns, *, noise: Any = None, transition: Any = None) -> Projection:
        """All columns together."""
        return projected(self._predicted(noise, transition), columns.stack())

    def covariances(self, columns: Columns) -> Float[Array, "B n n"]:
        """Of whitened columns."""
        return whitened_covariances(self, columns)

    def condition(
        self,
        columns: Columns,
        target: Float[Array, " n"],
        *,
        noise: Any = None,
        transition: Any = None,
        projection: Projection | None = None,
    ) -> tuple[Self, Self, Correction, Misfit]:
        """Of the prediction, by ``_condition``."""
        ahead: Any = self._predicted(noise, transition) if projection is None else projection.predicted
        return ahead._condition(columns, target)

    def _predicted(self, noise: Any, transition: Any) -> Any:
        own: Any = self
        return own if noise is None else own.propagate(noise, transition)


def whitened_covariances(precision: Any, columns: Columns) -> Float[Array, "B n n"]:
    """AᵀP⁻¹A of each of B sets of columns, as Gram matrices, which keep their sign."""
    return jax.vmap(lambda each: projected(precision, each.stack()).covariance)(columns)


def projected(precision: Any, columns: Tree) -> Projection:
    """AᵀP⁻¹A as a Gram matrix of whitened columns."""
    white = jax.vmap(precision.whiten)(columns)
    return Projection(tree.gram(white, white), precision)
