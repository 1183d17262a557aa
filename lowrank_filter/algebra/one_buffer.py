"""Vectors of many leaves as one array, where programs are then compiled in a fraction of the time.

A compiler's time grows with the number of leaves; a program's with the bytes that are moved. So the rule: several
leaves of few numbers become one array. More numbers stay as they are: joining would copy them, and move them between
devices where leaves are sharded in different ways. So do the products of an update, which are faster by layers, unless
there are many; but not what it does in the rare case that rounding asks for square roots.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
from jaxtyping import Array, Bool

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.tree import Tree

# Of a vector, which nobody shards below, and of all that are worked on together: 4 MiB of float32.
_PARAMETERS, _NUMBERS = 2**16, 2**20
# Leaves up to which an update stays as it is: six take a third less time by layers; eighteen a tenth less as one
# array, and sixty then compile in a quarter of the time.
_LAYERS = 16


def repeated(count: int, function: Callable[[Any], Any], start: Any, *, small: bool) -> Any:
    """``function`` applied ``count`` times: as one loop where the state is small, for a loop copies its state."""
    if small:
        return jax.lax.fori_loop(0, count, lambda _, state: function(state), start)
    for _ in range(count):
        start = function(start)
    return start


class OneBuffer(NamedTuple):
    """How vectors shaped like ``like`` become one array and come back; as they are where the rule says so.

    Attributes:
        like: a vector, or its leaves' shapes and dtypes.
        joined: whether they become one array.
        few: whether they are few numbers.
    """

    like: Tree
    joined: bool
    few: bool = False

    @classmethod
    def of(cls, like: Tree, count: int, *, by_layers: bool = False) -> Self:
        """The rule, for ``count`` vectors that are worked on together, where that is faster by layers or not."""
        size = tree.dimension(like)
        few = size <= _PARAMETERS and size * count <= _NUMBERS
        return cls(like, few and len(jax.tree.leaves(like)) > (_LAYERS if by_layers else 1), few)

    @classmethod
    def of_stack(cls, stack: Tree, count: int | None = None) -> Self:
        """The rule, for a stack, or one of ``count`` vectors like its own."""
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stack)
        return cls.of(like, tree.length(stack) if count is None else count)

    @classmethod
    def all_finite(cls, vector: Tree) -> Bool[Array, ""]:
        """Whether every number of a vector is finite."""
        return tree.all_finite(cls.of(vector, 1).vector(vector))

    def vector(self, vector: Tree) -> Tree:
        """A vector as one array [D]."""
        return tree.flat(vector) if self.joined else vector

    def stack(self, stack: Tree) -> Tree:
        """A stack as one array [n, D]."""
        return tree.flat_stack(stack) if self.joined else stack

    def function(self, apply_fn: Callable[[Tree, Any], Any]) -> Callable[[Tree, Any], Any]:
        """A function of vectors, of one array."""
        return (lambda vector, x: apply_fn(self.vector_back(vector), x)) if self.joined else apply_fn

    def vector_back(self, vector: Tree) -> Tree:
        """The vector."""
        return tree.unflat(vector, self.like) if self.joined else vector

    def stack_back(self, stack: Tree) -> Tree:
        """The stack."""
        return tree.unflat_stack(stack, self.like) if self.joined else stack
