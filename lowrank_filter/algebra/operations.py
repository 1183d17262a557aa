"""The operations of a precision as plain functions, with their arguments checked."""

from typing import Any, TypeVar

from jaxtyping import Array, Float

from lowrank_filter.algebra import tree, widths
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
    precision: Truncatable, rank: int, *, residual: Residual = "diagonal", metric: Metric = "relative"
) -> Truncatable:
    """The factor, or each block's, cut to its ``rank`` leading directions, by a decomposition accurate in float32.

    Args:
        precision: diag(d) + W Wᵀ, or blocks of that form; others come back as they are.
        rank: the number of directions kept; more than there are appends zeros.
        residual: "diagonal" adds the discarded part's diagonal to d, so diag(P) stays exact; "drop" forgets it.
        metric: "relative" keeps what is largest in D^{-1/2}W, the KL-optimal choice (Spantini et al. 2015);
            "euclidean" keeps what is largest in W.

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
    truncation_options(residual, metric)
    precision.check(positive=metric == "relative")
    return compiled(_call, precision, operation="truncate", rank=rank, residual=residual, metric=metric)


def truncation_options(residual: Any, metric: Any) -> None:
    """The two choices of a truncation are known ones."""
    checks.choice("residual", residual, ("diagonal", "drop"))
    checks.choice("metric", metric, ("relative", "euclidean"))


def open_truncation_options(residual: Any, metric: Any) -> None:
    """They are known ones, or None: left to the structure."""
    truncation_options("diagonal" if residual is None else residual, "relative" if metric is None else metric)


def truncation_choices(precision: Any, rank: Any, residual: Any, metric: Any) -> dict[str, Any]:
    """What a precision's operations take, where a kernel was given these or None.

    Raises:
        ValueError: one is unknown, or was given for a precision that has it from its structure or not at all.
    """
    if rank is not None:
        checks.rank(rank)
    open_truncation_options(residual, metric)
    given = {"rank": rank, "residual": residual, "metric": metric}
    for name, value in given.items():
        if value is not None and not getattr(precision, "has_choices", True):
            raise ValueError(
                f"{name}: expected None for a {type(precision).__name__} precision, got {value!r}; leave it out: a "
                "structure has its own from init, or has none"
            )
    defaults = {"rank": precision.rank, "residual": "diagonal", "metric": "relative"}
    return {name: defaults[name] if value is None else value for name, value in given.items()}


def _call(precision: Precision, *args: Any, operation: str, **options: Any) -> Any:
    dtype = widths.common(precision, args)
    wide, args = widths.cast((precision, args), dtype)
    found = getattr(wide, operation)(*args, **options)
    if operation == "truncate":
        return widths.like(found, precision)
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
