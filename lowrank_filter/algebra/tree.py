"""Vectors, and stacks of vectors, that are pytrees.

A *vector* is a pytree shaped like the parameters. A *stack* of k vectors is the same pytree with a leading axis of
length k on every leaf; it is the transpose of a D×k matrix. Everything that touches D is either elementwise or a
sum over leaves into a small matrix.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Tree = Any

# Elements of a stack that are worked on at once where a CPU's cache matters: 1 MiB of float32.
_PIECE = 2**18

# Numbers of a vector that nobody shards.
_WHOLE = 2**17

# Vectors that are few.
_FEW = 32

# On accelerators a float32 product may otherwise run in tf32, which keeps ten bits.
HIGHEST = jax.lax.Precision.HIGHEST


def gram(left: Tree, right: Tree) -> Float[Array, "m n"]:
    """Inner products of two stacks: entry (i, j) is ⟨leftᵢ, rightⱼ⟩."""
    if _few(left):
        left, right = _matrices(left), _matrices(right)
    return _total(jax.tree.map(_inner, left, right))


def _inner(a: Array, b: Array) -> Array:
    trailing = tuple(range(1, a.ndim))
    wide = _wide(a, b)
    return jnp.tensordot(a, b, axes=(trailing, trailing), precision=HIGHEST, preferred_element_type=wide)


def _few(stack: Tree) -> bool:
    """Whether it can be laid out anew without moving numbers between devices."""
    return dimension(stack) <= _WHOLE * length(stack)


def _matrices(stack: Tree) -> Tree:
    """Its leaves as matrices: of more axes, a product would first turn its second factor round on a CPU."""
    return jax.tree.map(lambda leaf: leaf.reshape(len(leaf), math.prod(leaf.shape[1:])), stack)


def weighted_gram(stack: Tree, weight: Tree) -> Float[Array, "k k"]:
    """Σ w sᵢ sⱼ over the elements of a stack's vectors, for a vector w."""
    return weighted_grams(stack, weight)[0]


def weighted_grams(stack: Tree, *weights: Tree) -> Float[Array, "n k k"]:
    """The same for several vectors of weights, in one pass over the stack."""
    if _few(stack):
        stack, weights = _matrices(stack), tuple(jax.tree.map(jnp.ravel, weight) for weight in weights)
    return _total(jax.tree.map(_weighted_grams, stack, *weights))


@jax.custom_jvp
def _weighted_grams(s: Array, *weights: Array) -> Float[Array, "n k k"]:
    """In cache-sized pieces on a CPU, so that the weighted stacks are never written: half the time."""

    def whole(s: Array, *weights: Array) -> Array:
        # One product for all weights.
        weighted = jnp.concatenate([s * w for w in weights])
        if s.ndim == 2:
            return _inner(weighted, s).reshape(len(weights), len(s), len(s))
        # Of more axes, a CPU turns the second factor round, and multiplies on the way.
        return jnp.swapaxes(_inner(s, weighted).reshape(len(s), len(weights), len(s)), 0, 1)

    pieces = _pieces(s)
    if pieces is None:
        return whole(s, *weights)

    def piecewise(s: Array, *weights: Array) -> Array:
        split = [s.reshape(len(s), *pieces), *(w.reshape(1, *pieces) for w in weights)]

        def add(index: Any, total: Array) -> Array:
            part, *parts = (jax.lax.dynamic_index_in_dim(v, index, axis=2, keepdims=False) for v in split)
            return total + whole(part, *(w[0] for w in parts))

        return jax.lax.fori_loop(0, pieces[1], add, jnp.zeros((len(weights), len(s), len(s)), _wide(s, *weights)))

    return jax.lax.platform_dependent(s, *weights, cpu=piecewise, default=whole)


@_weighted_grams.defjvp
def _weighted_grams_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    (s, *weights), (ds, *changes) = primals, tangents
    halves = jnp.stack([_inner(s * w, ds) for w in weights])
    moved = jnp.stack([_inner(s * change, s) for change in changes])
    return _weighted_grams(s, *weights), halves + jnp.swapaxes(halves, 1, 2) + moved


