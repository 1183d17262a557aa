"""OSLA: the Kronecker-factored online Laplace approximation (Ritter, Botev and Barber 2018, arXiv 1805.07810)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import lowrank_filter as lf
from experiments.continual.learners.interface import (
    Fit,
    Hyper,
    Kept,
    Learner,
    Method,
    Task,
    Training,
    Tree,
    fitted,
    follow,
)
from experiments.continual.networks import Network
from lowrank_filter.common.registered import registered


class Product(NamedTuple):
    """G ⊗ A of one layer: G over its units, A over its inputs and the one for its bias; or a stack of T of them."""

    units: Float[Array, "*T U U"]
    inputs: Float[Array, "*T m m"]


@registered
@dataclasses.dataclass(frozen=True)
class Products:
    """Λ = τI + Σₜ Gₜ ⊗ Aₜ for each layer, as far as training needs it: a quadratic form.

    Attributes:
        prior: τ.
        count: how many terms there are.
        terms: for each layer a stack with room for T ≥ count terms.
        layout: which parameters they are; static.
        exact: whether terms are kept apart; else their sum is kept as the one nearest product; static.
    """

    prior: Float[Array, ""]
    count: Int[Array, ""]
    terms: tuple[Product, ...]
    layout: Any = dataclasses.field(metadata={"static": True})
    exact: bool = dataclasses.field(metadata={"static": True})

    def quadratic(self, vector: Tree) -> Float[Array, ""]:
        """δᵀΛδ. Its first derivative is right, its second is not: Λδ is computed once for both."""
        matrices = self.layout.split(vector)
        fixed = jax.lax.stop_gradient(matrices)
        products = jax.lax.stop_gradient([self._times(*pair) for pair in zip(self.terms, fixed, strict=True)])
        doubled = sum(jnp.vdot(2 * x - x0, p) for x, x0, p in zip(matrices, fixed, products, strict=True))
        return jnp.asarray(doubled)

    def coloured(self) -> Callable[[Tree], Tree] | None:
        """z ↦ Λ^{-1/2}z where Λ is one product."""
        if self.exact:
            return None
        parts = self.eigenbases()
        return lambda z: self.layout.join(
            [
                units @ (x * jax.lax.rsqrt(s)) @ inputs.T
                for (units, inputs, s), x in zip(parts, self.layout.split(z), strict=True)
            ]
        )

    def eigenbases(self) -> list[tuple[Array, Array, Array]]:
        """The one product of each layer with τI: eigenvectors of G and of A, and eigenvalues [U, m]."""
        found = []
        for term in self.terms:
            (units, unit_vectors), (inputs, input_vectors) = (jnp.linalg.eigh(factor) for factor in _first(term))
            found.append((unit_vectors, input_vectors, self.prior + jnp.maximum(jnp.outer(units, inputs), 0)))
        return found

    def plus(self, products: tuple[Product, ...]) -> Self:
        """One term more."""
        if self.exact:
            terms = jax.tree.map(lambda stack, new: stack.at[self.count].set(new), self.terms, products)
        else:
            terms = jax.tree.map(
                lambda old, new: jax.tree.map(lambda leaf: leaf[None], nearest(_first(old), new)),
                *(self.terms, products),
                is_leaf=lambda node: isinstance(node, Product),
            )
        return dataclasses.replace(self, terms=terms, count=self.count + 1 if self.exact else jnp.ones((), int))

    def _times(self, terms: Product, matrix: Float[Array, "U m"]) -> Float[Array, "U m"]:
        def add(term: Int[Array, ""], total: Array) -> Array:
            return total + terms.units[term] @ matrix @ terms.inputs[term]

        return jax.lax.fori_loop(0, self.count, add, self.prior * matrix)


def osla(tasks: int | None = None, *, fit: Fit = fitted) -> Learner:
    """Train with the penalty ½(θ − θₜ)ᵀΛₜ(θ − θₜ) around the last mode, then Λₜ₊₁ = Λₜ + α·K-FAC at the new one.

    A sum of Kronecker products is none, so there are two ways to keep it, and both are here.

    Args:
        tasks: keep the factors of each of so many tasks: the exact sum, whose memory, and time of a gradient step, grow
            with the number of tasks. None keeps the one product that is nearest to the last product plus the new term
            in the Frobenius norm: one pair of factors, whatever the number of tasks.
        fit: how it trains on a task.
    """

    def init(start: Tree, hyper: Hyper) -> lf.Belief:
        like: Any = lf.init(start, 1.0, structure="kronecker").precision
        room = tasks or 1
        terms = tuple(
            Product(jnp.zeros((room, units, units)), jnp.zeros((room, inputs, inputs)))
            for units, inputs in (part.scale.shape for part in like.parts)
        )
        prior = jnp.asarray(hyper["prior"], float)
        products: Any = Products(prior, jnp.zeros((), int), terms, like.layout, exact=tasks is not None)
        return lf.Belief(start, products)

    def step(
        network: Network, training: Training, belief: lf.Belief, task: Task, hyper: Hyper
    ) -> tuple[lf.Belief, Kept]:
        params = fit(network, training, belief, task, hyper)
        count = training.curvature_examples or len(task.y)
        _, info = lf.laplace_update(
            lf.init(params, 1.0, structure="kronecker"),
            *(params, network.apply, lf.Categorical(), task.x[:count], task.y[:count]),
            curvature_scale=hyper["curvature"] * len(task.y) / count,
            mask=jnp.broadcast_to(task.present, (count,)),
        )
        return lf.Belief(params, _plus(belief.precision, info.site)), Kept(params)

    return Learner(init, step, per_layer=True)


def nearest(first: Product, second: Product) -> Product:
    """The Kronecker product nearest to G₁ ⊗ A₁ + G₂ ⊗ A₂ in the Frobenius norm.

    Rearranged (Van Loan and Pitsianis 1993) the sum is a matrix of rank two, g₁a₁ᵀ + g₂a₂ᵀ, whose first singular pair
    lies in the span of the g and of the a: an eigenvector of a 2×2 matrix without negative entries, so that positive
    semi-definite factors stay so.
    """
    sizes = [[jnp.linalg.norm(factor) for factor in product] for product in (first, second)]
    units, inputs = (
        jnp.stack([part / jnp.where(size[side] > 0, size[side], 1) for part, size in zip(pair, sizes, strict=True)])
        for side, pair in enumerate(zip(first, second, strict=True))
    )
    scale = jnp.stack([size[0] * size[1] for size in sizes])
    of_units, of_inputs = (jnp.einsum("iab,jab->ij", stack, stack) for stack in (units, inputs))
    matrix = (scale[:, None] * of_inputs * scale) @ of_units
    weights = _perron(matrix / jnp.maximum(jnp.max(matrix), jnp.finfo(matrix.dtype).tiny))
    weights = weights / jnp.sqrt(jnp.maximum(weights @ of_units @ weights, jnp.finfo(matrix.dtype).tiny))
    return Product(
        jnp.einsum("i,iab->ab", weights, units), jnp.einsum("i,iab->ab", scale * (of_units @ weights), inputs)
    )


def _perron(matrix: Float[Array, "2 2"]) -> Float[Array, " 2"]:
    """The eigenvector of the largest eigenvalue of a matrix without negative entries: the sum of two parallel forms."""
    (a, b), (c, d) = matrix
    largest = (a + d) / 2 + jnp.sqrt(((a - d) / 2) ** 2 + b * c)
    return jnp.stack([b + jnp.maximum(largest - d, 0), c + jnp.maximum(largest - a, 0)])


@jax.jit
def _plus(precision: Any, site: Any) -> Any:
    return precision.plus(tuple(map(_product, site.parts)))


def _product(part: Any) -> Product:
    """The factors that a site was made of; what is of no layer is one unit with a diagonal."""
    if not hasattr(part, "partial_traces"):
        return Product(jnp.ones((1, 1), part.scale.dtype), jnp.diag(part.scale[0]))
    units, inputs = part.partial_traces()
    trace = jnp.trace(inputs)
    return Product(units, inputs / jnp.where(trace > 0, trace, 1))


def _first(stack: Product) -> Product:
    return Product(*(leaf[0] for leaf in stack))


_GRID = {"learning_rate": (3e-3,), "prior": (1.0,), "curvature": (3.0, 10.0, 30.0)}
METHODS = {"osla": Method({"osla": "last"}, _GRID, follow(osla()))}
