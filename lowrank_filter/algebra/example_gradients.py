"""The columns that data add to a precision: n vectors aⱼ over the parameters, in the form that they are cheapest in."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common.registered import registered


class Combinable(Protocol):
    """n vectors, known by their linear combinations. A pytree of arrays."""

    @property
    def size(self) -> int:
        """n."""
        ...

    def combine(self, coefficients: Float[Array, "m n"]) -> Tree:
        """The stack of Σⱼ cᵢⱼ aⱼ."""
        ...

    def stack(self) -> Tree:
        """The vectors themselves."""
        ...


class Columns(Combinable, Protocol):
    """n vectors, known by their products."""

    def gram(self, weight: Tree | None) -> Float[Array, "n n"]:
        """Σ w aᵢ aⱼ for a vector w, ones if there is none."""
        ...

    def against(self, stack: Tree) -> Float[Array, "k n"]:
        """⟨sᵢ, aⱼ⟩ for a stack's vectors."""
        ...

    def squares(self) -> Tree:
        """Σⱼ aⱼ², the diagonal of A Aᵀ."""
        ...

    def mixed(self, weights: Float[Array, "B C r"]) -> "Columns":
        """Of C columns for each of B examples, r combinations for each: Σ_c a_bc w_bcr."""
        ...


class Stack(NamedTuple):
    """Columns as they are."""

    vectors: Tree

    @property
    def size(self) -> int:
        """n."""
        return tree.length(self.vectors)

    def gram(self, weight: Tree | None) -> Float[Array, "n n"]:
        """One product over D."""
        return tree.gram(self.vectors, self.vectors) if weight is None else tree.weighted_gram(self.vectors, weight)

    def against(self, stack: Tree) -> Float[Array, "k n"]:
        """One product over D."""
        return tree.gram(stack, self.vectors)

    def combine(self, coefficients: Float[Array, "m n"]) -> Tree:
        """One product over D."""
        return tree.combine(coefficients, self.vectors)

    def accumulate(self, coefficients: Float[Array, "m n"]) -> Tree:
        """:meth:`combine`, never written where it is added to others."""
        return tree.accumulate(coefficients, self.vectors)

    def squares(self) -> Tree:
        """One product over D."""
        return tree.squares(self.vectors)

    def mixed(self, weights: Float[Array, "B C r"]) -> "Stack":
        """One product over D."""

        def leaf(v: Array) -> Array:
            each = v.reshape(*weights.shape[:2], -1)
            return _einsum("bcr,bcd->brd", weights.astype(v.dtype), each).reshape(-1, *v.shape[1:])

        return Stack(jax.tree.map(leaf, self.vectors))

    def stack(self) -> Tree:
        """The vectors."""
        return self.vectors


class Turned(NamedTuple):
    """k vectors s ⊙ Σⱼ Tᵢⱼ wⱼ of a stack w, a k×k matrix T and a vector s, never built."""

    vectors: Tree
    turn: Float[Array, "k k"]
    scale: Tree

    @property
    def size(self) -> int:
        """k."""
        return len(self.turn)

    def combine(self, coefficients: Float[Array, "m n"]) -> Tree:
        """One product over D."""
        return self.combine_turned(jnp.matmul(coefficients, self.turn, precision=tree.HIGHEST))

    def squares(self) -> Tree:
        """The sum of their squares, elementwise, one vector after the other."""

        def add(total: Tree, row: Array) -> tuple[Tree, None]:
            one = jax.tree.map(lambda leaf: leaf[0], self.combine_turned(row[None]))
            return jax.tree.map(lambda t, v: t + v * v, total, one), None

        return jax.lax.scan(add, tree.zeros(self.scale), self.turn)[0]

    def accumulate(self, coefficients: Float[Array, "m k"]) -> Tree:
        """:meth:`combine`, never written where it is added to others."""
        turn = jnp.matmul(coefficients, self.turn, precision=tree.HIGHEST)
        return jax.tree.map(jnp.multiply, tree.accumulate(turn, self.vectors), self.scale)

    def combine_turned(self, turn: Float[Array, "m k"]) -> Tree:
        """s ⊙ Σⱼ tᵢⱼ wⱼ."""
        return jax.tree.map(jnp.multiply, tree.combine(turn, self.vectors), self.scale)

    def stack(self) -> Tree:
        """Built."""
        return self.combine_turned(self.turn)


