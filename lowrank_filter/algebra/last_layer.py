"""The Jacobian of many outputs through the layer that makes them, never built.

With f = x W + b at features x of I ≪ C numbers, a row of the Jacobian is x in the output's own column of W, and W's
column times the features' Jacobian in all parameters before. So J D⁻¹Jᵀ, for a diagonal D, is a B×B block for each
output and a matrix of rank B·I, and a curvature w (diag(p) − ppᵀ) of each example leaves it solvable in that structure:
O(C·B² + (B·I + k + B)²) numbers instead of (B·C)².
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.algebra.example_gradients import Columns, Place, placed
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common.registered import registered


class Shares(NamedTuple):
    """S = √w (I − p1ᵀ) diag(√p) of each example: S Sᵀ = w (diag(p) − ppᵀ), a multinomial's curvature.

    Attributes:
        root: √p, of norm one.
        scale: √w, zero for examples that do not count.
    """

    root: Float[Array, "B C"]
    scale: Float[Array, " B"]

    @property
    def deviation(self) -> Float[Array, "B C"]:
        """√(w p)."""
        return self.scale[:, None] * self.root

    def times(self, weights: Float[Array, "*m B C"]) -> Float[Array, "*m B C"]:
        """S w."""
        return self.deviation * self._centred(weights)

    def transposed_times(self, vectors: Float[Array, "*m B C"]) -> Float[Array, "*m B C"]:
        """Sᵀv."""
        return self._centred(self.deviation * vectors)

    def variances(self) -> Float[Array, "B C"]:
        """w p(1 − p), the diagonal of S Sᵀ."""
        p = self.root**2
        return self.scale[:, None] ** 2 * p * (1 - p)

    def _centred(self, values: Array) -> Array:
        return values - self.root * jnp.sum(self.root * values, axis=-1, keepdims=True)


class OutputGram(NamedTuple):
    """J diag(v) Jᵀ of B examples' outputs.

    Attributes:
        own: of the outputs' own columns, a block for each.
        features: of the features [B·I, B·I]; None where no parameters are before the layer.
        kernel: W.
    """

    own: Float[Array, "C B B"]
    features: Float[Array, "n n"] | None
    kernel: Float[Array, "I C"]

    def times(self, vectors: Float[Array, "*m B C"]) -> Float[Array, "*m B C"]:
        """The product with vectors."""
        total = _einsum("cbd,...dc->...bc", self.own, vectors)
        if self.features is None:
            return total
        inner = _einsum("...bc,ic->...bi", vectors, self.kernel)
        inner = _einsum("mn,...n->...m", self.features, inner.reshape(*inner.shape[:-2], -1)).reshape(inner.shape)
        return total + _einsum("...bi,ic->...bc", inner, self.kernel)

    def diagonal(self) -> Float[Array, "B C"]:
        """Its diagonal."""
        own = jnp.diagonal(self.own, axis1=1, axis2=2).T
        if self.features is None:
            return own
        examples = own.shape[0]
        blocks = self.features.reshape(examples, -1, examples, len(self.kernel))

        def one(number: Array) -> Array:
            block = blocks[number, :, number]
            return jnp.sum(jnp.matmul(block, self.kernel, precision=tree.HIGHEST) * self.kernel, axis=0)

        return own + jax.lax.map(one, jnp.arange(examples))


@registered
@dataclasses.dataclass(frozen=True)
class LastLayer:
    """Jᵀ, as columns: of B examples one for each output.

    Attributes:
        inputs: the features x.
        kernel: W.
        hidden: the features' own columns, over the leaves that the layer does not take; None where it takes all.
        like: a vector that says what the parameters look like.
        places: where W is, and the bias if there is one; whole leaves. Static.
    """

    inputs: Float[Array, "B I"]
    kernel: Float[Array, "I C"]
    hidden: Columns | None
    like: Tree
    places: tuple[Place, ...] = dataclasses.field(metadata={"static": True})

    @property
    def size(self) -> int:
        """B·C."""
        return len(self.inputs) * self.kernel.shape[1]

    def gram(self, weight: Tree | None) -> OutputGram:
        """In a metric: ones if there is no weight."""
        x = self.inputs
        if weight is None:
            own, rest = jnp.broadcast_to(_einsum("bi,di->bd", x, x), (self.kernel.shape[1], len(x), len(x))), None
            own = own + (len(self.places) - 1)
        else:
            (kernel, *bias), rest = self._split(weight)
            own = _einsum("bdi,ic->cbd", x[:, None] * x[None], kernel)
            own = own + (bias[0][:, None, None] if bias else 0)
        wide = tree.wide_dtype(self.like)
        features = None if self.hidden is None else self.hidden.gram(rest)
        return OutputGram(own.astype(wide), features, self.kernel.astype(wide))

    def meet(self, stack: Tree) -> tuple[Float[Array, "k B C"], Float[Array, "k B I"] | None]:
        """⟨sᵢ, jₐ⟩ as far as a is in the layer, and of the features."""
        (kernel, *bias), rest = jax.vmap(self._split)(stack)
        own = _einsum("bi,kic->kbc", self.inputs, kernel) + (bias[0][:, None] if bias else 0)
        wide = tree.wide_dtype(self.like)
        if self.hidden is None:
            return own.astype(wide), None
        return own.astype(wide), self.hidden.against(rest).reshape(-1, *self.inputs.shape).astype(wide)

    def along(self, vector: Tree) -> Float[Array, "B C"]:
        """J v."""
        own, inner = self.meet(jax.tree.map(lambda leaf: leaf[None], vector))
        return own[0] if inner is None else own[0] + _einsum("bi,ic->bc", inner[0], self.kernel)

    def combine(self, coefficients: Float[Array, "m n"]) -> Tree:
        """The stack of Σ cᵢₐ jₐ."""
        each = coefficients.reshape(-1, len(self.inputs), self.kernel.shape[1]).astype(self.kernel.dtype)
        if len(self.inputs) == 1:  # a compiler then writes no product that is added to others
            arrays = [self.inputs[0][:, None] * each]
        else:
            arrays = [_einsum("mbi,mbc->mic", jnp.broadcast_to(self.inputs, (len(each), *self.inputs.shape)), each)]
        arrays += [jnp.sum(each, axis=1)] * (len(self.places) - 1)
        rest = None
        if self.hidden is not None:
            inner = _einsum("mbc,ic->mbi", each, self.kernel)
            rest = self.hidden.combine(inner.reshape(len(inner), -1))
        return self._joined(arrays, rest)

    def squares(self, shares: Shares) -> Tree:
        """diag(Jᵀ S Sᵀ J)."""
        variances = shares.variances().astype(self.kernel.dtype)
        arrays = [_einsum("bi,bc->ic", self.inputs**2, variances)[None]]
        arrays += [jnp.sum(variances, axis=0)[None]] * (len(self.places) - 1)
        rest = None
        if self.hidden is not None:
            # Of norm one, and scaled afterwards: what does not count adds nothing, whatever rounding adds to a root.
            def one(root: Array) -> Array:
                centred = self.kernel - jnp.matmul(self.kernel, root**2, precision=tree.HIGHEST)[:, None]
                weighted = centred * root
                return small_matrices.raised_root(jnp.matmul(weighted, weighted.T, precision=tree.HIGHEST))

            root = jax.lax.map(one, shares.root) * shares.scale[:, None, None]
            rest = jax.tree.map(lambda leaf: leaf[None], self.hidden.mixed(root).squares())
        return jax.tree.map(lambda leaf: leaf[0], self._joined(arrays, rest))

    def _split(self, vector: Tree) -> tuple[list[Array], list[Array]]:
        """What the layer takes of a vector, and the other leaves."""
        leaves = jax.tree.leaves(vector)
        own = {place.leaf for place in self.places}
        rest = [leaf for number, leaf in enumerate(leaves) if number not in own]
        return [place.select(leaves[place.leaf]) for place in self.places], rest

    def _joined(self, arrays: list[Array], rest: list[Array] | None) -> Tree:
        """A stack, of what the layer takes and the other leaves."""
        leaves, structure = jax.tree.flatten(self.like)
        here = {p.leaf: placed([p], [a], leaves[p.leaf]) for p, a in zip(self.places, arrays, strict=True)}
        others = iter(rest or ())
        return structure.unflatten([here[n] if n in here else next(others) for n in range(len(leaves))])


class Meeting(NamedTuple):
    """Products of [W, Jᵀ] with themselves in a metric, and those with a root S of the outputs' curvature.

    Attributes:
        gram: of Jᵀ.
        own, inner: of W with Jᵀ as far as that is in the layer, and with the features.
        old: of W.
    """

    gram: OutputGram
    own: Float[Array, "k B C"]
    inner: Float[Array, "k B I"] | None
    old: Float[Array, "k k"]

    @property
    def mixed(self) -> Float[Array, "k B C"]:
        """Of W with Jᵀ."""
        if self.inner is None:
            return self.own
        return self.own + _einsum("kbi,ic->kbc", self.inner, self.gram.kernel)

    def without_old(self) -> Self:
        """Of Jᵀ alone."""
        inner = None if self.inner is None else self.inner[:0]
        return self._replace(own=self.own[:0], inner=inner, old=self.old[:0, :0])

    def times(self, shares: Shares, vectors: Float[Array, "m n"]) -> Float[Array, "m n"]:
        """The Gram matrix of [W, JᵀS] with vectors."""
        count = len(self.old)
        mixed, first = self.mixed, vectors[:, :count]
        right = shares.times(vectors[:, count:].reshape(-1, *shares.root.shape))
        old = jnp.matmul(first, self.old, precision=tree.HIGHEST) + _einsum("kbc,mbc->mk", mixed, right)
        new = shares.transposed_times(_einsum("kbc,mk->mbc", mixed, first) + self.gram.times(right))
        return jnp.concatenate([old, new.reshape(len(new), -1)], axis=1)

    def trace(self, shares: Shares) -> Float[Array, ""]:
        """Of that matrix."""
        p = shares.root**2

        def middle(number: Array) -> Array:
            here = jnp.where((jnp.arange(len(p)) == number)[:, None], p * shares.scale[:, None], 0)
            return jnp.sum(here * self.gram.times(here))

        across = jnp.sum(jax.lax.map(middle, jnp.arange(len(p))))
        new = jnp.sum(shares.deviation**2 * self.gram.diagonal()) - across
        return jnp.trace(self.old) + jnp.maximum(new, 0)


class OutputCovariance(NamedTuple):
    """Σ = J P⁻¹Jᵀ for P = D + W Wᵀ, as J D⁻¹Jᵀ − Xᵀ(I + G)⁻¹X with G = WᵀD⁻¹W and X = WᵀD⁻¹Jᵀ.

    Attributes:
        meeting: in the metric D⁻¹.
        mixed: X.
        lower: the Cholesky factor of I + G.
    """

    meeting: Meeting
    mixed: Float[Array, "k B C"]
    lower: Float[Array, "k k"]

    @classmethod
    def of(cls, meeting: Meeting) -> Self:
        """Of products in that metric."""
        return cls(meeting, meeting.mixed, small_matrices.cholesky_plus_identity(meeting.old))

    @property
    def gram(self) -> OutputGram:
        """J D⁻¹Jᵀ."""
        return self.meeting.gram

    @property
    def old(self) -> Float[Array, "k k"]:
        """G."""
        return self.meeting.old

    def times(self, vector: Float[Array, "B C"]) -> Float[Array, "B C"]:
        """Σ v."""
        return self.gram.times(vector) + _einsum("k,kbc->bc", self.old_part(vector), self.mixed)

    def old_part(self, vector: Float[Array, "B C"]) -> Float[Array, " k"]:
        """−(I + G)⁻¹X v: P⁻¹Jᵀv = D⁻¹(Jᵀv + W c) with these c."""
        return -small_matrices.solve_positive(self.lower, _einsum("kbc,bc->k", self.mixed, vector))

    def variances(self) -> Float[Array, "B C"]:
        """Σ's diagonal."""
        size, examples, outputs = self.mixed.shape
        explained = small_matrices.solve_lower(self.lower, self.mixed.reshape(size, examples * outputs))
        return self.gram.diagonal() - jnp.sum(explained**2, axis=0).reshape(examples, outputs)

    def solver(self, shares: Shares) -> "Solver":
        """(I + SᵀΣS)⁻¹, as far as S can tell.

        diag(p) − ppᵀ is the precision diag(p) of outputs that an unknown offset of each example is added to: so
        I + SᵀΣS is K = I + diag(s)Σ diag(s), s = √(w p), with √p projected out (Rasmussen & Williams 2006, "Gaussian
        Processes for Machine Learning", section 3.5), and K is solved by Woodbury: first the outputs' own blocks, then
        the features, the old factor and the offsets.
        """
        gram, s = self.gram, shares.deviation
        size, outputs = s.shape
        own = jnp.eye(size, dtype=s.dtype) + s.T[:, :, None] * gram.own * s.T[:, None, :]
        half = jnp.reciprocal(jnp.sqrt(own)) if size == 1 else _in_parts(_inverse_root, own)
        logdet = -2 * jnp.sum(jnp.log(jnp.diagonal(half, axis1=1, axis2=2)))
        features, before = None, gram.features
        if before is not None:
            known = half * s.T[:, None, :]
            known = _einsum("ceb,ced->cbd", known, known).reshape(outputs, -1)

            def rows(weights: Array) -> Array:
                """Of what the outputs' own parts leave for the features to be known by, times those."""
                each = jnp.matmul(gram.kernel * weights, known, precision=tree.HIGHEST).reshape(-1, size, size)
                return jnp.matmul(each.transpose(2, 1, 0).reshape(size, -1), before, precision=tree.HIGHEST)

            whole = jax.lax.map(rows, gram.kernel)
            whole = whole.reshape(before.shape) + _by_feature(jnp.eye(len(before), dtype=s.dtype), size)
            features = jax.scipy.linalg.lu_factor(whole)
            logdet = logdet + jnp.sum(jnp.log(jnp.abs(small_matrices.diagonal(features[0]))))
        part = _DataPart(gram, s, half, features)
        count = len(self.mixed)

        def solved_side(number: Array) -> tuple[Array, Array]:
            side = jnp.where((jnp.arange(size) == number - count)[:, None], shares.root, 0)
            if count:
                side = side + jnp.where(number < count, self.mixed[jnp.minimum(number, count - 1)] * s, 0)
            found = part.solve(side)
            return found, _sides_times(self.mixed, shares, found)

        solved, cross = jax.lax.map(solved_side, jnp.arange(count + size))
        cross = (cross + cross.T) / 2
        lower, across = jnp.zeros((0, 0), s.dtype), jnp.zeros((0, size), s.dtype)
        inner = cross[count:, count:]
        if count:
            scale = jax.lax.rsqrt(1 + small_matrices.diagonal(self.old))
            rest = jnp.eye(count, dtype=s.dtype) + self.old - cross[:count, :count]
            lower = _definite(rest * jnp.outer(scale, scale)) / scale[:, None]
            across = small_matrices.solve_lower(lower, cross[:count, count:])
            inner = inner + _einsum("ka,kb->ab", across, across)
            logdet = logdet + small_matrices.logdet(lower) - small_matrices.logdet(self.lower)
        last = _definite(inner)
        return Solver(part, self.mixed, shares, solved, lower, across, last, logdet + small_matrices.logdet(last))


