"""Precisions that are diagonal in a Kronecker-factored basis: one basis for each layer's units, one for its inputs."""

import dataclasses
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from lowrank_filter.algebra import saving, small_matrices, tree
from lowrank_filter.algebra.correction import PredictedFirst, correction
from lowrank_filter.algebra.example_gradients import Columns
from lowrank_filter.algebra.partition import Group, Layout
from lowrank_filter.algebra.precision import Correction, Curvature, KroneckerFactors, Misfit
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.registered import registered


class Diagonal(NamedTuple):
    """diag(S): what there is for parameters of no layer.

    Attributes:
        scale: S [1, m]. Positive in a belief; zeros are allowed in a site.
    """

    scale: Float[Array, "1 m"]

    def into(self, vector: Float[Array, "1 m"]) -> Float[Array, "1 m"]:
        """The coordinates in the basis, which is that of the parameters."""
        return vector

    def out_of(self, vector: Float[Array, "1 m"]) -> Float[Array, "1 m"]:
        """Back from the basis."""
        return vector

    def inverse_diagonal(self) -> Float[Array, "1 m"]:
        """1/S."""
        return 1 / self.scale

    def plus(self, other: Self) -> tuple[Self, "_SquaredMisfit"]:
        """The sum, exactly."""
        whole = jnp.sum(other.scale**2)
        return type(self)(self.scale + other.scale), _SquaredMisfit(jnp.zeros_like(whole), whole)


class Eigenbasis(NamedTuple):
    """(U ⊗ V) diag(S) (U ⊗ V)ᵀ: a symmetric matrix over a layer's [U, m] parameters, known by its eigenvectors.

    Attributes:
        units: U, the basis of the layer's outputs, columns.
        inputs: V, the basis of its inputs (with a one for the bias), columns.
        scale: S, the eigenvalues. Positive in a belief; zeros are allowed in a site.
    """

    units: Float[Array, "U U"]
    inputs: Float[Array, "m m"]
    scale: Float[Array, "U m"]

    def into(self, vector: Float[Array, "U m"]) -> Float[Array, "U m"]:
        """UᵀX V: the coordinates in the basis."""
        return _product(self.units.T, vector, self.inputs)

    def out_of(self, vector: Float[Array, "U m"]) -> Float[Array, "U m"]:
        """U X Vᵀ: back from the basis."""
        return _product(self.units, vector, self.inputs.T)

    def inverse_diagonal(self) -> Float[Array, "U m"]:
        """U^{∘2} (1/S) (V^{∘2})ᵀ."""
        return _product(self.units**2, 1 / self.scale, self.inputs.T**2)

    def diagonal_in(self, units: Float[Array, "U U"], inputs: Float[Array, "m m"]) -> Float[Array, "U m"]:
        """The diagonal of this matrix in another basis."""
        return _product(_matmul(units.T, self.units) ** 2, self.scale, _matmul(self.inputs.T, inputs) ** 2)

    def partial_traces(self) -> KroneckerFactors:
        """The sums over the other side: U diag(S 1) Uᵀ and V diag(Sᵀ1) Vᵀ."""
        return KroneckerFactors(
            _matmul(self.units * jnp.sum(self.scale, axis=1), self.units.T),
            _matmul(self.inputs * jnp.sum(self.scale, axis=0), self.inputs.T),
        )

    def plus(self, other: Self) -> tuple[Self, "_SquaredMisfit"]:
        """The exact diagonal of the sum in the basis of its partial traces, and what that leaves out.

        A term that is zero leaves everything as it is, bit for bit.
        """
        traces = jax.tree.map(jnp.add, self.partial_traces(), other.partial_traces())
        (_, units), (_, inputs) = map(small_matrices.eigendecompose, traces)
        mine, theirs = self.diagonal_in(units, inputs), other.diagonal_in(units, inputs)
        whole = jnp.sum(other.scale**2)
        # ‖P + X‖² − ‖S'‖², with ⟨P, X⟩ = Σ S ∘ diag(X in P's basis)
        across = jnp.sum(self.scale * other.diagonal_in(self.units, self.inputs)) - jnp.sum(mine * theirs)
        squares = jnp.sum(self.scale**2) - jnp.sum(mine**2) + whole - jnp.sum(theirs**2)
        left_out = jnp.where(whole > 0, jnp.maximum(squares + 2 * across, 0), 0)
        total = tree.select(whole > 0, type(self)(units, inputs, mine + theirs), self)
        return total, _SquaredMisfit(left_out, whole)


