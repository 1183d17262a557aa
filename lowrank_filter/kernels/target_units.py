"""A prior in the units of the targets: what the default one is for targets that are standardised."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lowrank_filter.algebra.tree import Tree
from lowrank_filter.kernels.examples import Apply, Batch
from lowrank_filter.kernels.likelihoods import TargetUnits
from lowrank_filter.kernels.linearisation import Linearisation, identity

# Inputs whose Jacobians are looked at; those by which it is told where the outputs are linear, and how far a parameter
# is moved for that.
_ENOUGH, _FEW, _FAR = 128, 8, 2.0


class _Rows(NamedTuple):
    """The Jacobian's rows over the examples, stacked along the outputs: their mean squares, and where all are equal."""

    squares: Tree
    alike: Tree


def in_target_units(precision: Tree, units: TargetUnits, params: Tree, apply_fn: Apply, batch: Batch) -> Tree:
    """The precision p₀ of targets with mean 0 and variance 1, of parameters in the units of others.

    With shift δ_c and variance σ²_c of the outputs, the network of (f − δ)/σ has the prior p₀ if f's has

        p = p₀ Σ_c j_c/σ²_c / Σ_c j_c                      where f is affine in the parameters (a last layer),
        1/p = 1/p₀ Σ_c j_c/σ²_c / Σ_c j_c + Σ_c j_c δ²_c/n_c / Σ_c j_c   where J does not depend on x (its bias),

    j_c the parameter's mean square in J's row of output c, n_c the sum of those of the second kind; p₀ elsewhere.
    Without a parameter of the second kind the shift counts as variance; without one of the first all are taken for it.
    """
    outputs = jnp.reshape(units.variance, -1).shape[0]
    rows = _rows(params, apply_fn, batch)
    constant = jax.tree.map(lambda same, square: same * square, rows.alike, rows.squares)
    reach = sum(jnp.sum(leaf.reshape(outputs, -1), axis=1) for leaf in jax.tree.leaves(constant))
    reached = jnp.asarray(reach) > 0
    square = units.shift**2
    variance = units.variance + jnp.where(reached, 0, square)
    offset = jnp.where(reached, square / jnp.where(reached, reach, 1), 0)
    affine = _affine(params, apply_fn, batch.x)
    affine = affine | ~jnp.any(affine)

    def leaf(precision: Array, squares: Array, constant: Array, affine: Array) -> Array:
        share = squares / jnp.maximum(jnp.sum(squares, axis=0), jnp.finfo(squares.dtype).tiny)
        seen = jnp.sum(share, axis=0) > 0
        by_variance = jnp.where(seen, jnp.tensordot(1 / variance, share, axes=1), jnp.mean(1 / variance))
        scaled = precision * jnp.where(affine, by_variance, 1)
        added = jnp.tensordot(offset, share * (constant > 0), axes=1)
        return 1 / (1 / scaled + added)

    flags = jax.tree.structure(params).unflatten(list(affine))
    return jax.tree.map(leaf, precision, rows.squares, constant, flags)


def _rows(params: Tree, apply_fn: Apply, batch: Batch) -> _Rows:
    """One example after another: what is held is C·D numbers. What cannot be used has another in its place."""

    some = jax.tree.map(lambda leaf: leaf[:_ENOUGH], batch.x)
    linear = Linearisation(apply_fn, params, some, 1)

    def jacobian(x: Any) -> Tree:
        return linear.columns(jax.tree.map(lambda leaf: leaf[None], x), identity)[1].stack()

    first = jacobian(jax.tree.map(lambda leaf: leaf[0], some))

    def add(total: _Rows, x: Any) -> tuple[_Rows, None]:
        row = jacobian(x)
        squares = jax.tree.map(lambda total, row: total + row * row, total.squares, row)
        return _Rows(squares, jax.tree.map(lambda same, a, b: same & (a == b), total.alike, row, first)), None

    start = _Rows(jax.tree.map(jnp.zeros_like, first), jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), first))
    squares, alike = jax.lax.scan(add, start, some)[0]
    return _Rows(jax.tree.map(lambda leaf: leaf / min(_ENOUGH, len(batch.usable)), squares), alike)


def _affine(params: Tree, apply_fn: Apply, x: Any) -> Bool[Array, " L"]:
    """In which leaves, together, the outputs are affine, by second differences over a long way; none if they are so in
    each alone and not in all of these together."""
    few = jax.tree.map(lambda leaf: leaf[:_FEW], x)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    moves = [
        _FAR * (jnp.sqrt(jnp.mean(leaf**2)) + 1) * jax.random.normal(key, jnp.shape(leaf), leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]

    def at(chosen: Array, sign: float) -> Float[Array, "B C"]:
        moved = [leaf + sign * one * move for leaf, move, one in zip(leaves, moves, chosen, strict=True)]
        return apply_fn(structure.unflatten(moved), few)

    here = at(jnp.zeros(len(leaves)), 0.0)

    def test(chosen: Array) -> Array:
        ahead, back = at(chosen, 1.0), at(chosen, -1.0)
        size = jnp.max(jnp.abs(ahead) + jnp.abs(back) + jnp.abs(here))
        straight = jnp.max(jnp.abs(ahead + back - 2 * here)) <= 100 * jnp.finfo(here.dtype).eps * size
        return straight & jnp.any(ahead != back)

    dtype = jnp.result_type(*leaves)
    alone = jax.lax.map(test, jnp.eye(len(leaves), dtype=dtype))
    return alone & test(alone.astype(dtype))
