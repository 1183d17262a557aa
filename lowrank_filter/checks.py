"""Errors at the boundary: what was expected, what came, what to do.

Shapes and structures are checked always, also under tracing. Values are checked where they can be seen, that is
outside a traced computation; inside one, the updates report them in ``info.invalid``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lowrank_filter.algebra.tree import Tree


def concrete(value: Any) -> bool:
    """Whether a value can be looked at now."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def parameters(params: Tree) -> None:
    """At least one leaf, all of them floating point."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError("params: expected a pytree with at least one array, got an empty one")
    for path, leaf in leaves:
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            kind = leaf.dtype if hasattr(leaf, "dtype") else type(leaf).__name__
            raise TypeError(
                f"params{_name(path)}: expected a floating-point array, got {kind}; pass only the trainable arrays "
                "and close over the rest in apply_fn"
            )


def same_shapes(name: str, value: Tree, like: Tree, *, leading: int | None = None) -> None:
    """``value`` has ``like``'s structure and shapes, behind a leading axis if one is named."""
    expected, came = jax.tree.structure(like), jax.tree.structure(value)
    if expected != came:
        raise ValueError(f"{name}: expected the tree structure of the parameters, {expected}; got {came}")
    prefix = () if leading is None else (leading,)
    pairs = zip(jax.tree_util.tree_leaves_with_path(value), jax.tree.leaves(like), strict=True)
    for (path, leaf), reference in pairs:
        if jnp.shape(leaf) != prefix + jnp.shape(reference):
            raise ValueError(
                f"{name}{_name(path)}: expected shape {prefix + jnp.shape(reference)}, got {jnp.shape(leaf)}"
            )


def prefix(name: str, value: Tree, like: Tree) -> None:
    """``value`` is a pytree prefix of ``like`` whose leaves broadcast to the leaves they cover."""

    def covers(leaf: Any, subtree: Tree) -> None:
        for path, reference in jax.tree_util.tree_leaves_with_path(subtree):
            if not broadcastable(jnp.shape(leaf), jnp.shape(reference)):
                raise ValueError(
                    f"{name}{_name(path)}: expected a shape that broadcasts to {jnp.shape(reference)}, got "
                    f"{jnp.shape(leaf)}; use a scalar, one scalar per layer, or one value per parameter"
                )

    map_prefix(name, covers, value, like)


def map_prefix(name: str, function: Callable[[Any, Tree], Any], value: Tree, like: Tree) -> Tree:
    """``function(leaf, covered subtree)`` over a pytree prefix."""
    leaves, structure = jax.tree.flatten(value)
    try:
        covered = structure.flatten_up_to(like)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name}: expected a scalar or a pytree prefix of {jax.tree.structure(like)}, got {structure}"
        ) from error
    return jax.tree.unflatten(structure, [function(*pair) for pair in zip(leaves, covered, strict=True)])


def broadcastable(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of ``shape`` broadcasts to exactly ``target``."""
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def positive(name: str, value: Tree) -> None:
    """Every element that can be seen is > 0 (and finite)."""
    _values(name, value, lambda v: v > 0, "positive")


def not_negative(name: str, value: Tree) -> None:
    """Every element that can be seen is ≥ 0 (and finite)."""
    _values(name, value, lambda v: v >= 0, "non-negative")


def finite(name: str, value: Tree) -> None:
    """Every element that can be seen is finite."""
    _values(name, value, np.isfinite, "finite")


def rank(value: Any) -> None:
    """A static integer ≥ 0."""
    count("rank", value, minimum=0)


def count(name: str, value: Any, *, minimum: int) -> None:
    """A static integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(
            f"{name}: expected a static integer >= {minimum}, got {value!r}"
            + ("; mark it static under jax.jit" if isinstance(value, Tracer) else "")
        )


def choice(name: str, value: Any, options: tuple[str, ...]) -> None:
    """One of a few strings."""
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")


def _values(name: str, value: Tree, test: Callable, wanted: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if not concrete(leaf):
            continue
        array = np.asarray(leaf)
        bad = ~(np.isfinite(array) & test(array))
        if bad.any():
            raise ValueError(
                f"{name}{_name(path)}: expected {wanted} values, got {array[bad].ravel()[0]} "
                f"({int(bad.sum())} of {array.size} values)"
            )


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path)
