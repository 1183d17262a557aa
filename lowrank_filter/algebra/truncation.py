"""Truncated singular value decomposition of a stack of vectors, with gradients that survive degenerate spectra.

For a stack X (n vectors, the rows) and a positive diagonal E (the metric), X E^{-1/2} = V Σ Zᵀ. The principal stack
Y = VᵀX has YᵀY = XᵀX and rows orthogonal in the metric; its first k rows are the best rank-k part of XᵀX.

Two ways to get there, both a few Gram matrices and products:

- three passes: shifted Cholesky-QR of columns scaled to unit norm, repeated, then the SVD of the small triangular
  factor (Fukaya et al. 2020, "Shifted Cholesky QR"). Singular values keep the relative accuracy of Householder QR,
  where the eigenvalues of one Gram matrix lose everything below √eps of the largest.
- one pass: the eigenvectors of one Gram matrix, an orthogonal rotation. YᵀY + residual = XᵀX holds to rounding
  whatever the spectrum; only which of the directions below √eps of the largest are called small is less accurate.
  Sums are cut in this way: a step of a stream costs a third less.
"""

import functools
import operator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.algebra.example_gradients import Combinable, Stack
from lowrank_filter.algebra.one_buffer import OneBuffer, repeated
from lowrank_filter.algebra.tree import Tree

# Numbers of combinations held at once, where only their squares are wanted: 16 MiB of float32.
_NUMBERS = 2**22

Residual = Literal["diagonal", "drop"]
Metric = Literal["relative", "euclidean"]


class Policy(NamedTuple):
    """What a precision does where a sum has more directions than it has room for; static.

    Attributes:
        residual: "diagonal" adds the diagonal of what is truncated to d, "drop" forgets it.
        metric: "relative" keeps what is largest relative to d, "euclidean" what is largest.
        rank: how many directions are kept; None: as many as there were before.
    """

    residual: Residual = "diagonal"
    metric: Metric = "relative"
    rank: int | None = None

    def kept(self, rank: int) -> int:
        """How many that is of a precision of this rank."""
        return rank if self.rank is None else self.rank


class Principal(NamedTuple):
    """The leading part of a stack.

    Attributes:
        kept: the stack of the leading vectors, largest first.
        residual: Σ y² over the vectors left out, elementwise: the diagonal of what was discarded. Never negative.
        squared: all squared singular values in the metric, descending, shape [n].
    """

    kept: Tree
    residual: Tree
    squared: Float[Array, " n"]


def compress(stack: Tree, reference: Tree, rank: int, *, metric: Metric) -> tuple[Tree, Tree]:
    """Rank-``rank`` approximation of Σᵢ xᵢxᵢᵀ over a stack's vectors, small ones with full relative accuracy.

    Args:
        stack: n vectors.
        reference: the positive diagonal that ``metric="relative"`` measures against.
        rank: the number of vectors to keep; if n is smaller, zeros are appended and nothing is approximated.

    Returns:
        The kept stack, and the diagonal of the discarded part.
    """
    if tree.length(stack) <= rank:
        return tree.pad(stack, rank), tree.zeros(reference)
    weight = inverse(reference) if metric == "relative" else None
    columns = Stack(stack)
    kept, residual, _ = principal(columns.gram(weight), (columns,), weight, rank, True)
    return kept, residual


def inverse(diagonal: Tree) -> Tree:
    """1/d, elementwise."""
    return jax.tree.map(lambda d: 1 / d, diagonal)


def principal(
    gram: Float[Array, "n n"],
    columns: tuple[Combinable, ...],
    weight: Tree | None,
    keep: int,
    accurate: Bool[Array, ""] | bool,
) -> Principal:
    """The ``keep`` leading vectors of the columns together, in the metric Σ w x² (w = 1 if none), given their Gram
    matrix in it; ``accurate`` by three passes. Where that is decided by numbers, other cases pay for one.

    If every vector past the first ``keep`` is zero, the first ``keep`` come back bit for bit: there is nothing to
    discard, so an update without data changes nothing.

    Σ yyᵀ over the vectors kept, and over those left out, can be differentiated twice.
    """
    settled = jnp.all(small_matrices.diagonal(gram)[keep:] == 0) if keep < len(gram) else jnp.zeros((), bool)

    def once() -> Principal:
        return _one_pass(gram, columns, keep, settled)

    def thrice() -> Principal:
        one = jax.eval_shape(columns[0].combine, gram[:1, : columns[0].size])
        buffer = OneBuffer.of_stack(one, len(gram))
        here, measure = columns, weight
        if buffer.joined or (len(columns) > 1 and buffer.few):
            here = (Stack(buffer.stack(tree.join(tuple(column.stack() for column in columns)))),)
            measure = None if weight is None else buffer.vector(weight)
        found = _three_passes(gram, here, measure, keep, settled, accurate)
        return Principal(buffer.stack_back(found.kept), buffer.vector_back(found.residual), found.squared)

    if isinstance(accurate, bool):
        return thrice() if accurate else once()
    return jax.lax.cond(small_matrices.anywhere(accurate), thrice, once)