class Place(NamedTuple):
    """Where an array of parameters lies. Static.

    Attributes:
        leaf: in which leaf.
        elements: as which of its elements, counted in order.
        axes: the order of the array's axes in which those are consecutive; None if there is none.
    """

    leaf: int
    elements: np.ndarray
    axes: tuple[int, ...] | None

    @property
    def first(self) -> int:
        """The first of the elements."""
        return int(self.elements.flat[0])

    def select(self, leaf: Array) -> Array:
        """The array, of a parameter leaf."""
        if self.axes is None:
            return leaf.reshape(-1)[self.elements]
        turned = self.elements.transpose(self.axes).shape
        if self.elements.size != leaf.size:
            leaf = jax.lax.slice_in_dim(leaf.reshape(-1), self.first, self.first + self.elements.size)
        return leaf.reshape(turned).transpose(np.argsort(self.axes))


def placed(places: Sequence[Place], arrays: Sequence[Array], like: Any) -> Array:
    """A stack's leaf of arrays [m, …] that lie in it, zero elsewhere."""
    count, dtype = len(arrays[0]), like.dtype
    order = sorted(range(len(places)), key=lambda n: places[n].first)
    ends = np.cumsum([places[n].elements.size for n in order])
    tiled = ends[-1] == like.size and all(places[n].axes is not None for n in order)
    if tiled and all(places[n].first == end for n, end in zip(order[1:], ends, strict=False)):
        turned = [arrays[n].transpose(0, *(axis + 1 for axis in places[n].axes or ())) for n in order]
        parts = [part.reshape(count, math.prod(part.shape[1:])) for part in turned]
        return jnp.concatenate(parts, axis=1).astype(dtype).reshape(count, *like.shape)
    flat = jnp.zeros((count, like.size), dtype)
    for place, array in zip(places, arrays, strict=True):
        flat = flat.at[:, place.elements].set(array.astype(dtype))
    return flat.reshape(count, *like.shape)


