"""Backtracking along a step, with forward passes alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lowrank_filter.algebra.tree import Tree

_HALVINGS = 24


def line_search(
    loss: Callable[[Tree], Float[Array, ""]],
    before: Float[Array, ""],
    start: Tree,
    end: Tree,
    products: tuple[Any, Any, Float[Array, ""]],
) -> tuple[Tree, Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
    """The first of t = 1, ½, ¼ … at which ``start`` + t(``end`` − ``start``) has no larger penalised loss than at 0.

    Derivatives take t for a constant.

    Args:
        loss: of parameters; it need not be finite.
        before: the loss at ``start``.
        products: ⟨s, s⟩, ⟨s, e⟩, ⟨e, e⟩ of the ends' distances s, e from the prior's mean, in its precision: the
            penalty is half the square at t.

    Returns:
        The parameters, t, their squared distance from the prior's mean, and whether there was such a t.
    """
    frozen = jax.lax.stop_gradient((start, end, products))
    before = jax.lax.stop_gradient(before + 0.5 * products[0])

    def distance(t: Array, products: tuple) -> Array:
        s, across, e = products
        return (1 - t) ** 2 * s + 2 * t * (1 - t) * across + t**2 * e

    def between(t: Array, start: Tree, end: Tree) -> Tree:
        return jax.tree.map(lambda s, e: jnp.where(t == 1, e, s + t.astype(s.dtype) * (e - s)), start, end)

    def value(t: Array, start: Tree, end: Tree, products: tuple) -> Array:
        return loss(between(t, start, end)) + 0.5 * distance(t, products)

    dtype = products[2].dtype
    one = jnp.ones((), dtype)
    # What the loss closes over may be differentiated; a loop cannot be.
    closed, captured = jax.closure_convert(value, one, *frozen)
    captured = jax.lax.stop_gradient(captured)

    def at(t: Array) -> Array:
        return closed(t, *frozen, *captured)

    enough = before + 16 * jnp.finfo(dtype).eps * (1 + jnp.abs(before))

    # The whole step is the first half of a double one, so that the network is compiled once.
    def worse(state: tuple) -> Array:
        count, _, now = state
        return ~(now <= enough) & (count <= _HALVINGS)

    def halve(state: tuple) -> tuple:
        count, t, _ = state
        return count + 1, t / 2, at(t / 2)

    _, t, now = jax.lax.while_loop(worse, halve, (0, 2 * one, jnp.full_like(before, jnp.nan)))
    return between(t, start, end), t, distance(t, products), now <= enough
