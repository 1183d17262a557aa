"""Beliefs about parameters, and what can be asked of one without data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lowrank_filter import checks
from lowrank_filter.algebra import tree
from lowrank_filter.algebra.diag_low_rank import DiagLowRank
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.tree import Tree


class Belief(NamedTuple):
    """θ ~ N(mean, precision⁻¹).

    Attributes:
        mean: m, a pytree of floating-point arrays: the parameters of a network.
        precision: P, for instance a :class:`DiagLowRank`.
    """

    mean: Tree
    precision: Precision


def init(params: Tree, precision: Tree = 1.0, *, rank: int) -> Belief:
    """N(params, diag(precision)⁻¹) with room for ``rank`` directions.

    Args:
        params: the prior mean, any pytree of floating-point arrays.
        precision: the prior precision in units of 1/θ²: a positive scalar, or a pytree prefix of ``params`` (a scalar
            per layer, an array per parameter).
        rank: k, static; 0 keeps a diagonal only.

    Raises:
        TypeError: a leaf of ``params`` is not floating point.
        ValueError: ``params`` is empty, ``precision`` is not a prefix or not positive, ``rank`` is negative.
    """
    checks.parameters(params)
    checks.finite("params", params)
    checks.rank(rank)
    checks.prefix("precision", precision, params)
    checks.positive("precision", precision)
    mean = jax.tree.map(jnp.asarray, params)
    return Belief(mean, DiagLowRank(tree.broadcast(precision, mean), tree.zeros(mean, rank)))


def penalty(belief: Belief, params: Tree) -> Float[Array, ""]:
    """½(θ − m)ᵀP(θ − m), the regulariser of a MAP step; its gradient is P(θ − m).

    Args:
        params: θ, shaped like the belief's mean.

    Raises:
        ValueError: ``params`` has another structure or other shapes than the mean.
    """
    checks.same_shapes("params", params, belief.mean)
    difference = jax.tree.map(jnp.subtract, params, belief.mean)
    return 0.5 * belief.precision.quadratic(difference)


def sample(key: Key[Array, ""], belief: Belief, n: int) -> Tree:
    """``n`` independent draws from the belief, stacked along a leading axis; exact covariance P⁻¹, O(nDk).

    Raises:
        ValueError: ``n`` is not a static integer ≥ 0.
    """
    checks.count("n", n, minimum=0)
    return jax.tree.map(jnp.add, belief.precision.draw(key, n), belief.mean)


def zero_site(belief: Belief) -> Precision:
    """The site of a step without data: nothing was learned there. For :func:`smooth`."""
    return jax.tree.map(jnp.zeros_like, belief.precision)
