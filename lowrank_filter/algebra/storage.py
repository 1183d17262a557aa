"""Low-rank factors stored in fewer bits than they are computed in."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from lowrank_filter.algebra.diag_low_rank import DiagLowRank


def narrowed(precision: Any, dtype: Any) -> Any:
    """The precision with its factors in one dtype."""
    return _cast(precision, lambda _: dtype)


def parts(precision: Any) -> list[DiagLowRank]:
    """Where a precision has low-rank factors: itself, its blocks, or nowhere."""
    return [part for part in jax.tree.leaves(precision, is_leaf=_is_low_rank) if _is_low_rank(part)]


def _is_low_rank(node: Any) -> bool:
    return isinstance(node, DiagLowRank)


def _cast(precision: Any, dtype: Callable[[Array], Any]) -> Any:
    def part(node: Any) -> Any:
        if not _is_low_rank(node):
            return node
        pairs = jax.tree.map(lambda w, d: w if w.dtype == dtype(d) else w.astype(dtype(d)), node.factor, node.diag)
        return node._replace(factor=pairs)

    return jax.tree.map(part, precision, is_leaf=_is_low_rank)
