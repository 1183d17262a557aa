"""What a filter's steps hand on: a belief, or something that has one."""

from typing import Any

import jax

from lowrank_filter.algebra.tree import Tree
from lowrank_filter.kernels.belief import Belief, check_belief


def belief_of(state: Any) -> Belief:
    """The belief itself, or the one that a state has as its ``belief``."""
    while not isinstance(state, Belief) and hasattr(state, "belief"):
        state = state.belief
    return state


def check_state(state: Any) -> None:
    """Raise TypeError or ValueError where there is no sound belief."""
    check_belief(belief_of(state))


def shapes_of_mean(state: Any) -> Tree:
    """Those of the parameters."""
    return jax.eval_shape(lambda state: state.mean, state)


def with_mean(state: Any, mean: Tree) -> Any:
    """The same state with another mean of its belief."""
    if isinstance(state, Belief):
        return state._replace(mean=mean)
    if hasattr(state, "with_mean"):
        return state.with_mean(mean)
    return state._replace(belief=with_mean(state.belief, mean))