class _DataPart(NamedTuple):
    """(I + diag(s) J D⁻¹Jᵀ diag(s))⁻¹.

    Attributes:
        gram: J D⁻¹Jᵀ.
        deviation: s.
        half: of each output's own block the inverse of a Cholesky factor.
        features: the LU factors of I + N K, its rows by feature and example; K is the features' Gram matrix and N the
            precision with which the outputs know them.
    """

    gram: OutputGram
    deviation: Float[Array, "B C"]
    half: Float[Array, "C B B"]
    features: tuple[Array, Array] | None

    def solve(self, right: Float[Array, "B C"]) -> Float[Array, "B C"]:
        found = self._own(right)
        if self.features is None or self.gram.features is None:
            return found
        kernel = self.gram.kernel
        inner = _einsum("bc,ic->bi", self.deviation * found, kernel)
        inner = jax.scipy.linalg.lu_solve(self.features, inner.T.ravel())
        inner = jnp.matmul(self.gram.features, inner, precision=tree.HIGHEST).reshape(len(found), -1)
        return found - self._own(self.deviation * _einsum("bi,ic->bc", inner, kernel))

    def _own(self, right: Array) -> Array:
        return _einsum("ceb,ce->bc", self.half, _einsum("ceb,bc->ce", self.half, right))