def _one_pass(gram: Array, columns: tuple[Combinable, ...], keep: int, settled: Array) -> Principal:
    """Rotate the vectors themselves, exact whatever the conditioning."""
    vectors = _eigenvectors(jax.lax.stop_gradient(gram))
    turn = _carried(gram, _or_identity(vectors, settled), settled, keep)
    squared = _squared(gram, turn)
    one = jax.eval_shape(functools.partial(_combine, columns=columns), turn[:1])
    # One product of few numbers; more of them would leave a CPU's cache before they are squared.
    if OneBuffer.of_stack(one, len(turn)).few:
        both = _combine(turn.T, columns)
        kept, rest = (jax.tree.map(operator.itemgetter(part), both) for part in (slice(keep), slice(keep, None)))
        return _settle(kept, tree.squares(rest), squared, settled)
    return _settle(_combine(turn.T[:keep], columns), _squares_of(turn.T[keep:], columns), squared, settled)


def _squares_of(coefficients: Float[Array, "m n"], columns: tuple[Combinable, ...]) -> Tree:
    """The sum of the squares of combinations, elementwise; so many at a time that they hold few numbers."""
    one = jax.eval_shape(functools.partial(_combine, columns=columns), coefficients[:1])
    count = max(1, _NUMBERS // tree.dimension(one))
    if len(coefficients) <= count:
        return tree.squares(_combine(coefficients, columns))
    parts = -(-len(coefficients) // count)
    filled = jnp.pad(coefficients, ((0, parts * count - len(coefficients)), (0, 0)))

    def add(total: Tree, some: Array) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, tree.squares(_combine(some, columns))), None

    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), one)
    return jax.lax.scan(add, start, filled.reshape(parts, count, -1))[0]


def _three_passes(
    gram: Array,
    columns: tuple[Combinable, ...],
    weight: Tree | None,
    keep: int,
    settled: Array,
    accurate: Bool[Array, ""] | bool,
) -> Principal:
    """From ever more orthonormal vectors, so that small ones are not drowned in the rounding of large ones; by one pass
    where ``accurate`` does not hold, as of one of many that are truncated at once."""
    fixed_gram, fixed, weight = jax.lax.stop_gradient((gram, columns, weight))

    # columns = lower @ basis, with basis ever closer to orthonormal rows
    def again(state: tuple) -> tuple:
        lower, gram, basis = state
        step, inverse = _orthogonalise(gram)
        vectors = Stack(_combine(inverse, basis))
        return jnp.matmul(lower, step, precision=tree.HIGHEST), vectors.gram(weight), (vectors,)

    small = isinstance(fixed[0], Stack) and len(fixed) == 1 and OneBuffer.of_stack(fixed[0].vectors).few
    start = jnp.eye(len(gram), dtype=gram.dtype), fixed_gram, fixed
    lower, _, basis = repeated(3, again, start, small=small)
    left, sigma, right = jnp.linalg.svd(lower)
    turn, values = sigma[:, None] * right, sigma**2
    if not isinstance(accurate, bool):
        rotation = _eigenvectors(fixed_gram)
        left, turn = jnp.where(accurate, left, rotation), jnp.where(accurate, turn, rotation.T)
        basis = tree.select(accurate, basis, (Stack(tree.join(tuple(column.stack() for column in fixed))),))
        values = jnp.where(accurate, values, _squared(fixed_gram, left))
    given = tree.join(tuple(column.stack() for column in fixed), keep)
    kept = tree.select(settled, given, _combine(turn[:keep], basis))
    vectors = _carried(gram, _or_identity(left, settled), settled, keep)
    image = jnp.sum(jnp.matmul(gram, vectors, precision=tree.HIGHEST) * vectors, axis=0)
    squared = jnp.where(settled, small_matrices.diagonal(fixed_gram), values) + image - jax.lax.stop_gradient(image)
    return _settle(
        _derived(kept, vectors.T[:keep], columns),
        tree.squares(_derived(_combine(turn[keep:], basis), vectors.T[keep:], columns)),
        squared,
        settled,
    )