class _SquaredMisfit(NamedTuple):
    """Squared Frobenius norms of what a sum leaves out, and of the term that was added."""

    left_out: Float[Array, ""]
    whole: Float[Array, ""]


@registered
@dataclasses.dataclass(frozen=True)
class Kronecker(PredictedFirst):
    """P = (U ⊗ V) diag(S) (U ⊗ V)ᵀ for each layer, S of shape [U, m]; memory U² + m² + U·m a layer.

    Predicting, the smoothing gain, solves, determinants and draws are elementwise in the basis, and exact. A sum of two
    such matrices takes the eigenvectors of its partial traces for its new basis (U', V') and keeps its exact diagonal
    there,

        S' = (U'ᵀU)^{∘2} S (VᵀV')^{∘2} + the same of the other,

    which is the nearest matrix of that basis in the Frobenius norm; how far the sum was from it is the misfit.

    Process noise and transition are one scalar for each layer, which leave the basis where it is.

    Attributes:
        parts: one eigenbasis for each layer; for parameters of no layer a diagonal.
        layout: which parameters they are; static.
        reduce: how curvature shared over positions is factored, see :class:`KroneckerFactored`; static.
    """

    parts: tuple[Eigenbasis | Diagonal, ...]
    layout: Layout = dataclasses.field(metadata={"static": True})
    reduce: bool = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        """Its size and kind, no numbers."""
        return f"Kronecker({tree.described(self.layout.like())})"

    @property
    def rank(self) -> int:
        """There is no low-rank part."""
        return 0

    def in_structure(self, name: str, value: Tree, like: Tree) -> tuple[Array, ...]:
        """One scalar for each layer, and any prefix of the parameters for the rest."""
        sources = self.check_dynamics(name, value, like)
        whole = self.layout.split(tree.broadcast(value, like))
        return tuple(
            jnp.asarray(source, full.dtype) if group.layer else full
            for group, source, full in zip(self.layout.groups, sources, whole, strict=True)
        )

    def check_dynamics(self, name: str, value: Tree, like: Tree) -> list[Any]:
        """What each layer has of a noise or transition: one scalar."""
        checks.prefix(name, value, like)
        sources = checks.map_prefix(name, lambda leaf, covered: jax.tree.map(lambda _: (leaf,), covered), value, like)
        flat = jax.tree.leaves(sources, is_leaf=lambda node: isinstance(node, tuple) and len(node) == 1)
        return [
            _one_scalar(name, group, [flat[leaf][0] for leaf in group.leaves]) if group.layer else None
            for group in self.layout.groups
        ]

    def check(self, vector: Tree | None = None, *, positive: bool = True, name: str = "vector") -> None:
        """Positive eigenvalues, and a vector shaped like the parameters."""
        if positive:
            checks.positive("precision.scale", [part.scale for part in self.parts])
        if vector is not None:
            checks.same_shapes(name, vector, self.layout.like())

    def matvec(self, vector: Tree) -> Tree:
        """U(S ∘ UᵀX V)Vᵀ."""
        return self._in_basis(lambda part, x: part.scale * x, vector)

    def quadratic(self, vector: Tree) -> Float[Array, ""]:
        """Σ S ∘ (UᵀX V)²."""
        return _sum(part.scale * part.into(x) ** 2 for part, x in self._with_parts(vector))

    def solve(self, vector: Tree) -> Tree:
        """U(UᵀX V / S)Vᵀ."""
        return self._in_basis(lambda part, x: x / part.scale, vector)

    def whiten(self, vector: Tree) -> Tree:
        """UᵀX V / √S, in the places of the parameters."""
        return self.layout.join([part.into(x) * jax.lax.rsqrt(part.scale) for part, x in self._with_parts(vector)])

    def logdet(self) -> Float[Array, ""]:
        """Σ log S."""
        return _sum(jnp.log(part.scale) for part in self.parts)

    def logdet_over(self, before: Self) -> Float[Array, ""]:
        """Σ log S/S₀."""
        return _sum(jnp.log(part.scale / old.scale) for part, old in zip(self.parts, before.parts, strict=True))

    def inverse_diagonal(self) -> Tree:
        """U^{∘2} (1/S) (V^{∘2})ᵀ."""
        return self.layout.join([part.inverse_diagonal() for part in self.parts])

    def draw(self, key: Key[Array, ""], count: int) -> Tree:
        """U(Z / √S)Vᵀ, Z standard normal."""

        def one(key: Key[Array, ""]) -> Tree:
            keys = jax.random.split(key, len(self.parts))
            normals = [
                jax.random.normal(k, part.scale.shape, part.scale.dtype)
                for k, part in zip(keys, self.parts, strict=True)
            ]
            pairs = zip(self.parts, normals, strict=True)
            return self.layout.join([part.out_of(z * jax.lax.rsqrt(part.scale)) for part, z in pairs])

        return jax.vmap(one)(jax.random.split(key, count))

    def propagate(self, noise: Any, transition: Any) -> Self:
        """S ← S / (a² + q S); the basis does not move."""
        return self._scaled(lambda s, q, a: s / (a * a + q * s), noise, transition)

    def retrodict(self, noise: Any, transition: Any) -> Self:
        """S ← a² S / (1 + q S)."""
        return self._scaled(lambda s, q, a: a * a * s / (1 + q * s), noise, transition)

    def smoothing_gain(self, vector: Tree, noise: Any, transition: Any) -> Tree:
        """U(a/(a² + q S) ∘ UᵀX V)Vᵀ."""
        gains = self._scaled(lambda s, q, a: a / (a * a + q * s), noise, transition)
        return gains.matvec(vector)

    def _condition(self, columns: Columns, target: Float[Array, " n"]) -> tuple[Self, Self, Correction, Misfit]:
        """Data couple the layers: the correction is that of all together.

        The site is the Kronecker product with the partial traces of A Aᵀ, for each layer; exact where its columns are
        products of one input with several gradients, as those of one example are.
        """

        def part(group: Group, stack: Float[Array, "U n m"]) -> Eigenbasis | Diagonal:
            if not group.layer:
                return Diagonal(jnp.sum(stack**2, axis=1))
            units = jnp.einsum("uni,vni->uv", stack, stack, precision=tree.HIGHEST)
            inputs = jnp.einsum("uni,unj->ij", stack, stack, precision=tree.HIGHEST)
            trace = jnp.trace(inputs)
            return _eigenbasis(KroneckerFactors(units, inputs / jnp.where(trace > 0, trace, 1)))

        stack = columns.stack()
        parts = map(part, self.layout.groups, self.layout.split_stack(stack))
        site = self._with(parts)
        precision, misfit = self.add(site)
        return precision, site, correction(self, stack, target), misfit

    def approximate(self, curvature: Curvature, *, iterations: int | None) -> tuple[Self, Misfit]:
        """K-FAC: each layer's curvature as G ⊗ A; the diagonal of what no layer claims. How far that is from the
        curvature is not known."""
        factors = curvature.kronecker(self.layout, self.reduce)
        loose = [group for group in self.layout.groups if not group.layer]
        diagonals = self.layout.split(curvature.diagonal()) if loose else ()
        rest = dict(zip(self.layout.groups, diagonals, strict=True)) if loose else {}
        site = self._with(
            _eigenbasis(factors[group]) if group.layer else Diagonal(rest[group]) for group in self.layout.groups
        )
        nothing = jnp.zeros(())
        return site, Misfit(nothing, nothing)

    def add(self, other: Self, *, reference: Self | None = None) -> tuple[Self, Misfit]:
        """The sum, in the basis of its partial traces."""
        sums, misfits = zip(*map(_plus, self.parts, other.parts), strict=True)
        left_out, whole = jax.tree.map(lambda *squares: jnp.sqrt(sum(squares)), *misfits)
        return self._with(sums), Misfit(left_out, whole)

    def truncate(self, rank: int | None = None, *, reference: Self | None = None) -> Self:
        """There is nothing to truncate."""
        return self

    def _with_parts(self, vector: Tree) -> list[tuple[Eigenbasis | Diagonal, Array]]:
        return list(zip(self.parts, self.layout.split(vector), strict=True))

    def _in_basis(self, function: Any, vector: Tree) -> Tree:
        return self.layout.join([part.out_of(function(part, part.into(x))) for part, x in self._with_parts(vector)])

    def _scaled(self, function: Any, noise: Any, transition: Any) -> Self:
        parts = zip(self.parts, noise, transition, strict=True)
        return self._with(part._replace(scale=function(part.scale, q, a)) for part, q, a in parts)

    def _with(self, parts: Any) -> Self:
        return dataclasses.replace(self, parts=tuple(parts))