@registered
@dataclasses.dataclass(frozen=True)
class LayerGradients:
    """The gradients of dense layers: for example b and root r, and for each array of parameters, x_b ⊗ g_br.

    Never built where a product of small arrays will do: a Gram matrix against k vectors costs k·B·D instead of
    k·B·r·D, that of the columns with themselves B²·D instead of (B·r)²·D.

    Attributes:
        inputs: for each array [I, O] of parameters x [B, I]; None for an array [O].
        gradients: for each g [B, r, O].
        places: which parameters the arrays are; every parameter is in one of them. Static.
        like: a vector that says what the parameters look like.
    """

    inputs: tuple[Float[Array, "B _I"] | None, ...]
    gradients: tuple[Float[Array, "B r _O"], ...]
    like: Tree
    places: tuple[Place, ...] = dataclasses.field(metadata={"static": True})

    @property
    def size(self) -> int:
        """B·r."""
        size, width, _ = self.gradients[0].shape
        return size * width

    def gram(self, weight: Tree | None) -> Float[Array, "n n"]:
        """Σ over the arrays of (x_b x_b' w) g_br g_b'r'."""
        weights = (None,) * len(self.places) if weight is None else self._selected(weight)
        total = 0
        for x, g, w in zip(self.inputs, self.gradients, weights, strict=True):
            flat = g.reshape(self.size, -1)
            if x is None:
                total += _inner("mo,no->mn", flat if w is None else flat * w, flat)
            elif w is None:
                total += _inner("mo,no->mn", flat, flat) * self._spread(_inner("bi,ci->bc", x, x))
            else:
                total += _inner("bco,bro,cso->brcs", _inner("bi,ci,io->bco", x, x, w), g, g).reshape(flat.shape[:1] * 2)
        return jnp.asarray(total)

    def against(self, stack: Tree) -> Float[Array, "k n"]:
        """Σ over the arrays of (sᵢᵀx_b) g_br."""
        total = 0
        for x, g, s in zip(self.inputs, self.gradients, jax.vmap(self._selected)(stack), strict=True):
            if x is None:
                total += _inner("ko,bro->kbr", s, g)
            else:
                # As a batched product, a CPU reads the stack in the order that it lies in.
                each = jnp.broadcast_to(x, (len(s), *x.shape))
                total += _inner("kbo,bro->kbr", _inner("kio,kbi->kbo", s, each), g)
        return jnp.reshape(total, (tree.length(stack), self.size))

    def combine(self, coefficients: Float[Array, "m n"]) -> Tree:
        """Σ_b x_b ⊗ Σ_r c_br g_br."""
        size, width, _ = self.gradients[0].shape
        weights = coefficients.reshape(-1, size, width)
        leaves = jax.tree.leaves(self.like)

        def array(x: Array | None, g: Array, place: Place) -> Array:
            dtype = leaves[place.leaf].dtype
            if x is None:
                return _einsum("mbr,bro->mo", weights.astype(dtype), g.astype(dtype))
            cotangents, inputs = _einsum("mbr,bro->mbo", weights.astype(dtype), g.astype(dtype)), x.astype(dtype)
            if size == 1:  # no sum, so no product that a CPU would turn round
                return inputs[:, :, None] * cotangents
            return _einsum("bi,mbo->mio", inputs, cotangents)

        return self._placed(list(map(array, self.inputs, self.gradients, self.places)))

    def squares(self) -> Tree:
        """Σ_b x_b² ⊗ Σ_r g_br²."""

        def array(x: Array | None, g: Array) -> Array:
            summed = jnp.sum(g * g, axis=1)
            return jnp.sum(summed, axis=0) if x is None else _einsum("bi,bo->io", x * x, summed)

        found = self._placed([array(x, g)[None] for x, g in zip(self.inputs, self.gradients, strict=True)])
        return jax.tree.map(lambda leaf: leaf[0], found)

    def mixed(self, weights: Float[Array, "B C r"]) -> Self:
        """Of the output gradients alone."""
        gradients = tuple(_einsum("bco,bcr->bro", g, weights.astype(g.dtype)) for g in self.gradients)
        return dataclasses.replace(self, gradients=gradients)

    def stack(self) -> Tree:
        """The gradients built."""

        def array(x: Array | None, g: Array) -> Array:
            built = g if x is None else x[:, None, :, None] * g[:, :, None, :]
            return built.reshape(self.size, *built.shape[2:])

        return self._placed(list(map(array, self.inputs, self.gradients)))

    def _placed(self, arrays: Sequence[Array]) -> Tree:
        """A stack of one array [m, …] for each place."""
        stack = []
        for number, leaf in enumerate(jax.tree.leaves(self.like)):
            here = [n for n, place in enumerate(self.places) if place.leaf == number]
            if here:
                stack.append(placed([self.places[n] for n in here], [arrays[n] for n in here], leaf))
            else:  # a parameter that the network does not use
                stack.append(jnp.zeros((len(arrays[0]), *leaf.shape), leaf.dtype))
        return jax.tree.unflatten(jax.tree.structure(self.like), stack)

    def _spread(self, of_examples: Float[Array, "B B"]) -> Float[Array, "n n"]:
        width = self.gradients[0].shape[1]
        return jnp.repeat(jnp.repeat(of_examples, width, axis=0), width, axis=1)

    def _selected(self, vector: Tree) -> tuple[Array, ...]:
        leaves = jax.tree.leaves(vector)
        return tuple(place.select(leaves[place.leaf]) for place in self.places)


def find_places(labels: Sequence[np.ndarray], like: Tree) -> tuple[Place, ...] | None:
    """Where arrays of parameters lie, which are numbered leaf by leaf; None if one lies in several leaves."""
    sizes = [leaf.size for leaf in jax.tree.leaves(like)]
    ends = np.cumsum(sizes)
    found = []
    for numbers in labels:
        leaf = np.searchsorted(ends, numbers, side="right")
        if (leaf != leaf.flat[0]).any():
            return None
        number = int(leaf.flat[0])
        elements = numbers - (ends[number] - sizes[number])
        forward = tuple(range(elements.ndim))
        orders = [axes for axes in (forward, forward[::-1]) if (np.diff(elements.transpose(axes).ravel()) == 1).all()]
        found.append(Place(number, elements, orders[0] if orders else None))
    return tuple(found)


def _einsum(subscripts: str, *arrays: Array) -> Array:
    return jnp.einsum(subscripts, *arrays, precision=tree.HIGHEST)


def _inner(subscripts: str, *arrays: Array) -> Array:
    """An einsum that ends in small matrices, which are kept in at least float32."""
    wide = jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
    return jnp.einsum(subscripts, *arrays, precision=tree.HIGHEST, preferred_element_type=wide)
