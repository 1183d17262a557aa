"""Block-diagonal precisions, every block diagonal plus low rank: one for each layer or for each unit."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lowrank_filter.algebra import krylov, saving, tree
from lowrank_filter.algebra.correction import PredictedFirst, correction
from lowrank_filter.algebra.diag_low_rank import DiagLowRank, cut_off, remainder
from lowrank_filter.algebra.example_gradients import Columns, Stack
from lowrank_filter.algebra.partition import Layout
from lowrank_filter.algebra.precision import Correction, Curvature, Misfit
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.algebra.truncation import Policy
from lowrank_filter.common import checks
from lowrank_filter.common.registered import registered


@registered
@dataclasses.dataclass(frozen=True)
class Blocks(PredictedFirst):
    """P with blocks Pᵤ = diag(dᵤ) + WᵤWᵤᵀ on its diagonal and nothing beside them; memory (k + 1)·D.

    Every operation is that of :class:`DiagLowRank`, mapped over the blocks.

    Attributes:
        parts: for each group of blocks alike, their diagonals [U, m] and factors [U, k, m].
        layout: which parameters they are; static.
    """

    parts: tuple[DiagLowRank, ...]
    layout: Layout = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        """Its size and kind, no numbers."""
        count = sum(part.diag.shape[-2] for part in self.parts)
        return f"Blocks({tree.described(self.layout.like())}, rank={self.rank}, {checks.counted(count, 'block')})"

    @property
    def rank(self) -> int:
        """k, the number of vectors in each block's factor."""
        return self.parts[0].factor.shape[-2]

    def in_structure(self, name: str, value: Tree, like: Tree) -> tuple[Float[Array, "_U _m"], ...]:
        """Any prefix of the parameters will do; in blocks."""
        return self.layout.split(tree.broadcast(value, like))

    def check(self, vector: Tree | None = None, *, positive: bool = True, name: str = "vector") -> None:
        """Positive diagonals, and a vector shaped like the parameters."""
        if positive:
            checks.positive("precision.diag", [part.diag for part in self.parts])
        if vector is not None:
            checks.same_shapes(name, vector, self.layout.like())

    def matvec(self, vector: Tree) -> Tree:
        """Pᵤvᵤ for each block."""
        return self.layout.join(_each(DiagLowRank.matvec)(self.parts, self.layout.split(vector)))

    def quadratic(self, vector: Tree) -> Float[Array, ""]:
        """Σ vᵤᵀPᵤvᵤ."""
        return _sum(DiagLowRank.quadratic, self.parts, self.layout.split(vector))

    def solve(self, vector: Tree) -> Tree:
        """Pᵤ⁻¹vᵤ for each block."""
        return self.layout.join(_each(DiagLowRank.solve)(self.parts, self.layout.split(vector)))

    def whiten(self, vector: Tree) -> Tree:
        """Rᵤvᵤ for each block, RᵤᵀRᵤ = Pᵤ⁻¹."""
        return self.layout.join(_each(DiagLowRank.whiten)(self.parts, self.layout.split(vector)))

    def logdet(self) -> Float[Array, ""]:
        """Σ log det Pᵤ."""
        return _sum(DiagLowRank.logdet, self.parts)

    def logdet_over(self, before: Self) -> Float[Array, ""]:
        """The sum over the blocks."""
        return _sum(DiagLowRank.logdet_over, self.parts, before.parts)

    def inverse_diagonal(self) -> Tree:
        """The diagonals of all Pᵤ⁻¹."""
        return self.layout.join(_each(DiagLowRank.inverse_diagonal)(self.parts))

    def draw(self, key: Key[Array, ""], count: int) -> Tree:
        """Independent draws for each block."""
        keys = [
            jax.random.split(part_key, len(part.diag))
            for part_key, part in zip(jax.random.split(key, len(self.parts)), self.parts, strict=True)
        ]
        return self.layout.join_stack(_each(lambda part, key: part.draw(key, count))(self.parts, keys))

    def propagate(self, noise: Any, transition: Any) -> Self:
        """(A Pᵤ⁻¹ A + Q)⁻¹ for each block."""
        return self._with(_each(DiagLowRank.propagate)(self.parts, noise, transition))

    def retrodict(self, noise: Any, transition: Any) -> Self:
        """A (Pᵤ⁻¹ + Q)⁻¹ A for each block."""
        return self._with(_each(DiagLowRank.retrodict)(self.parts, noise, transition))

    def smoothing_gain(self, vector: Tree, noise: Any, transition: Any) -> Tree:
        """Gᵤvᵤ for each block."""
        gain = _each(DiagLowRank.smoothing_gain)
        return self.layout.join(gain(self.parts, self.layout.split(vector), noise, transition))

    def _condition(self, columns: Columns, target: Float[Array, " n"]) -> tuple[Self, Self, Correction, Misfit]:
        """Data couple the blocks: the correction is that of all together. Each block takes its rows of the columns."""
        stack = columns.stack()

        def one(part: DiagLowRank, rows: Float[Array, "n m"]) -> tuple[DiagLowRank, DiagLowRank, Misfit]:
            kept, site, _, misfit = part.condition(Stack(rows), jnp.zeros(len(rows), rows.dtype))
            return kept, site, misfit

        kept, sites, misfits = zip(*_each(one)(self.parts, self.layout.split_stack(stack)), strict=True)
        return self._with(kept), self._with(sites), correction(self, stack, target), _together(misfits)

    def approximate(self, curvature: Curvature, *, iterations: int | None) -> tuple[Self, Misfit]:
        """The leading eigenvectors of H's diagonal blocks, and with ``residual="diagonal"`` the rest of diag(H)."""
        diags = tuple(part.diag for part in self.parts)
        policy = self.parts[0].policy
        rank = policy.kept(self.rank)
        room = krylov.room(rank, curvature.roots, iterations)
        pull, _ = curvature.root_products()

        def cut(site: Blocks, diagonal: Any) -> Misfit:
            return _together(_each(cut_off)(self.parts, site.parts, diagonal))

        if curvature.columns <= room.vectors:
            stacks = self.layout.split_stack(pull(curvature.start(curvature.columns)))
            columns = self._of(jax.tree.map(jnp.zeros_like, diags), stacks)
            site = columns.truncate(rank, reference=self)
            return site, cut(site, _each(tree.squares)(stacks))
        factors = tuple(jnp.zeros((len(diag), 0, diag.shape[1]), diag.dtype) for diag in diags)
        if rank > 0:
            factors = krylov.leading(
                lambda stack: curvature.block_product(self.layout, stack),
                lambda count: self.layout.split_stack(pull(curvature.start(count))),
                jax.tree.map(jax.lax.rsqrt, diags) if policy.metric == "relative" else None,
                rank=rank,
                room=room,
                dimension=max(diag.shape[1] for diag in diags),
                each=_each,
            )
        diagonal = self.layout.split(curvature.diagonal())
        rest = jax.tree.map(jnp.zeros_like, diags) if policy.residual == "drop" else _each(remainder)(diagonal, factors)
        site = self._of(rest, factors)
        return site, cut(site, diagonal)

    def add(self, other: Self, *, reference: Self | None = None) -> tuple[Self, Misfit]:
        """The sum of each block, truncated; what did not fit is summed over the blocks."""
        measures = (None,) * len(self.parts) if reference is None else reference.parts
        sums, misfits = zip(*_each(_sum_of)(self.parts, other.parts, measures), strict=True)
        return self._with(sums), _together(misfits)

    def truncate(self, rank: int | None = None, *, reference: Self | None = None) -> Self:
        """Each block truncated."""
        measures = (self if reference is None else reference).parts
        return self._with(_each(lambda part, measure: part.truncate(rank, reference=measure))(self.parts, measures))

    def _of(self, diags: Any, factors: Any) -> Self:
        policy = self.parts[0].policy
        return self._with(DiagLowRank(*part, policy) for part in zip(diags, factors, strict=True))

    def _with(self, parts: Any) -> Self:
        return dataclasses.replace(self, parts=tuple(parts))


def diagonal(precision: Tree, rank: int, layout: Layout, policy: Policy) -> Blocks:
    """A diagonal precision with room for ``rank`` directions in each block."""
    saving.known_to_flax(Blocks, "parts")
    return Blocks(
        tuple(
            DiagLowRank(diag, jnp.zeros((len(diag), rank, diag.shape[1]), diag.dtype), policy)
            for diag in layout.split(precision)
        ),
        layout,
    )


def _each(function: Callable) -> Callable:
    """A function of one block, over all blocks: vmapped within each group, applied to the groups in turn."""
    return lambda *parts: tuple(jax.vmap(function)(*group) for group in zip(*parts, strict=True))


def _sum_of(part: DiagLowRank, other: DiagLowRank, measure: DiagLowRank | None) -> tuple[DiagLowRank, Misfit]:
    return part.add(other, reference=measure)


def _together(misfits: Sequence[Misfit]) -> Misfit:
    return jax.tree.map(lambda *values: sum(jnp.sum(value) for value in values), *misfits)


def _sum(function: Callable, *parts: Any) -> Float[Array, ""]:
    return sum((jnp.sum(values) for values in _each(function)(*parts)), start=jnp.zeros(()))
