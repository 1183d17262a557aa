"""Networks whose output for one example depends on the others of the batch, such as batch normalisation in training."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from lowrank_filter.algebra.tree import Tree

# Batch sizes that are no multiple or divisor of anything else: an axis of such a length counts examples.
_PRIMES = (1009, 2003, 4001)
_REDUCTIONS = frozenset({
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin",
})  # fmt: skip
_ALONG = frozenset({"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "rev"})


def check_uncoupled(apply_fn: Callable, params: Tree, x: Any) -> None:
    """No sum, maximum or product over the examples reaches the outputs; read off the jaxpr, nothing is computed.

    Raises:
        ValueError: one does. A network that takes no other number of examples is not read.
    """
    found = None
    for examples in other_numbers(params, x):
        many = jax.tree.map(lambda leaf, n=examples: jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype), x)
        try:
            closed = jax.make_jaxpr(apply_fn)(params, many)
        except (TypeError, ValueError, AssertionError):
            return
        if all(n % examples for const in closed.consts for n in np.shape(const)):
            found = _coupling(closed.jaxpr, examples)
            break
    if found is not None:
        raise ValueError(
            f"apply_fn: expected outputs that depend on their own example alone, got {found} over the examples of the "
            "batch, as in batch normalisation in training mode; use evaluation mode, with its statistics closed over"
        )


def other_numbers(params: Tree, x: Any) -> list[int]:
    """Numbers of examples by which the axis that counts them is told from every other."""
    sizes = {n for leaf in jax.tree.leaves((params, x)) for n in np.shape(leaf)} | {1}
    return [examples for examples in _PRIMES if all(n % examples for n in sizes)]


def _coupling(jaxpr: Any, examples: int) -> str | None:
    """The first operation over the axis of examples that the outputs depend on."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    found = None
    for equation in reversed(jaxpr.eqns):
        if not wanted.intersection(equation.outvars):
            continue
        wanted.update(v for v in equation.invars if not isinstance(v, core.Literal))
        inner = next((p for p in map(_jaxpr, equation.params.values()) if p is not None), None)
        here = _coupling(inner, examples) if inner is not None else _over_examples(equation, examples)
        found = here or found
    return found


def _over_examples(equation: Any, examples: int) -> str | None:
    name, options = equation.primitive.name, equation.params
    shapes = [v.aval.shape for v in equation.invars]
    if name in _REDUCTIONS:
        axes = [shapes[0][axis] for axis in options["axes"]]
    elif name in _ALONG:
        axes = [shapes[0][axis] for axis in np.atleast_1d(options.get("axis", options.get("dimensions", ())))]
    elif name == "dot_general":
        axes = [shapes[0][axis] for axis in options["dimension_numbers"][0][0]]
    elif name == "sort":
        axes = [shapes[0][options["dimension"]]]
    else:
        return None
    return name if any(size % examples == 0 and size > 0 for size in axes) else None


def _jaxpr(value: Any) -> Any:
    if isinstance(value, core.ClosedJaxpr):
        return value.jaxpr
    return value if isinstance(value, core.Jaxpr) else None