class Solver(NamedTuple):
    """(I + SᵀΣS)⁻¹ on S's side, with log det(I + SᵀΣS).

    Attributes:
        part: what the diagonal alone gives.
        mixed, shares: the old factor's columns, and S.
        solved: what the diagonal alone makes of those and of √p, example by example.
        lower: the Cholesky factor of what is left of I + G, [k, k].
        across, last: the offsets, against that and their own.
        logdet: of I + SᵀΣS.
    """

    part: _DataPart
    mixed: Float[Array, "k B C"]
    shares: Shares
    solved: Float[Array, "m B C"]
    lower: Float[Array, "k k"]
    across: Float[Array, "k B"]
    last: Float[Array, "B B"]
    logdet: Float[Array, ""]

    def triangle(self, old: Float[Array, "k k"]) -> Float[Array, "m m"]:
        """A Cholesky factor of order k + 1 whose pivots say what elimination left of I + G."""
        met = jnp.maximum(1 + small_matrices.diagonal(old) - jnp.sum(self.lower**2, axis=1), 0)
        return jnp.block(
            [[jnp.ones((1, 1), met.dtype), jnp.zeros((1, len(met)))], [jnp.sqrt(met)[:, None], self.lower]]
        )

    def solve(self, target: Float[Array, "B C"]) -> Float[Array, "B C"]:
        """S (I + SᵀΣS)⁻¹v, of Sᵀ-side v; any multiple of √p in it makes no difference."""
        return self.part.deviation * self._projected(target)

    def _projected(self, target: Array) -> Array:
        count = len(self.lower)
        found = self.part.solve(target)
        met = _sides_times(self.mixed, self.shares, found)
        old = small_matrices.solve_lower(self.lower, met[:count]) if count else met[:0]
        offsets = small_matrices.solve_positive(
            self.last, met[count:] + jnp.matmul(old, self.across, precision=tree.HIGHEST)
        )
        if count:
            old = old - jnp.matmul(self.across, offsets, precision=tree.HIGHEST)
            old = small_matrices.solve_lower_transposed(self.lower, old)
        return found + _einsum("m,mbc->bc", jnp.concatenate([old, -offsets]), self.solved)


