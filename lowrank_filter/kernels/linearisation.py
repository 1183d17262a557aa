"""A network linearised at parameters, as what each kernel needs of its Jacobian."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lowrank_filter.algebra.example_gradients import Columns, LayerGradients, Place, Stack, find_places
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.kernels import network_reader
from lowrank_filter.kernels.examples import Apply
from lowrank_filter.kernels.network_reader import Factors, Reading, Root


def identity(outputs: Float[Array, "B C"]) -> Float[Array, "B C C"]:
    """The root with which columns are the Jacobian's rows."""
    size, width = outputs.shape
    return jnp.broadcast_to(jnp.eye(width, dtype=outputs.dtype), (size, width, width))


class Linearisation:
    """f(θ) ≈ f(θ₀) + J(θ − θ₀) at θ₀, for examples that come in batches of any size.

    The network is read once, off two examples: labels of a large batch would be gigabytes on the host. What cannot be
    read, or is another network for more of them, is differentiated: a reading saves work and changes no number.
    """

    def __init__(self, apply_fn: Apply, params: Tree, x: Any, size: int | None = None) -> None:
        """Of ``x`` only the shapes count; ``size`` is that of the batches, all of its examples by default."""
        self._apply_fn, self._params, self._x = apply_fn, params, x
        self._size = len(jax.tree.leaves(x)[0]) if size is None else size

    @functools.cached_property
    def reading(self) -> Reading:
        """Where parameters meet examples."""
        few, batch = self._shapes(min(self._size, 2)), self._shapes(self._size)
        try:
            if network_reader.alike(self._apply_fn, self._params, few, batch):
                return network_reader.read(self._apply_fn, self._params, few)
        except (TypeError, ValueError, LookupError, AttributeError, AssertionError, NotImplementedError):
            pass  # operations that the reader misunderstands, or a network that takes no two examples
        return network_reader.nothing_read(self._params)

    def products(self, x: Any) -> tuple[Array, Callable[[Tree], Array], Callable[[Array], Tree]]:
        """The outputs [B, C], and v → J v and c → Jᵀc."""
        outputs, forward = jax.linearize(lambda p: self._apply_fn(p, x), self._params)
        backward = jax.linear_transpose(forward, self._params)
        return outputs, forward, lambda cotangent: backward(cotangent)[0]

    def columns(self, x: Any, root: Root) -> tuple[Array, Columns]:
        """The outputs, and the columns JᵢᵀSᵢ, example by example: n = B·r of them; ``root`` gives S at the outputs.

        Layers that meet an example once stay products of their inputs and output gradients; leaves whose weights are
        shared over positions are built, as sums over those. Without a reading everything is.
        """
        reading, params = self.reading, self._params
        where = find_places([use.labels for use in reading.uses], params)
        if not reading.uses or reading.unknown.any() or where is None:
            outputs, vectors = self._vectors(x, root)
            return outputs, Stack(vectors)
        outputs, factors = self.factors(x, root)
        leaves = jax.tree.leaves(params)
        ends = np.cumsum([leaf.size for leaf in leaves])
        shared = {int(n) for n in np.searchsorted(ends, np.flatnonzero(reading.shared()), side="right")}
        small = [number for number, place in enumerate(where) if place.leaf not in shared]
        inputs, gradients, places = [], [], [where[number] for number in small]
        for number in small:
            some, cotangents = _as_product(reading.uses[number], factors[number])
            inputs.append(some)
            gradients.append(cotangents)
        if shared:
            uses = [number for number, place in enumerate(where) if place.leaf in shared]
            built = jax.tree.leaves(network_reader.gradients(reading, self._apply_fn, params, x, factors, uses))
            for leaf in sorted(shared):
                inputs.append(None)
                gradients.append(built[leaf].reshape(len(outputs), -1, leaves[leaf].size))
                places.append(Place(leaf, np.arange(leaves[leaf].size), (0,)))
        return outputs, LayerGradients(tuple(inputs), tuple(gradients), params, tuple(places))

    def factors(self, x: Any, root: Root) -> tuple[Array, list[Factors]]:
        """The outputs, and both sides of every use of parameters that was read."""
        return network_reader.factorise(self.reading, self._apply_fn, self._params, x, root)

    def diagonal(self, x: Any, root: Root) -> Tree:
        """diag(Σᵢ JᵢᵀSᵢSᵢᵀJᵢ)."""
        reading = self.reading
        if reading.exact_diagonal():
            return network_reader.diagonal(reading, self._apply_fn, self._params, x, root)
        return jax.tree.map(lambda v: jnp.sum(v * v, axis=0), self._vectors(x, root)[1])

    def _vectors(self, x: Any, root: Root) -> tuple[Array, Tree]:
        """The columns as a stack: sums over the positions where weights are shared, else by differentiation."""
        apply_fn, params, reading = self._apply_fn, self._params, self.reading
        if reading.uses and not reading.unknown.any():
            outputs, factors = self.factors(x, root)
            every = range(len(factors))
            return outputs, network_reader.gradients(reading, apply_fn, params, x, factors, every)
        if not self._takes_one:
            return self._vectors_of_whole_batches(x, root)
        outputs = apply_fn(params, x)

        def example(x: Any, root: Array) -> Tree:
            _, backward = jax.vjp(lambda p: apply_fn(p, jax.tree.map(lambda v: v[None], x))[0], params)
            return jax.vmap(lambda s: backward(s)[0], in_axes=1)(root)

        found = jax.vmap(example)(x, root(outputs))
        return outputs, jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), found)

    def _vectors_of_whole_batches(self, x: Any, root: Root) -> tuple[Array, Tree]:
        """One cotangent for each column, zero but for one example: O(B²)."""
        outputs, pull_back = jax.vjp(lambda p: self._apply_fn(p, x), self._params)
        found = root(outputs)
        size, _, width = found.shape
        single = jnp.eye(size, dtype=outputs.dtype)[:, None, :, None] * jnp.moveaxis(found, 2, 1)[:, :, None, :]
        return outputs, jax.vmap(lambda c: pull_back(c)[0])(single.reshape(size * width, *outputs.shape))

    @property
    def _takes_one(self) -> bool:
        """Whether the network is one of any number of examples."""
        try:
            jax.eval_shape(self._apply_fn, self._params, self._shapes(1))
        except (TypeError, ValueError, AssertionError):
            return False
        return True

    def _shapes(self, size: int) -> Any:
        return jax.tree.map(lambda v: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype), self._x)


def _as_product(use: network_reader.Use, factor: Factors) -> tuple[Any, Array]:
    """A use's gradient as inputs [B, I] (or None) and cotangents [B, r, O], its positions summed."""
    inputs, cotangents = factor
    if use.kind == "dense" and inputs is not None:
        return inputs[:, 0], jnp.moveaxis(cotangents[:, 0], 2, 1)
    summed = jnp.sum(cotangents if inputs is None else inputs[..., None] * cotangents, axis=1)
    return None, jnp.moveaxis(summed, 2, 1)