def diagonal(precision: Tree, layout: Layout, *, reduce: bool) -> Kronecker:
    """A diagonal precision; its layers' bases are the identity until data turn them."""

    def part(group: Group, diag: Float[Array, "U m"]) -> Eigenbasis | Diagonal:
        if not group.layer:
            return Diagonal(diag)
        units, inputs = diag.shape
        return Eigenbasis(jnp.eye(units, dtype=diag.dtype), jnp.eye(inputs, dtype=diag.dtype), diag)

    saving.known_to_flax(Kronecker, "parts")
    parts = zip(layout.groups, layout.split(precision), strict=True)
    return Kronecker(tuple(part(*pair) for pair in parts), layout, reduce)


def _eigenbasis(factors: KroneckerFactors) -> Eigenbasis:
    (units, unit_vectors), (inputs, input_vectors) = map(small_matrices.eigendecompose, factors)
    return Eigenbasis(unit_vectors, input_vectors, jnp.outer(jnp.maximum(units, 0), jnp.maximum(inputs, 0)))


def _plus(part: Any, other: Any) -> tuple[Any, _SquaredMisfit]:
    return part.plus(other)


def _one_scalar(name: str, group: Group, sources: list[Any]) -> Any:
    scalars = all(np.ndim(source) == 0 for source in sources)
    one = scalars and (
        all(source is sources[0] for source in sources)
        or (checks.concrete(sources) and all(float(source) == float(sources[0]) for source in sources))
    )
    if not one:
        came = ", ".join(str(np.shape(source)) if np.ndim(source) else str(source) for source in sources)
        raise ValueError(
            f"{name}: expected one scalar for the layer of {group.name}, since anything else would turn the basis of "
            f"its Kronecker precision; got {came}. Give a scalar for all layers, or for each layer's container, or use "
            'LowRank(k, blocks="unit")'
        )
    return sources[0]


def _matmul(left: Any, right: Any) -> Array:
    return jnp.matmul(left, right, precision=tree.HIGHEST)


def _product(left: Any, middle: Any, right: Any) -> Array:
    return _matmul(_matmul(left, middle), right)


def _sum(values: Any) -> Float[Array, ""]:
    return sum((jnp.sum(value) for value in values), start=jnp.zeros(()))
