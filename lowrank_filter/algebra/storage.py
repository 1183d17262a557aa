"""Low-rank factors stored in fewer bits than they are computed in."""

from typing import Any

import jax

from lowrank_filter.algebra.diag_low_rank import DiagLowRank


def narrowed(precision: Any, dtype: Any) -> Any:
    """The precision with its factors in one dtype."""

    def part(node: Any) -> Any:
        if not _is_low_rank(node):
            return node
        return node._replace(factor=jax.tree.map(lambda w: w if w.dtype == dtype else w.astype(dtype), node.factor))

    return jax.tree.map(part, precision, is_leaf=_is_low_rank)


def parts(precision: Any) -> list[DiagLowRank]:
    """Where a precision has low-rank factors: itself, its blocks, or nowhere."""
    return [part for part in jax.tree.leaves(precision, is_leaf=_is_low_rank) if _is_low_rank(part)]


def _is_low_rank(node: Any) -> bool:
    return isinstance(node, DiagLowRank)
