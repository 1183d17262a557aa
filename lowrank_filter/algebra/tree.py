"""Vectors, and stacks of vectors, that are pytrees.

A *vector* is a pytree shaped like the parameters. A *stack* of k vectors is the same pytree with a leading axis of
length k on every leaf; it is the transpose of a D×k matrix. Everything that touches D is either elementwise or a
sum over leaves into a small matrix.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Tree = Any

# On accelerators a float32 product may otherwise run in tf32, which keeps ten bits.
HIGHEST = jax.lax.Precision.HIGHEST


def gram(left: Tree, right: Tree) -> Float[Array, "m n"]:
    """Inner products of two stacks: entry (i, j) is ⟨leftᵢ, rightⱼ⟩."""

    def leaf(a: Array, b: Array) -> Array:
        trailing = tuple(range(1, a.ndim))
        wide = _wide(a, b)
        return jnp.tensordot(a, b, axes=(trailing, trailing), precision=HIGHEST, preferred_element_type=wide)

    return _total(jax.tree.map(leaf, left, right))


def project(stack: Tree, vector: Tree) -> Float[Array, " k"]:
    """Inner products of each of a stack's vectors with one vector."""

    def leaf(s: Array, v: Array) -> Array:
        return jnp.tensordot(s, v, axes=v.ndim, precision=HIGHEST, preferred_element_type=_wide(s, v))

    return _total(jax.tree.map(leaf, stack, vector))


def inner(left: Tree, right: Tree) -> Float[Array, ""]:
    """⟨left, right⟩ of two vectors."""
    return _total(jax.tree.map(lambda a, b: jnp.sum(a * b), left, right))


def combine(coefficients: Float[Array, "*n k"], stack: Tree) -> Tree:
    """Linear combinations of a stack's vectors: [k] gives a vector, [n, k] a stack of n."""
    return jax.tree.map(
        lambda s: jnp.tensordot(coefficients.astype(s.dtype), s, axes=1, precision=HIGHEST),
        stack,
    )


def length(stack: Tree) -> int:
    """The number of vectors in a stack."""
    return jax.tree.leaves(stack)[0].shape[0]


def dimension(vector: Tree) -> int:
    """D, the number of elements of a vector."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(vector))


def total(function: Callable[[Array], Array], vector: Tree) -> Float[Array, ""]:
    """The sum of an elementwise function over all of a vector's elements."""
    return _total(jax.tree.map(lambda v: jnp.sum(function(v)), vector))


def zeros(like: Tree, count: int | None = None) -> Tree:
    """A zero vector shaped like ``like``, or a stack of ``count`` of them."""
    leading = () if count is None else (count,)
    return jax.tree.map(lambda p: jnp.zeros(leading + jnp.shape(p), jnp.result_type(p)), like)


def pad(stack: Tree, count: int) -> Tree:
    """The stack with zero vectors appended until there are ``count``."""
    missing = count - length(stack)
    return (
        stack if missing == 0 else jax.tree.map(lambda s: jnp.pad(s, [(0, missing)] + [(0, 0)] * (s.ndim - 1)), stack)
    )


def join(stacks: tuple[Tree, ...], count: int | None = None) -> Tree:
    """The vectors of several stacks as one stack, or the first ``count`` of them."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:count], *stacks)


def squares(stack: Tree) -> Tree:
    """The sum of the squares of a stack's vectors, elementwise: the diagonal of Σᵢ sᵢsᵢᵀ."""
    return jax.tree.map(lambda s: jnp.sum(s * s, axis=0), stack)


def select(condition: Array, on_true: Tree, on_false: Tree) -> Tree:
    """``on_true`` where the scalar condition holds, else ``on_false``."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), on_true, on_false)


def broadcast(prefix: Tree, like: Tree) -> Tree:
    """A pytree prefix of ``like`` spread to a full vector, in ``like``'s shapes and dtypes."""

    def spread(value: Any, subtree: Tree) -> Tree:
        return jax.tree.map(lambda p: jnp.broadcast_to(jnp.asarray(value, p.dtype), p.shape), subtree)

    return jax.tree.map(spread, prefix, like)


def _wide(*arrays: Array) -> Any:
    """The dtype of small matrices: at least float32, whatever the parameters are stored in."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def _total(tree: Tree) -> Array:
    return functools.reduce(jnp.add, jax.tree.leaves(tree))
