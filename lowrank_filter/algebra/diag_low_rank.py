"""Diagonal plus low rank: P = diag(d) + Σᵢ wᵢwᵢᵀ."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from lowrank_filter.algebra import krylov, saving, small_matrices, tree
from lowrank_filter.algebra.correction import projected, whitened_covariances
from lowrank_filter.algebra.example_gradients import Columns, Combinable, Stack, Turned
from lowrank_filter.algebra.few_parameters import FewParameters, few_parameters
from lowrank_filter.algebra.last_layer import LastLayer, Meeting, OutputCovariance, Shares
from lowrank_filter.algebra.one_buffer import OneBuffer
from lowrank_filter.algebra.precision import Correction, Curvature, Misfit, Precision, Projection
from lowrank_filter.algebra.square_root import shortened, solve_few_parameters, solve_many_parameters
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.algebra.truncation import Policy, compress, inverse, principal
from lowrank_filter.common import checks
from lowrank_filter.common.registered import registered

# So few parameters that a square root of their whole precision costs next to nothing.
_FEW = 32
# Numbers of the columns as vectors over D, beyond which no step holds them all: it then does without square roots.
_ROOM = 2**25
# Of a variance, in roots of the rounding error, what Woodbury's difference has to leave.
_HALF = 16.0


@registered
@dataclasses.dataclass(frozen=True)
class DiagLowRank:
    """P = diag(d) + W Wᵀ over parameters that are a pytree; memory (k + 1)·D, no D×D matrix anywhere.

    Attributes:
        diag: d, a vector shaped like the parameters. Positive in a belief; zeros are allowed in a site.
        factor: Wᵀ, a stack of k such vectors: the same pytree with a leading axis of length k on every leaf.
        policy: how sums are cut: residual, metric and rank of its structure; static.
    """

    diag: Tree
    factor: Tree
    policy: Policy = dataclasses.field(default=Policy(), metadata={"static": True})

    def __post_init__(self) -> None:
        """Saved by flax, whoever made it."""
        saving.known_to_flax(DiagLowRank, "diag", "factor")

    def __iter__(self) -> Iterator[Tree]:
        """``diag, factor = precision``."""
        return iter((self.diag, self.factor))

    def _replace(self, **changes: Any) -> Self:
        """As of a tuple."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        """Its size, no numbers, and how many of them are stacked; the fields where what they hold are no arrays."""
        try:
            stack, one = tree.unstacked(self, lambda one: one.check(positive=False))
            return f"DiagLowRank{stack}({tree.described(one.diag)}, rank={one.rank})"
        except (AttributeError, TypeError, IndexError):
            return f"DiagLowRank(diag={self.diag!r}, factor={self.factor!r})"

    @property
    def rank(self) -> int:
        """k, the number of vectors in the factor."""
        return tree.length(self.factor)

    def in_structure(self, name: str, value: Tree, like: Tree) -> Tree:
        """Any prefix of the parameters will do; as a full vector."""
        return tree.broadcast(value, like)

    def check(self, vector: Tree | None = None, *, positive: bool = True, name: str = "vector") -> None:
        """A factor shaped like the diagonal, which is positive, and a vector of that shape too."""
        leading = jax.tree.leaves(self.factor)
        checks.same_shapes("precision.factor", self.factor, self.diag, leading=leading[0].shape[0] if leading else 0)
        if positive:
            checks.positive("precision.diag", self.diag)
        if vector is not None:
            checks.same_shapes(name, vector, self.diag)

    def matvec(self, vector: Tree) -> Tree:
        """P v = d v + W Wᵀv."""
        low_rank = tree.combine(tree.project(self.factor, vector), self.factor)
        return jax.tree.map(lambda d, v, w: d * v + w, self.diag, vector, low_rank)

    def quadratic(self, vector: Tree) -> Float[Array, ""]:
        """vᵀP v = Σ d v² + ‖Wᵀv‖²; half the work of a product, and its gradient is one product."""
        weighted = jax.tree.map(lambda d, v: d * v, self.diag, vector)
        return tree.inner(weighted, vector) + jnp.sum(tree.project(self.factor, vector) ** 2)

    def solve(self, vector: Tree) -> Tree:
        """P⁻¹v = D⁻¹(v − W K⁻¹ WᵀD⁻¹v), K = I + WᵀD⁻¹W (Woodbury)."""
        if self._few:
            return tree.unflat(self._dense().solve(tree.flat(vector)), self.diag)
        scaled = jax.tree.map(jnp.divide, vector, self.diag)
        coefficients = small_matrices.solve_positive(self._inner_cholesky(), tree.project(self.factor, scaled))
        low_rank = tree.combine(coefficients, self.factor)
        return jax.tree.map(lambda v, w, d: (v - w) / d, vector, low_rank, self.diag)

    def whiten(self, vector: Tree) -> Tree:
        """(I − A Xᵀ Aᵀ) D^{-1/2} v with A = D^{-1/2}W, X = L⁻ᵀ(I + L)⁻¹, L Lᵀ = I + AᵀA.

        Then (I − A X Aᵀ)(I − A X Aᵀ)ᵀ = (I + A Aᵀ)⁻¹: multiply out and use (I + L) = I + L.
        """
        if self._few:
            return tree.unflat(self._dense().whiten(tree.flat(vector)), self.diag)
        lower = self._inner_cholesky()
        root = jax.tree.map(jax.lax.rsqrt, self.diag)
        scaled = jax.tree.map(jnp.multiply, vector, root)
        projected = tree.project(self.factor, jax.tree.map(jnp.multiply, scaled, root))
        plus_identity = lower + jnp.eye(len(lower), dtype=lower.dtype)
        # Xᵀ p = (I + L)⁻ᵀ L⁻¹ p
        coefficients = small_matrices.solve_lower_transposed(
            plus_identity, small_matrices.solve_lower(lower, projected)
        )
        low_rank = tree.combine(coefficients, self.factor)
        return jax.tree.map(lambda v, w, r: v - w * r, scaled, low_rank, root)

    def logdet(self) -> Float[Array, ""]:
        """log det P = Σ log d + log det(I + WᵀD⁻¹W)."""
        if self._few:
            return self._dense().logdet()
        return tree.total(jnp.log, self.diag) + small_matrices.logdet(self._inner_cholesky())

    def logdet_over(self, before: Self) -> Float[Array, ""]:
        """Σ log(1 + (d − d₀)/d₀), and the difference of two small determinants."""
        if self._few or before._few:
            return self.logdet() - before.logdet()
        grown = jax.tree.map(lambda d, b: jnp.log1p((d - b) / b), self.diag, before.diag)
        small = small_matrices.logdet(self._inner_cholesky()) - small_matrices.logdet(before._inner_cholesky())
        return tree.total(lambda leaf: leaf, grown) + small

    def inverse_diagonal(self) -> Tree:
        """diag(P⁻¹) = (1 − h)/d with the leverages h = rowsum((D^{-1/2}W L⁻ᵀ)²).

        (P⁻¹)ᵢᵢ ≥ 1/Pᵢᵢ holds for every positive definite matrix; it bounds 1 − h from below where h rounds to one.
        """
        if self._few:
            return tree.unflat(self._dense().inverse_diagonal(), self.diag)
        reduced = tree.combine(small_matrices.inverse_lower(self._inner_cholesky()), self.factor)

        def leaf(d: Array, w: Array, v: Array) -> Array:
            leverage = jnp.sum(v * v, axis=0) / d
            return jnp.maximum(1 - leverage, d / (d + jnp.sum(w * w, axis=0))) / d

        return jax.tree.map(leaf, self.diag, self.factor, reduced)

    def draw(self, key: Key[Array, ""], count: int) -> Tree:
        """δ = D^{-1/2}z + D⁻¹W K⁻¹(ζ − WᵀD^{-1/2}z), z ~ N(0, I_D), ζ ~ N(0, I_k): covariance P⁻¹, in O(Dk).

        This is P⁻¹ applied to a draw D^{1/2}z + Wζ from N(0, P), simplified; it needs no eigenvectors, so nothing
        degenerates with a zero column. Over few parameters, P^{-1/2}z.
        """
        if self._few:
            dense = self._dense()
            normals = jax.random.normal(key, (count, len(dense.scale)), dense.scale.dtype)
            return tree.unflat_stack(jax.vmap(dense.unwhiten)(normals), self.diag)
        lower = self._inner_cholesky()

        def one(key: Key[Array, ""]) -> Tree:
            leaves, structure = jax.tree.flatten(self.diag)
            *keys, key_low_rank = jax.random.split(key, len(leaves) + 1)
            normals = [jax.random.normal(k, d.shape, d.dtype) / jnp.sqrt(d) for k, d in zip(keys, leaves, strict=True)]
            independent = jax.tree.unflatten(structure, normals)
            zeta = jax.random.normal(key_low_rank, (self.rank,), lower.dtype)
            coefficients = small_matrices.solve_positive(lower, zeta - tree.project(self.factor, independent))
            low_rank = tree.combine(coefficients, self.factor)
            return jax.tree.map(lambda x, w, d: x + w / d, independent, low_rank, self.diag)

        return jax.vmap(one)(jax.random.split(key, count))

    def propagate(self, noise: Tree, transition: Tree) -> Self:
        """(A P⁻¹ A + Q)⁻¹, exactly and without a subtraction, with one k×k Cholesky.

        r = 1/(a² + q d), M = I + Wᵀ diag(q r) W = L Lᵀ, d⁻ = r d, W⁻ = diag(a r) W L⁻ᵀ. With q = 0 and a = 1 the
        input comes back; d = 0 is allowed.
        """
        shrink, lower = self._propagation(noise, transition)
        factor = tree.combine(small_matrices.inverse_lower(lower), self.factor)
        return self._with(
            jax.tree.map(jnp.multiply, shrink, self.diag),
            jax.tree.map(lambda r, a, w: a * r * w, shrink, transition, factor),
        )

    def retrodict(self, noise: Tree, transition: Tree) -> Self:
        """A (P⁻¹ + Q)⁻¹ A: the same with a = 1, and the decay from outside."""
        message = self.propagate(noise, jax.tree.map(jnp.ones_like, self.diag))
        return self._with(
            jax.tree.map(lambda a, d: a * a * d, transition, message.diag),
            jax.tree.map(jnp.multiply, message.factor, transition),
        )

    def smoothing_gain(self, vector: Tree, noise: Tree, transition: Tree) -> Tree:
        """G v = r a v − q r W M⁻¹ Wᵀ(r a v), with r and M of :meth:`propagate`."""
        shrink, lower = self._propagation(noise, transition)
        scaled = jax.tree.map(lambda r, a, v: r * a * v, shrink, transition, vector)
        low_rank = tree.combine(small_matrices.solve_positive(lower, tree.project(self.factor, scaled)), self.factor)
        return jax.tree.map(lambda x, q, r, w: x - q * r * w, scaled, noise, shrink, low_rank)

    def project(self, columns: Columns, *, noise: Tree | None = None, transition: Tree | None = None) -> Projection:
        """AᵀP⁻¹A = AᵀD⁻¹A − XᵀX, X = L⁻¹WᵀD⁻¹A, L Lᵀ = I + WᵀD⁻¹W."""
        if tree.dimension(self.diag) <= self.rank + columns.size:
            predicted = self if noise is None or transition is None else self.propagate(noise, transition)
            return projected(predicted, columns.stack())._replace(predicted=None)
        old = self._prior(noise, transition)
        covariance, mixed, known = old.project(columns)
        return Projection(covariance, old, (mixed, known))

    def covariances(self, columns: Columns) -> Float[Array, "B n n"]:
        """The same of each, with one k×k matrix; where the difference lost half of its digits, of whitened columns."""
        if self._few:
            return whitened_covariances(self, columns)
        prior = self._prior(None, None)

        def difference(each: Columns) -> tuple[Array, Array]:
            covariance, _, known = prior.project(each)
            return covariance, jnp.diagonal(known)

        found, known = jax.vmap(difference)(columns)
        half = _HALF * jnp.sqrt(jnp.finfo(found.dtype).eps)
        lost = jnp.any(jnp.diagonal(found, axis1=1, axis2=2) < half * known)
        return jax.lax.cond(lost, lambda: whitened_covariances(self, columns).astype(found.dtype), lambda: found)

    def condition(
        self,
        columns: Columns,
        target: Float[Array, " n"],
        *,
        noise: Tree | None = None,
        transition: Tree | None = None,
        projection: Projection | None = None,
    ) -> tuple[Self, Self, Correction, Misfit]:
        """One Gram matrix K = UᵀD⁻¹U of U = [W, A] serves the correction and, in the relative metric, the truncation;
        where it lost digits, square roots do (docs/mathematics/conditioning.md).

        With I + K = L Lᵀ, step = D⁻¹U (I + K)⁻¹ [0; u]: the push-through identity (D + U Uᵀ)⁻¹U = D⁻¹U (I + K)⁻¹
        replaces D⁻¹(g − U (I + K)⁻¹UᵀD⁻¹g), which cancels where the data say much more than the prior. The
        log-determinant is that of L's lower right corner.

        A prediction on the way is not built either: its Gram matrices come from one pass over the old factor, and its
        k×k factor goes into the rotation of the truncation.
        """
        if tree.dimension(self.diag) <= self.rank + columns.size:
            predicted = self if noise is None or transition is None else self.propagate(noise, transition)
            return predicted._condition_few(columns, target)
        old = self._prior(noise, transition) if projection is None else projection.predicted
        variance = inverse(old.diag)
        products = None if projection is None else projection.products
        gram = _bordered(old.grams[0], *(products or (old.against(columns, variance), columns.gram(variance))))
        target = target.astype(gram.dtype)

        def plain(coefficients: Array) -> Tree:
            first, second = coefficients[None, : self.rank], coefficients[None, self.rank :]
            ends = old.factor.combine(first), columns.combine(second)
            return jax.tree.map(lambda a, b, v: (a + b)[0] * v, *ends, variance)

        roomy = len(gram) * tree.dimension(self.diag) <= _ROOM
        buffer = OneBuffer.of(old.diag, len(gram))

        def root() -> Tree:
            return jax.tree.map(jax.lax.rsqrt, buffer.vector(old.diag))

        def rows() -> Tree:
            joined = buffer.stack(tree.join((old.factor.stack(), columns.stack())))
            return jax.tree.map(jnp.multiply, joined, root())

        solution = solve_many_parameters(
            gram,
            jnp.concatenate([jnp.zeros(self.rank, gram.dtype), target]),
            plain,
            rows if roomy else None,
            lambda whole: buffer.vector_back(jax.tree.map(jnp.multiply, whole, root())),
        )
        logdet = 2 * jnp.sum(jnp.log(small_matrices.diagonal(solution.lower)[self.rank :]))
        along = None if solution.image is None else solution.image[self.rank :]
        correction = Correction(*solution[:3], logdet, solution.lower, along)

        weight, measured = variance, gram
        if self.policy.metric == "euclidean":
            weight, measured = None, _bordered(old.grams[1], old.against(columns, None), columns.gram(None))
        accurate = solution.short if roomy and solution.short is not None else False
        precision, misfit = self._rotated(old.diag, (old.factor, columns), measured, weight, accurate=accurate)
        new = measured[self.rank :, self.rank :]
        site, _ = self._rotated(tree.zeros(self.diag), (columns,), new, weight, accurate=accurate)
        return precision, site, correction, misfit

    def roomy(self, columns: int) -> bool:
        """Whether so many columns and the factor can be held as vectors over D."""
        return (self.rank + columns) * tree.dimension(self.diag) <= _ROOM

    def outputs_covariance(
        self, layer: LastLayer, *, noise: Tree | None = None, transition: Tree | None = None
    ) -> tuple[OutputCovariance, _Prior]:
        """:meth:`project` for the outputs of a layer, in its structure."""
        prior = self._prior(noise, transition)
        return OutputCovariance.of(prior.meeting(layer, inverse(prior.diag), prior.grams[0])), prior

    def condition_outputs(
        self,
        layer: LastLayer,
        shares: Shares,
        coefficients: Float[Array, "B C"],
        covariance: OutputCovariance,
        prior: _Prior,
    ) -> tuple[Self, Self, Tree, Misfit]:
        """:meth:`condition` on the columns JᵀS of a layer's outputs, for the coefficients c = S(I + SᵀΣS)⁻¹u: both
        precisions, the step D⁻¹(Jᵀc + W c') and the misfit.

        Nothing is decomposed that grows with the outputs: the leading directions are those of a Krylov space.
        """
        old = covariance.old_part(coefficients)
        ends = prior.factor.combine(old[None]), layer.combine(coefficients.reshape(1, -1))
        step = jax.tree.map(lambda a, b, d: (a + b)[0] / d, *ends, prior.diag)
        meeting = covariance.meeting
        if self.policy.metric == "euclidean":
            meeting = prior.meeting(layer, None, prior.grams[1])
        new, size = layer.squares(shares), layer.size
        nothing = jnp.all(shares.scale == 0)

        def cut(diag: Tree, meeting: Meeting, factor: Stack | Turned | None) -> tuple[Self, Misfit]:
            whole, count = meeting.trace(shares), len(meeting.old)

            def combined(rows: Array) -> tuple[Tree, Tree]:
                """Combinations of both, and of JᵀS alone."""
                weights = shares.times(rows[:, count:].reshape(-1, *shares.root.shape))
                added = layer.combine(weights.reshape(len(rows), -1))
                if factor is None:
                    return added, added
                return jax.tree.map(jnp.add, factor.accumulate(rows[:, :count]), added), added

            def squares(rows: Array) -> tuple[Tree, Tree]:
                """Of those, one after the other."""

                def add(total: tuple[Tree, Tree], row: Array) -> tuple[tuple[Tree, Tree], None]:
                    return jax.tree.map(lambda t, v: t + v[0] ** 2, total, combined(row[None])), None

                return jax.lax.scan(add, (tree.zeros(new), tree.zeros(new)), rows)[0]

            old = tree.zeros(new) if factor is None else factor.squares()
            if self._kept == 0:
                rest = jax.tree.map(jnp.add, old, new)
                return self._with(self._rest_added(diag, rest), tree.zeros(diag, 0)), Misfit(whole, whole)
            turn, squared = _leading(meeting, shares, self._kept)
            kept = combined(turn)[0]
            # What is left of W is what its vectors have beside those kept: a difference of W's squares and theirs would
            # leave rounding of W's, in every step of a stream.
            beside = jnp.eye(count, count + size, dtype=turn.dtype)
            beside = jax.lax.stop_gradient(krylov.reorthogonalised(beside, turn) if count else beside)
            rest = _derived(
                jax.tree.map(lambda a, k, z, n: z + jnp.maximum(a - k - n, 0), new, squares(turn)[1], *squares(beside)),
                jax.tree.map(lambda w, a, v: w + a - v, old, new, tree.squares(kept)),
            )
            left = jnp.maximum(whole - jnp.sum(squared), 0)
            if count <= self._kept:  # without data not a bit changes
                rest, left = jax.tree.map(lambda v: jnp.where(nothing, 0, v), (rest, left))
            return self._with(self._rest_added(diag, rest), tree.pad(kept, self._kept)), Misfit(left, whole)

        precision, misfit = cut(prior.diag, meeting, prior.factor)
        site, _ = cut(tree.zeros(self.diag), meeting.without_old(), None)
        return precision, site, step, misfit

    def _condition_few(self, columns: Columns, target: Float[Array, " n"]) -> tuple[Self, Self, Correction, Misfit]:
        """The same where the columns outnumber the parameters, with square roots of D×D matrices."""
        dense, added = self._dense(), tree.flat_stack(columns.stack())
        target = target.astype(added.dtype)
        solution = solve_few_parameters(dense.within(added), dense.upper, target)
        before, after = (jnp.log(jnp.abs(jnp.diagonal(m))) for m in (dense.upper, solution.lower))
        nothing = jnp.all(added == 0)
        step = tree.unflat(dense.without(solution.vector), self.diag)
        logdet = jnp.where(nothing, 0, 2 * jnp.sum(after - before))
        correction = Correction(step, *solution[1:3], logdet, solution.lower)

        weight = self._weight(self.diag)

        def cut(diag: Tree, rows: Array) -> tuple[Self, Misfit]:
            # In the diagonal's scale, so that the parameters' own scales cost no accuracy.
            short = shortened(rows * dense.scale) / dense.scale if len(rows) > rows.shape[1] else rows
            stack = Stack(tree.unflat_stack(short, self.diag))
            return self._rotated(diag, (stack,), stack.gram(weight), weight, accurate=True)

        precision, misfit = cut(self.diag, jnp.concatenate([tree.flat_stack(self.factor), added]))
        site, _ = cut(tree.zeros(self.diag), added)
        site = tree.select(nothing, jax.tree.map(jnp.zeros_like, site), site)
        if self._kept >= self.rank:  # without data not a bit changes
            unchanged = self._with(self.diag, tree.pad(self.factor, self._kept)), jax.tree.map(jnp.zeros_like, misfit)
            precision, misfit = tree.select(nothing, unchanged, (precision, misfit))
        return precision, site, correction, misfit

    def _prior(self, noise: Tree | None, transition: Tree | None) -> _Prior:
        """This matrix, or in the notation of :meth:`propagate` the predicted one, with W⁻ = diag(a r) W L⁻ᵀ.

        Its Gram matrix in its own metric is then L⁻¹ Wᵀ diag(a² r/d) W L⁻ᵀ.
        """
        if noise is None or transition is None:
            weights = [inverse(self.diag)]
            if self.policy.metric == "euclidean":
                weights.append(jax.tree.map(jnp.ones_like, self.diag))
            return _Prior(self.diag, Stack(self.factor), self.factor, tree.weighted_grams(self.factor, *weights))
        shrink = self._shrink(noise, transition)
        scale, diag = (jax.tree.map(jnp.multiply, shrink, v) for v in (transition, self.diag))
        weights = [jax.tree.map(jnp.multiply, noise, shrink), jax.tree.map(lambda s, d: s * s / d, scale, diag)]
        if self.policy.metric == "euclidean":
            weights.append(jax.tree.map(jnp.square, scale))
        spread, *grams = tree.weighted_grams(self.factor, *weights)
        turn = small_matrices.inverse_lower(small_matrices.cholesky_plus_identity(spread))
        grams = jnp.einsum("ij,njk,lk->nil", turn, jnp.stack(grams), turn, precision=tree.HIGHEST)
        return _Prior(diag, Turned(self.factor, turn, scale), self.factor, grams, turn, scale)

    def approximate(self, curvature: Curvature, *, iterations: int | None) -> tuple[Self, Misfit]:
        """The leading eigenvectors of H in the metric, and with ``residual="diagonal"`` the rest of diag(H).

        Where H has so few root columns that they fit in the room of the iteration, they are decomposed instead.
        """
        rank, policy = self._kept, self.policy
        room = krylov.room(rank, curvature.roots, iterations)
        pull, push = curvature.root_products()
        if curvature.columns <= room.vectors:
            columns = self._with(tree.zeros(self.diag), pull(curvature.start(curvature.columns)))
            site = columns.truncate(rank, reference=self)
            return site, cut_off(self, site, tree.squares(columns.factor))
        factor = tree.zeros(self.diag, 0)
        if rank > 0:
            factor = krylov.leading_columns(
                pull,
                push,
                curvature.start,
                jax.tree.map(jax.lax.rsqrt, self.diag) if policy.metric == "relative" else None,
                rank=rank,
                room=room,
                dimension=tree.dimension(self.diag),
            )
        diagonal = curvature.diagonal()
        rest = tree.zeros(self.diag) if policy.residual == "drop" else remainder(diagonal, factor)
        site = self._with(rest, factor)
        return site, cut_off(self, site, diagonal)

    def add(self, other: Self, *, reference: Self | None = None) -> tuple[Self, Misfit]:
        """diag(d + d') + the best rank-k part of W Wᵀ + W'W'ᵀ, in the metric of ``reference``'s diagonal (the sum's
        own if none is given)."""
        diag = jax.tree.map(jnp.add, self.diag, other.diag)
        weight = self._weight(diag if reference is None else reference.diag)
        columns = Stack(self.factor), Stack(other.factor)
        return self._rotated(diag, columns, _joint_gram(*columns, weight), weight)

    def truncate(self, rank: int | None = None, *, reference: Self | None = None) -> Self:
        """This matrix with its low-rank part cut to ``rank``, in the metric of ``reference``'s diagonal."""
        measure = self if reference is None else reference
        rank = self._kept if rank is None else rank
        factor, discarded = compress(self.factor, measure.diag, rank, metric=self.policy.metric)
        return self._with(self._rest_added(self.diag, discarded), factor)

    def _rotated(
        self,
        diag: Tree,
        columns: tuple[Combinable, ...],
        gram: Float[Array, "n n"],
        weight: Tree | None,
        *,
        accurate: Bool[Array, ""] | bool = False,
    ) -> tuple[Self, Misfit]:
        """diag + the columns' leading part, given their Gram matrix in the metric."""
        rank = self._kept
        if len(gram) <= rank:
            nothing = jnp.zeros((), gram.dtype)
            joined = tree.join(tuple(column.stack() for column in columns))
            return self._with(diag, tree.pad(joined, rank)), Misfit(nothing, nothing)
        kept, discarded, squared = principal(gram, columns, weight, rank, accurate)
        return self._with(self._rest_added(diag, discarded), kept), Misfit(jnp.sum(squared[rank:]), jnp.sum(squared))

    def _rest_added(self, diag: Tree, discarded: Tree) -> Tree:
        return diag if self.policy.residual == "drop" else jax.tree.map(jnp.add, diag, discarded)

    def _weight(self, diag: Tree) -> Tree | None:
        """The metric, relative to a diagonal."""
        return inverse(diag) if self.policy.metric == "relative" else None

    @property
    def _kept(self) -> int:
        return self.policy.kept(self.rank)

    def _with(self, diag: Tree, factor: Tree) -> Self:
        return dataclasses.replace(self, diag=diag, factor=factor)

    @property
    def _few(self) -> bool:
        """Whether to factorise all of P: Woodbury's differences cancel where the data say much more than the diagonal
        about most of the parameters, or about one whose diagonal is decades below the others'."""
        return self.rank > 0 and tree.dimension(self.diag) <= max(_FEW, 4 * self.rank)

    def _dense(self) -> FewParameters:
        return few_parameters(self.diag, self.factor)

    def _inner_cholesky(self) -> Float[Array, "k k"]:
        return small_matrices.cholesky_plus_identity(tree.weighted_gram(self.factor, inverse(self.diag)))

    def _shrink(self, noise: Tree, transition: Tree) -> Tree:
        """r of :meth:`propagate`."""
        return jax.tree.map(lambda a, q, d: 1 / (a * a + q * d), transition, noise, self.diag)

    def _propagation(self, noise: Tree, transition: Tree) -> tuple[Tree, Float[Array, "k k"]]:
        shrink = self._shrink(noise, transition)
        weight = jax.tree.map(jnp.multiply, noise, shrink)
        return shrink, small_matrices.cholesky_plus_identity(tree.weighted_gram(self.factor, weight))


def low_rank_parts(precision: Any) -> list[DiagLowRank]:
    """Where a precision, or anything that has some, is diagonal plus low rank: itself, its blocks or parts, nowhere."""
    return [part for part in jax.tree.leaves(precision, is_leaf=_is_low_rank) if _is_low_rank(part)]


def over_low_rank_parts(function: Callable[[DiagLowRank], DiagLowRank], precision: Any) -> Any:
    """The same with a function of each of them in its place."""
    return jax.tree.map(lambda n: function(n) if _is_low_rank(n) else n, precision, is_leaf=_is_low_rank)


def with_policy(precision: Any, **changes: Any) -> Any:
    """The same with other policies in all of them, as far as they are given."""
    return over_low_rank_parts(
        lambda part: dataclasses.replace(part, policy=part.policy._replace(**changes)), precision
    )


def _is_low_rank(node: Any) -> bool:
    return isinstance(node, DiagLowRank)


class Joined(NamedTuple):
    """Precisions over several leaves of few numbers as such over one array, and back; others as they are.

    Attributes:
        buffer: how vectors become one array.
    """

    buffer: OneBuffer

    @classmethod
    def of(cls, precision: Precision, like: Tree, *, columns: int | None = None) -> Self:
        """The rule of :class:`OneBuffer`, for a precision over vectors shaped like ``like`` and in its dtype, or for an
        update of it by so many columns."""
        if not isinstance(precision, DiagLowRank):
            return cls(OneBuffer(like, joined=False))
        if columns is None:
            return cls(OneBuffer.of(like, precision.rank + 1))
        return cls(OneBuffer.of(like, precision.rank + columns, by_layers=True))

    def precision(self, precision: Precision) -> Precision:
        """A precision over one array."""
        if not isinstance(precision, DiagLowRank):
            return precision
        return precision._with(self.buffer.vector(precision.diag), self.buffer.stack(precision.factor))

    def precision_back(self, precision: Precision) -> Precision:
        """The precision."""
        if not isinstance(precision, DiagLowRank):
            return precision
        return precision._with(self.buffer.vector_back(precision.diag), self.buffer.stack_back(precision.factor))


class _Prior(NamedTuple):
    """A diagonal plus low rank before the data, its factor perhaps not built.

    Attributes:
        diag: the diagonal.
        factor: the low-rank part's vectors.
        vectors: those that they are made of.
        grams: Gram matrices of the factor: relative to the diagonal, and Euclidean if that was asked for.
        turn, scale: how the factor is made of the vectors, see :class:`Turned`; None where it is they.
    """

    diag: Tree
    factor: Stack | Turned
    vectors: Tree
    grams: Float[Array, "n k k"]
    turn: Float[Array, "k k"] | None = None
    scale: Tree | None = None

    def project(self, columns: Columns) -> tuple[Float[Array, "n n"], Float[Array, "k n"], Float[Array, "n n"]]:
        """AᵀP⁻¹A, and the products that it is the difference of: WᵀD⁻¹A and AᵀD⁻¹A."""
        variance = inverse(self.diag)
        lower = small_matrices.cholesky_plus_identity(self.grams[0])
        mixed, known = self.against(columns, variance), columns.gram(variance)
        explained = small_matrices.solve_lower(lower, mixed)
        return known - tree.gram(explained.T, explained.T), mixed, known

    def against(self, columns: Columns, weight: Tree | None) -> Float[Array, "k n"]:
        """⟨wᵢ, aⱼ⟩ in a metric."""
        products = columns.against(self._weighted(self.vectors, weight))
        return products if self.turn is None else jnp.matmul(self.turn, products, precision=tree.HIGHEST)

    def meeting(self, layer: LastLayer, weight: Tree | None, old: Float[Array, "k k"]) -> Meeting:
        """Products with a layer's outputs in a metric, given those of the factor; vector by vector."""

        def one(vector: Tree) -> tuple[Array, Array | None]:
            weighted = jax.tree.map(lambda leaf: leaf[None], self._weighted(vector, weight))
            return jax.tree.map(lambda found: found[0], layer.meet(weighted))

        found = jax.lax.map(one, self.vectors)
        if self.turn is not None:
            found = tree.combine(self.turn, found)
        own, inner = found
        return Meeting(layer.gram(weight), own, inner, old)

    def _weighted(self, vectors: Tree, weight: Tree | None) -> Tree:
        """One of the vectors or all, scaled and in a metric."""
        given = [v for v in (self.scale, weight) if v is not None]
        return jax.tree.map(lambda w, *factors: functools.reduce(jnp.multiply, factors, w), vectors, *given)


@jax.custom_jvp
def _derived(value: Tree, same: Tree) -> Tree:
    """A value, with the derivative of the same one computed in another way."""
    return value


@_derived.defjvp
def _derived_jvp(primals: tuple, tangents: tuple) -> tuple[Tree, Tree]:
    return _derived(*primals), tangents[1]


def _leading(meeting: Meeting, shares: Shares, rank: int) -> tuple[Float[Array, "r n"], Float[Array, " r"]]:
    """The combinations of [W, JᵀS] that are its leading vectors, and their squares; W's own where S is zero."""
    count, size = len(meeting.old), shares.root.size
    whole, kept, dtype = count + size, min(rank, count + size), meeting.old.dtype

    def searched() -> tuple[Array, Array]:
        room = krylov.room(rank, 1 + count, None)
        known = min(count, room.width - 1)
        if whole <= room.vectors:
            blocks, start = 1, jnp.eye(whole, dtype=dtype)
        else:
            signs = jax.random.rademacher(jax.random.key(0), (room.width - known, size), dtype)
            blocks, start = room.blocks, jax.scipy.linalg.block_diag(jnp.eye(known, count, dtype=dtype), signs)
        product = functools.partial(meeting.times, shares)
        return krylov.leading_combinations(product, start, rank=kept, blocks=blocks)

    if count > rank:
        return searched()
    # A branch of its own holds the Krylov space no longer than it runs.
    unchanged = jnp.eye(kept, whole, dtype=dtype), jnp.zeros(kept, dtype)
    return jax.lax.cond(jnp.any(shares.scale > 0), searched, lambda: unchanged)


def _bordered(old: Float[Array, "k k"], mixed: Float[Array, "k n"], new: Float[Array, "n n"]) -> Float[Array, "m m"]:
    return jnp.block([[old, mixed], [mixed.T, new]])


def _joint_gram(old: Stack, columns: Stack, weight: Tree | None) -> Float[Array, "n n"]:
    """The Gram matrix of two stacks together; the mixed part is computed once."""
    vectors = old.vectors
    weighted = vectors if weight is None else jax.tree.map(jnp.multiply, vectors, weight)
    return _bordered(old.gram(weight), columns.against(weighted), columns.gram(weight))


def cut_off(prior: DiagLowRank, site: DiagLowRank, diagonal: Tree) -> Misfit:
    """The trace of a curvature with this diagonal, and of what its site's low-rank part leaves of it; in the metric of
    the diagonal that the two will have together."""
    rest = site.diag if prior.policy.residual == "diagonal" else remainder(diagonal, site.factor)
    if prior.policy.metric == "relative":
        rest, diagonal = (
            jax.tree.map(lambda v, d, s: v / (d + s), value, prior.diag, site.diag) for value in (rest, diagonal)
        )
    return Misfit(*(tree.total(lambda leaf: leaf, value) for value in (rest, diagonal)))


def remainder(diagonal: Tree, factor: Tree) -> Tree:
    """What of a matrix' diagonal its low-rank part W Wᵀ leaves; never negative."""
    return jax.tree.map(lambda h, w: jnp.maximum(h - w, 0), diagonal, tree.squares(factor))
