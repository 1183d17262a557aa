"""The generalised Gauss-Newton matrix of a data set, as products that never build it.

H = Σᵢ JᵢᵀSᵢSᵢᵀJᵢ. Every product runs over micro-batches in a ``lax.scan``: memory grows with the micro-batch and the
number of directions, not with the number of examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.precision import Curvature
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.kernels import layers
from lowrank_filter.kernels.batch import Apply, Batch, localise
from lowrank_filter.kernels.likelihoods import Likelihood

# Gradients of single examples held at once where the diagonal needs them, in numbers: 16 MiB of float32.
_DIAGONAL_NUMBERS = 2**22


def curvature(
    params: Tree, apply_fn: Apply, likelihood: Likelihood, batch: Batch, temperature: ArrayLike, batch_size: int
) -> Curvature:
    """H at ``params``, summed over the batch and divided by the temperature."""
    size = len(batch.mask)
    outputs = jax.eval_shape(apply_fn, params, batch.x).shape[1]
    root_shape = jax.eval_shape(
        lambda p: localise(likelihood, apply_fn(p, batch.x), batch, temperature).root, params
    ).shape
    width = root_shape[2]

    def over(step: Callable, like: Tree, batch_size: int, *extra: Array) -> Tree:
        """Σ over micro-batches of ``step(batch, root, linearised network, extra)``."""

        def body(total: Tree, part: tuple) -> tuple[Tree, None]:
            part_batch, *part_extra = part
            value, forward = jax.linearize(lambda p: apply_fn(p, part_batch.x), params)
            root = localise(likelihood, value, part_batch, temperature).root
            return jax.tree.map(jnp.add, total, step(part_batch, root, forward, *part_extra)), None

        parts = _split((batch, *extra), size, batch_size)
        return jax.lax.scan(body, like, parts)[0]

    def transpose(forward: Callable) -> Callable:
        backward = jax.linear_transpose(forward, params)
        return lambda cotangent: backward(cotangent)[0]

    def product(stack: Tree) -> Tree:
        def step(_: Batch, root: Array, forward: Callable) -> Tree:
            backward = transpose(forward)

            def one(vector: Tree) -> Tree:
                change = forward(vector)
                return backward(jnp.einsum("bcr,bdr,bd->bc", root, root, change, precision=tree.HIGHEST))

            return jax.vmap(one)(stack)

        return over(step, jax.tree.map(jnp.zeros_like, stack), batch_size)

    def seed(count: int) -> Tree:
        columns = size * width
        dtype = jnp.result_type(*jax.tree.leaves(params))
        if count == columns:
            weights = jnp.eye(columns, dtype=dtype)
        else:
            weights = jax.random.normal(jax.random.key(0), (columns, count), dtype)
        weights = weights.reshape(size, width, count)

        def step(_: Batch, root: Array, forward: Callable, part: Array) -> Tree:
            cotangents = jnp.einsum("bcr,brn->nbc", root, part, precision=tree.HIGHEST)
            return jax.vmap(transpose(forward))(cotangents)

        return over(step, tree.zeros(params, count), batch_size, weights)

    def diagonal() -> Tree:
        def structured(part: Batch, *_: Any) -> Tree:
            return layers.diagonal(
                apply_fn, params, part.x, lambda value: localise(likelihood, value, part, temperature).root
            )

        try:
            return over(structured, tree.zeros(params), batch_size)
        except layers.UnsupportedError:
            pass
        chunk = max(1, min(batch_size, _DIAGONAL_NUMBERS // (outputs * tree.dimension(params))))

        def step(part: Batch, root: Array, _: Callable) -> Tree:
            def example(x: Any, single_root: Float[Array, "C r"]) -> Tree:
                _, backward = jax.vjp(lambda p: apply_fn(p, jax.tree.map(lambda v: v[None], x))[0], params)
                return tree.squares(jax.vmap(lambda s: backward(s)[0], in_axes=1)(single_root))

            return jax.tree.map(lambda v: jnp.sum(v, axis=0), jax.vmap(example)(part.x, root))

        return over(step, tree.zeros(params), chunk)

    return Curvature(product, seed, diagonal, size * width, params)


def _split(examples: tuple, size: int, batch_size: int) -> tuple:
    """[B, …] as [parts, batch_size, …], the last part filled up with the last example, not counted again."""
    parts = -(-size // batch_size)
    position = jnp.arange(parts * batch_size)
    batch, *extra = jax.tree.map(lambda leaf: leaf[jnp.minimum(position, size - 1)], examples)
    batch = batch._replace(usable=batch.usable & (position < size))
    return jax.tree.map(lambda leaf: leaf.reshape(parts, batch_size, *leaf.shape[1:]), (batch, *extra))
