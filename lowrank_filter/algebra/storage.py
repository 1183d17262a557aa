"""Low-rank factors stored in fewer bits than they are computed in."""

import dataclasses
from typing import Any

import jax

from lowrank_filter.algebra.diag_low_rank import DiagLowRank, over_low_rank_parts


def narrowed(precision: Any, dtype: Any) -> Any:
    """The precision with its factors in one dtype."""

    def part(whole: DiagLowRank) -> DiagLowRank:
        factor = jax.tree.map(lambda w: w if w.dtype == dtype else w.astype(dtype), whole.factor)
        return dataclasses.replace(whole, factor=factor)

    return over_low_rank_parts(part, precision)
