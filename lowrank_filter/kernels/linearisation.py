"""A network linearised at parameters, as what each kernel needs of its Jacobian."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.example_gradients import Columns, LayerGradients, Place, Stack, find_places
from lowrank_filter.algebra.last_layer import LastLayer
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

        Layers that meet an example once stay products of their inputs and output gradients. Leaves whose weights are
        shared over positions are built, as sums over those; leaves that could not be read are differentiated.
        """
        reading, params = self.reading, self._params
        outputs, factors = self.factors(x, root)
        built = self._vectors(x, root(outputs), factors)
        leaves, structure = jax.tree.flatten(params)
        if len(built) == len(leaves):
            return outputs, Stack(structure.unflatten([built[number] for number in range(len(leaves))]))
        inputs, gradients, places = [], [], []
        for use, factor, place in zip(reading.uses, factors, self._places, strict=True):
            if place.leaf not in built:
                some, cotangents = _as_product(use, factor)
                inputs.append(some)
                gradients.append(cotangents)
                places.append(place)
        for number, leaf in built.items():
            inputs.append(None)
            gradients.append(leaf.reshape(len(outputs), -1, leaves[number].size))
            places.append(Place(number, np.arange(leaves[number].size), (0,)))
        return outputs, LayerGradients(tuple(inputs), tuple(gradients), params, tuple(places))

    @functools.cached_property
    def _layer(self) -> tuple[Place, ...]:
        """Where the layer is that the outputs come from, its bias second; none unless it takes whole leaves, once."""
        reading = self.reading
        if not reading.last:
            return ()
        uses = [reading.uses[number] for number in reading.last]
        whole = find_places([use.labels for use in uses], self._params)
        if whole is None or uses[0].positions > 1:
            return ()
        leaves = jax.tree.leaves(self._params)
        for use, place in zip(uses, whole, strict=True):
            labels = use.labels.ravel()
            if place.axes is None or len(labels) != leaves[place.leaf].size:
                return ()
            if reading.unknown[labels].any() or (reading.counts[labels] != 1).any():
                return ()
        return whole

    @property
    def features(self) -> int | None:
        """How many numbers of an example the layer takes that the outputs come from; None where there is no such."""
        return self.reading.uses[self.reading.last[0]].labels.shape[0] if self._layer else None

    def last_layer(self, x: Any) -> tuple[Array, LastLayer]:
        """The outputs, and Jᵀ by the layer that they come from, where there is one."""
        leaves, structure = jax.tree.flatten(self._params)
        places, number = self._layer, self.reading.last[0]
        own = {place.leaf for place in places}
        before = [leaf for n, leaf in enumerate(leaves) if n not in own]

        def features(before: list[Array], x: Any) -> Array:
            others = iter(before)
            filled = [leaf if n in own else next(others) for n, leaf in enumerate(leaves)]
            return network_reader.features(number, self._apply_fn, structure.unflatten(filled), x)

        hidden = None
        if before:
            inputs, hidden = Linearisation(features, before, x).columns(x, identity)
        else:
            inputs = features(before, x)
        kernel = places[0].select(leaves[places[0].leaf])
        return self._apply_fn(self._params, x), LastLayer(inputs, kernel, hidden, self._params, places)

    def diagonal(self, x: Any, root: Root) -> Tree:
        """diag(Σᵢ JᵢᵀSᵢSᵢᵀJᵢ)."""
        return self.columns(x, root)[1].squares()

    def factors(self, x: Any, root: Root) -> tuple[Array, list[Factors]]:
        """The outputs, and both sides of every use of parameters that was read."""
        if not self.reading.uses:
            return self._apply_fn(self._params, x), []
        return network_reader.factorise(self.reading, self._apply_fn, self._params, x, root)

    @functools.cached_property
    def built(self) -> frozenset[int]:
        """The numbers of the leaves whose columns are built."""
        if not self._places:
            return frozenset(range(len(self._ends)))
        return self._leaves_of(np.flatnonzero(self.reading.unknown | self.reading.shared()))

    @functools.cached_property
    def _places(self) -> Sequence[Place]:
        """Where the uses lie; none where one lies in several leaves."""
        return find_places([use.labels for use in self.reading.uses], self._params) or ()

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([leaf.size for leaf in jax.tree.leaves(self._params)])

    def _leaves_of(self, numbers: np.ndarray) -> frozenset[int]:
        """Those that some parameters, counted leaf by leaf, are in."""
        return frozenset(np.searchsorted(self._ends, numbers.ravel(), side="right").tolist())

    def _vectors(self, x: Any, roots: Float[Array, "B C r"], factors: Sequence[Factors]) -> dict[int, Array]:
        """The columns of the leaves that are built, stacks [B·r, …] by the leaf's number."""
        leaves, structure = jax.tree.flatten(self._params)
        unknown = self._leaves_of(np.flatnonzero(self.reading.unknown))
        known = self.built - unknown
        uses = [n for n, use in enumerate(self.reading.uses) if self._leaves_of(use.labels) & known]
        found = tree.zeros([leaves[number] for number in known], roots.shape[0] * roots.shape[2])
        found = dict(zip(known, found, strict=True))
        if uses:
            stack = network_reader.gradients(self.reading, self._apply_fn, self._params, x, factors, uses)
            found = {number: leaf for number, leaf in enumerate(jax.tree.leaves(stack)) if number in known}
        if unknown:

            def apply_fn(some: dict[int, Array], x: Any) -> Array:
                return self._apply_fn(structure.unflatten([some.get(n, leaf) for n, leaf in enumerate(leaves)]), x)

            differentiated = _by_example if self._takes_one else _by_batch
            found |= differentiated(apply_fn, {number: leaves[number] for number in unknown}, x, roots)
        return dict(sorted(found.items()))

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


def _by_example(apply_fn: Apply, params: Tree, x: Any, roots: Float[Array, "B C r"]) -> Tree:
    """JᵢᵀSᵢ as a stack of B·r vectors, each example by itself."""

    def one(x: Any, root: Array) -> Tree:
        _, backward = jax.vjp(lambda p: apply_fn(p, jax.tree.map(lambda v: v[None], x))[0], params)
        return jax.vmap(lambda s: backward(s)[0], in_axes=1)(root)

    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), jax.vmap(one)(x, roots))


def _by_batch(apply_fn: Apply, params: Tree, x: Any, roots: Float[Array, "B C r"]) -> Tree:
    """The same by one cotangent for each column, zero but for one example: O(B²)."""
    outputs, backward = jax.vjp(lambda p: apply_fn(p, x), params)
    size, _, width = roots.shape
    single = jnp.eye(size, dtype=outputs.dtype)[:, None, :, None] * jnp.moveaxis(roots, 2, 1)[:, :, None, :]
    return jax.vmap(lambda c: backward(c)[0])(single.reshape(size * width, *outputs.shape))


def _as_product(use: network_reader.Use, factor: Factors) -> tuple[Any, Array]:
    """A use's gradient as inputs [B, I] (or None) and cotangents [B, r, O], its positions summed."""
    inputs, cotangents = factor
    if use.kind == "dense" and inputs is not None:
        return inputs[:, 0], jnp.moveaxis(cotangents[:, 0], 2, 1)
    summed = jnp.sum(cotangents if inputs is None else inputs[..., None] * cotangents, axis=1)
    return None, jnp.moveaxis(summed, 2, 1)