def _sides_times(mixed: Float[Array, "k B C"], shares: Shares, vector: Float[Array, "B C"]) -> Float[Array, " m"]:
    """Products with the old factor's columns, on S's side, and with √p of each example."""
    old = _einsum("kbc,bc->k", mixed, shares.deviation * vector)
    return jnp.concatenate([old, jnp.sum(shares.root * vector, axis=1)])


def _in_parts(function: Callable[[Array], Array], matrices: Float[Array, "C n n"]) -> Float[Array, "C n n"]:
    """A function of each of many small matrices, of so many at once that copies of them are few."""
    parts = next((p for p in range(8, 33) if len(matrices) % p == 0), 1)
    split = matrices.reshape(parts, -1, *matrices.shape[1:])
    return jax.lax.map(jax.vmap(function), split).reshape(matrices.shape)


def _by_feature(matrix: Float[Array, "n n"], size: int) -> Float[Array, "n n"]:
    """Rows by example and feature in the order by feature and example."""
    return matrix.reshape(size, -1, len(matrix)).transpose(1, 0, 2).reshape(matrix.shape)


def _inverse_root(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """L⁻¹ of a matrix that is the identity and more."""
    return small_matrices.inverse_lower(small_matrices.cholesky(matrix))


def _definite(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Cholesky factor, of a diagonal raised by rounding where it has to be."""
    first = small_matrices.cholesky(jax.lax.stop_gradient(matrix))
    return small_matrices.cholesky(small_matrices.raised(matrix, first))


def _einsum(subscripts: str, *arrays: Array) -> Array:
    return jnp.einsum(subscripts, *arrays, precision=tree.HIGHEST)