def _pieces(s: Array) -> tuple[int, ...] | None:
    """The vectors' shape with an axis of pieces put second, or None for a stack that is small or does not divide.

    Each piece takes some elements from everywhere along the first axis: where that axis is sharded over up to 64
    devices, every device has its part of every piece, and nothing moves.
    """
    wanted = s.size // _PIECE
    if wanted < 32 or s.ndim < 2:
        return None
    first, *rest = s.shape[1:]
    outer = math.gcd(first, 64)
    inner = first // outer
    steps = min((n for n in range(1, inner + 1) if inner % n == 0), key=lambda n: abs(math.log(n / wanted)))
    if steps == 1:
        return None
    return (outer, steps, inner // steps, *rest) if not rest else (first // steps, steps, *rest)


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


def accumulate(coefficients: Float[Array, "n k"], stack: Tree) -> Tree:
    """:func:`combine` of few vectors one after the other: what it is added to is then written once, and it never."""
    count = coefficients.shape[1]
    if not 0 < count <= _FEW:
        return combine(coefficients, stack)

    def leaf(s: Array) -> Array:
        weights = coefficients.astype(s.dtype).reshape(*coefficients.shape, *(1,) * (s.ndim - 1))
        return functools.reduce(jnp.add, [weights[:, j] * s[j] for j in range(count)])

    return jax.tree.map(leaf, stack)


def length(stack: Tree) -> int:
    """The number of vectors in a stack."""
    return jax.tree.leaves(stack)[0].shape[0]


def dimension(vector: Tree) -> int:
    """D, the number of elements of a vector."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(vector))


def described(vector: Tree) -> str:
    """Its number of elements and its dtypes, for messages."""
    dtypes = sorted({jnp.dtype(leaf.dtype).name for leaf in jax.tree.leaves(vector)})
    return f"D={dimension(vector)}, {', '.join(dtypes)}"


def unstacked(value: Any, check: Callable[[Any], None]) -> tuple[str, Any]:
    """Which axes values are stacked along, for messages, and the shapes of one: the fewest axes without which ``check``
    does not complain. A stack of as many as a factor has vectors may look like one value with an axis more."""
    leaves = jax.tree.leaves(value)
    for axes in range(min((len(leaf.shape) for leaf in leaves), default=0) + 1):
        one = jax.tree.map(lambda leaf, axes=axes: jax.ShapeDtypeStruct(leaf.shape[axes:], leaf.dtype), value)
        with contextlib.suppress(TypeError, ValueError):
            check(one)
            return f"{list(leaves[0].shape[:axes])}" if axes else "", one
    return "", value


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
    """The sum of the squares of a stack's vectors, elementwise: the diagonal of Σᵢ sᵢsᵢᵀ.

    Vector by vector: as a reduction over the leading axis it takes ten times as long on a CPU.
    """

    def leaf(s: Array) -> Array:
        if len(s) > 64:
            return jax.lax.scan(lambda total, v: (total + v * v, None), jnp.zeros(s.shape[1:], s.dtype), s)[0]
        return functools.reduce(jnp.add, [v * v for v in s]) if len(s) else jnp.zeros(s.shape[1:], s.dtype)

    return jax.tree.map(leaf, stack)


def select(condition: Array, on_true: Tree, on_false: Tree) -> Tree:
    """``on_true`` where the scalar condition holds, else ``on_false``."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), on_true, on_false)


def wide_dtype(vector: Tree) -> Any:
    """The dtype of small matrices made of a vector."""
    return _wide(*jax.tree.leaves(vector))


def all_finite(tree: Tree) -> Bool[Array, ""]:
    """Whether every number is finite."""
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)])


def broadcast(prefix: Tree, like: Tree) -> Tree:
    """A pytree prefix of ``like`` spread to a full vector, in ``like``'s shapes and dtypes."""

    def spread(value: Any, subtree: Tree) -> Tree:
        return jax.tree.map(lambda p: jnp.broadcast_to(jnp.asarray(value, p.dtype), p.shape), subtree)

    return jax.tree.map(spread, prefix, like)


def flat(vector: Tree) -> Float[Array, " D"]:
    """A vector as one array, in at least float32; for few parameters."""
    leaves = jax.tree.leaves(vector)
    return jnp.concatenate([leaf.ravel().astype(_wide(*leaves)) for leaf in leaves])


def flat_stack(stack: Tree) -> Float[Array, "n D"]:
    """The same of each of a stack's vectors."""
    leaves = jax.tree.leaves(stack)
    return jnp.concatenate(
        [leaf.reshape(len(leaf), math.prod(leaf.shape[1:])).astype(_wide(*leaves)) for leaf in leaves], axis=1
    )


def unflat(array: Float[Array, " D"], like: Tree) -> Tree:
    """An array as a vector, in ``like``'s shapes and dtypes."""
    leaves, structure = jax.tree.flatten(like)
    ends = list(itertools.accumulate(leaf.size for leaf in leaves))
    parts = jnp.split(array, ends[:-1])
    return structure.unflatten(
        [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    )


def unflat_stack(array: Float[Array, "n D"], like: Tree) -> Tree:
    """The rows of an array as a stack of vectors."""
    return jax.vmap(lambda row: unflat(row, like))(array)


def _wide(*arrays: Array) -> Any:
    """The dtype of small matrices: at least float32, whatever the parameters are stored in."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def _total(tree: Tree) -> Array:
    return functools.reduce(jnp.add, jax.tree.leaves(tree))
