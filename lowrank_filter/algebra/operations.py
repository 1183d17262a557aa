"""The operations of a precision as plain functions, with their arguments checked."""

from typing import Any, TypeVar

import jax
from jaxtyping import Array, Float

from lowrank_filter.algebra import tree, widths
from lowrank_filter.algebra.diag_low_rank import low_rank_parts, with_policy
from lowrank_filter.algebra.precision import Precision
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.algebra.truncation import Metric, Residual
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled

OPERATIONS = ("check", "matvec", "solve", "logdet", "inverse_diagonal", "truncate")
"""What is looked for in a precision before it is used."""

Truncatable = TypeVar("Truncatable", bound=Precision)


def matvec(precision: Precision, vector: Tree) -> Tree:
    """P v.

    Args:
        precision: P.
        vector: v, a pytree shaped like the parameters.

    Raises:
        ValueError: the vector's structure or shapes are not those of the parameters.

    Examples:
        >>> precision = lf.DiagLowRank(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0]]))
        >>> print(lf.matvec(precision, jnp.ones(2)))
        [2. 2.]
    """
    _precision(precision)
    _given(vector)
    precision.check(vector, positive=False)
    return compiled(_call, precision, vector, operation="matvec")


def solve(precision: Precision, vector: Tree) -> Tree:
    """P⁻¹v, by Woodbury for diagonal plus low rank: O(Dk²) time, O(Dk) memory.

    Args:
        precision: P, with a positive diagonal.
        vector: v, a pytree shaped like the parameters.

    Raises:
        ValueError: the vector's structure or shapes are not those of the parameters, or the diagonal is not positive.

    Examples:
        >>> precision = lf.DiagLowRank(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0]]))
        >>> print(lf.solve(precision, jnp.array([2.0, 4.0])).round(3))
        [1. 2.]
    """
    _precision(precision)
    _given(vector)
    precision.check(vector)
    return compiled(_call, precision, vector, operation="solve")


def logdet(precision: Precision) -> Float[Array, ""]:
    """log det P.

    Raises:
        ValueError: the diagonal is not positive.

    Examples:
        >>> precision = lf.DiagLowRank(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0]]))
        >>> round(float(lf.logdet(precision)), 3)  # log 4
        1.386
    """
    _precision(precision)
    precision.check()
    return compiled(_call, precision, operation="logdet")


def inverse_diagonal(precision: Precision) -> Tree:
    """diag(P⁻¹), the marginal variances; never negative.

    Raises:
        ValueError: the diagonal is not positive.

    Examples:
        >>> precision = lf.DiagLowRank(jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0]]))
        >>> print(lf.inverse_diagonal(precision).round(3))
        [0.5 0.5]
    """
    _precision(precision)
    precision.check()
    return compiled(_call, precision, operation="inverse_diagonal")


def truncate(
    precision: Truncatable, rank: int, *, residual: Residual | None = None, metric: Metric | None = None
) -> Truncatable:
    """The factor, or each block's, cut to its ``rank`` leading directions, by a decomposition accurate in float32.

    Args:
        precision: diag(d) + W Wᵀ, or blocks of that form; others come back as they are.
        rank: the number of directions kept; more than there are appends zeros.
        residual: "diagonal" adds the discarded part's diagonal to d, so diag(P) stays exact; "drop" forgets it.
        metric: "relative" keeps what is largest in D^{-1/2}W, the KL-optimal choice (Spantini et al. 2015);
            "euclidean" keeps what is largest in W. Both by default as the precision's structure says.

    Raises:
        ValueError: rank is not a static integer ≥ 0, an option is unknown, or the diagonal is not positive while
            metric="relative".

    Examples:
        >>> precision = lf.DiagLowRank(jnp.ones(2), jnp.array([[3.0, 0.0], [0.0, 1.0]]))
        >>> print(lf.truncate(precision, 1).diag.round(3))  # what is cut joins the diagonal
        [1. 2.]
    """
    _precision(precision)
    checks.rank(rank)
    given = {name: v for name, v in (("residual", residual), ("metric", metric)) if v is not None}
    truncation_options(**given)
    cut = with_policy(precision, **given)
    precision.check(positive=any(part.policy.metric == "relative" for part in low_rank_parts(cut)))
    return jax.tree.unflatten(jax.tree.structure(precision), jax.tree.leaves(compiled(_truncate, cut, rank=rank)))


def truncation_options(residual: Any = "diagonal", metric: Any = "relative") -> None:
    """The two choices of a truncation are known ones."""
    checks.choice("residual", residual, ("diagonal", "drop"))
    checks.choice("metric", metric, ("relative", "euclidean"))


def _truncate(precision: Truncatable, *, rank: int) -> Truncatable:
    return widths.like(widths.cast(precision, widths.common(precision)).truncate(rank), precision)


def _call(precision: Precision, *args: Any, operation: str, **options: Any) -> Any:
    dtype = widths.common(precision, args)
    wide, args = widths.cast((precision, args), dtype)
    found = getattr(wide, operation)(*args, **options)
    return found if operation == "logdet" else _whole(wide, found)


def _whole(precision: Any, vector: Tree) -> Tree:
    """Zero where parameters are frozen."""
    membership = getattr(precision, "membership", None)
    return vector if membership is None else membership.filled(vector, tree.zeros(membership.like()))


def _precision(value: Any) -> None:
    checks.operations("precision", value, OPERATIONS, "take belief.precision, or make a DiagLowRank")


def _given(vector: Any) -> None:
    if vector is None:
        raise ValueError(
            "vector: expected the tree structure of the parameters, got None; give a vector shaped like them"
        )