def _eigenvectors(gram: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Of the largest eigenvalues first."""
    return jax.lax.linalg.eigh(gram, symmetrize_input=False)[0][:, ::-1]


def _squared(gram: Float[Array, "n n"], turn: Float[Array, "n n"]) -> Float[Array, " n"]:
    """What a Gram matrix says of the length of each combination."""
    return jnp.maximum(jnp.sum(jnp.matmul(gram, turn, precision=tree.HIGHEST) * turn, axis=0), 0)


def _settle(kept: Tree, residual: Tree, squared: Array, settled: Array) -> Principal:
    return Principal(kept, jax.tree.map(lambda r: jnp.where(settled, 0, r), residual), squared)


def _or_identity(vectors: Array, settled: Array) -> Array:
    return jnp.where(settled, jnp.eye(len(vectors), dtype=vectors.dtype), vectors)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _carried(
    gram: Float[Array, "n n"], vectors: Float[Array, "n n"], settled: Bool[Array, ""], keep: int
) -> Float[Array, "n n"]:
    """Eigenvectors of a Gram matrix, found without a derivative, with one: as G changes, the span of the first ``keep``
    follows the leading eigenvectors, and within the two spans nothing turns.

    So no gap matters but that between what is kept and what is not, and equal eigenvalues (zero columns!) do no harm.
    """
    return vectors


@_carried.defjvp
def _carried_jvp(keep: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The second-order expansion of an invariant subspace: in the eigenbasis, with E the change of G, the span of
    [I; X] is kept where E₂₁ + (Λ₂ + E₂₂)X = X(Λ₁ + E₁₁ + E₁₂X). The basis is [I; X](I − ½XᵀX)."""
    gram, vectors, settled = primals
    base, found = jax.lax.stop_gradient((gram, vectors))
    values = jnp.sum((base @ found) * found, axis=0)
    gap = values[None, :keep] - values[keep:, None]
    separate = (jnp.abs(gap) > small_matrices.rounding(values)) & ~settled

    def over_gap(cross: Array) -> Array:
        return jnp.where(separate, cross / jnp.where(separate, gap, 1), 0)

    def expansion(gram: Array) -> Array:
        change = found.T @ (gram - base) @ found
        first = over_gap(change[keep:, :keep])
        both = first + over_gap(change[keep:, keep:] @ first - first @ change[:keep, :keep])
        inside, outside = (jnp.eye(len(m), dtype=m.dtype) - m / 2 for m in (first.T @ first, first @ first.T))
        return found @ jnp.block([[inside, -both.T], [both, outside]])

    return _carried(*primals, keep), jax.jvp(expansion, (gram,), tangents[:1])[1]


@jax.custom_jvp
def _derived(value: Tree, coefficients: Float[Array, "m n"], columns: tuple[Combinable, ...]) -> Tree:
    """The columns' combinations, computed more accurately before; with their derivative."""
    return value


@_derived.defjvp
def _derived_jvp(primals: tuple, tangents: tuple) -> tuple[Tree, Tree]:
    return _derived(*primals), jax.jvp(_combine, primals[1:], tangents[1:])[1]


def _orthogonalise(gram: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """L and L⁻¹ with L Lᵀ ≈ G, columns scaled to unit norm before the Cholesky and zero columns left alone.

    The diagonal is raised by n units of rounding, and by what rounding made of the zero eigenvalues of columns that
    depend on others, which would leave a negative pivot.
    """
    eps = jnp.finfo(gram.dtype).eps
    norm = jnp.sqrt(small_matrices.diagonal(gram))
    inverse_norm = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
    scaled = small_matrices.unit_diagonal(gram * jnp.outer(inverse_norm, inverse_norm))
    lowest = jax.lax.linalg.eigh(scaled, symmetrize_input=False)[1][0]
    floor = len(gram) * eps + 2 * jnp.maximum(-lowest, 0)
    cholesky = small_matrices.cholesky(scaled + floor * jnp.eye(len(gram), dtype=gram.dtype))
    return cholesky * norm[:, None], small_matrices.inverse_lower(cholesky) * inverse_norm[None, :]


def _combine(coefficients: Float[Array, "m n"], columns: tuple[Combinable, ...]) -> Tree:
    """Linear combinations of all columns together."""
    ends, start = [], 0
    for column in columns:
        ends.append(column.combine(coefficients[:, start : start + column.size]))
        start += column.size
    return jax.tree.map(lambda *parts: functools.reduce(jnp.add, parts), *ends)
