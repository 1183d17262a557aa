"""The gradients of a small batch, one for each example and root of its likelihood."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra.example_gradients import Columns, LayerGradients, Stack, find_places
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.kernels import network_reader
from lowrank_filter.kernels.examples import Apply, Batch


def example_gradients(
    params: Tree, apply_fn: Apply, batch: Batch, root: Callable[[Float[Array, "B C"]], Float[Array, "B C r"]]
) -> tuple[Array, Columns]:
    """The outputs [B, C], and the columns JᵢᵀSᵢ, example by example: n = B·r of them; ``root`` gives S at the outputs.

    Where the network is made of layers that each meet an example once, the columns stay products of the layers' inputs
    and output gradients; where weights are shared over positions and can be read, they are sums of those, O(B). Else
    the whole batch is differentiated once for each column, O(B²).
    """
    reading = network_reader.read(apply_fn, params, batch.x)
    where = find_places([use.labels for use in reading.uses], params) if reading.uses else None
    if reading.exact_diagonal() and where is not None:
        outputs, factors = network_reader.factorise(reading, apply_fn, params, batch.x, root)
        inputs, cotangents = zip(*map(_as_product, reading.uses, factors), strict=True)
        return outputs, LayerGradients(inputs, cotangents, params, where)
    if reading.uses and not reading.unknown.any():
        outputs, stack = network_reader.gradients(reading, apply_fn, params, batch.x, root)
        return outputs, Stack(stack)
    outputs, pull_back = jax.vjp(lambda p: apply_fn(p, batch.x), params)
    found = root(outputs)
    size, _, width = found.shape
    # One cotangent for each column: zero but for one example.
    single = jnp.eye(size, dtype=outputs.dtype)[:, None, :, None] * jnp.moveaxis(found, 2, 1)[:, :, None, :]
    return outputs, Stack(jax.vmap(lambda c: pull_back(c)[0])(single.reshape(size * width, *outputs.shape)))


def _as_product(use: network_reader.Use, factor: network_reader.Factors) -> tuple[Any, Array]:
    """A use's gradient as inputs [B, I] (or None) and cotangents [B, r, O], its positions summed."""
    inputs, cotangents = factor
    if use.kind == "dense" and inputs is not None:
        return inputs[:, 0], jnp.moveaxis(cotangents[:, 0], 2, 1)
    summed = jnp.sum(cotangents if inputs is None else inputs[..., None] * cotangents, axis=1)
    return None, jnp.moveaxis(summed, 2, 1)
