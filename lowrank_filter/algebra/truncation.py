"""Truncated singular value decomposition of a stack of vectors, with gradients that survive degenerate spectra.

For a stack X (n vectors, the rows) and a positive diagonal E (the metric), X E^{-1/2} = V Σ Zᵀ. The principal stack
Y = VᵀX has YᵀY = XᵀX and rows orthogonal in the metric; its first k rows are the best rank-k part of XᵀX.

Two ways to get there, both a few Gram matrices and products:

- ``passes=3``: shifted Cholesky-QR of columns scaled to unit norm, repeated, then the SVD of the small triangular
  factor (Fukaya et al. 2020, "Shifted Cholesky QR"). Singular values keep the relative accuracy of Householder QR,
  where the eigenvalues of one Gram matrix lose everything below √eps of the largest.
- ``passes=1``: the eigenvectors of one Gram matrix, an orthogonal rotation. YᵀY + residual = XᵀX holds to rounding
  whatever the spectrum; only which of the directions below √eps of the largest are called small is less accurate.
  Sums are cut in this way: a step of a stream costs a third less.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.example_gradients import Combinable, Stack
from lowrank_filter.algebra.small_matrices import inverse_lower
from lowrank_filter.algebra.tree import Tree

Residual = Literal["diagonal", "drop"]
Metric = Literal["relative", "euclidean"]


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
    kept, residual, _ = principal(columns.gram(weight), (columns,), weight, rank, 3)
    return kept, residual


def inverse(diagonal: Tree) -> Tree:
    """1/d, elementwise."""
    return jax.tree.map(lambda d: 1 / d, diagonal)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def principal(
    gram: Float[Array, "n n"], columns: tuple[Combinable, ...], weight: Tree | None, keep: int, passes: int
) -> Principal:
    """The ``keep`` leading vectors of the columns together, in the metric Σ w x² (w = 1 if none), given their Gram
    matrix in it.

    If every vector past the first ``keep`` is zero, the first ``keep`` come back bit for bit: there is nothing to
    discard, so an update without data changes nothing.
    """
    return _decompose(gram, columns, weight, keep, passes)[0]


@principal.defjvp
def _principal_jvp(keep, passes, primals, tangents):
    """First-order perturbation theory of the singular vectors.

    With dV = VΩ, Ω_ij = (Vᵀ dG V)_ij / (λ_j − λ_i). Inside a group of equal eigenvalues (zero columns!) Ω is set to
    zero: it turns the group's vectors among themselves, which changes neither Σ yyᵀ nor the residual.
    """
    gram, columns, weight = primals
    d_gram, d_columns, _ = tangents
    out, vectors, settled = _decompose(gram, columns, weight, keep, passes)
    rotated = vectors.T @ d_gram @ vectors
    gap = out.squared[None, :] - out.squared[:, None]
    size = len(gap) * jnp.finfo(gap.dtype).eps * jnp.max(out.squared)
    separate = (jnp.abs(gap) > size) & ~settled
    turn = jnp.where(separate, rotated / jnp.where(separate, gap, 1), 0)
    principal_all, moved = jax.jvp(lambda stacks: _combine(vectors.T, stacks), (columns,), (d_columns,))
    d_all = jax.tree.map(jnp.add, moved, tree.combine(turn.T, principal_all))
    d_residual = jax.tree.map(lambda y, dy: 2 * jnp.sum(y[keep:] * dy[keep:], axis=0), principal_all, d_all)
    d_out = Principal(jax.tree.map(lambda y: y[:keep], d_all), d_residual, jnp.diagonal(rotated))
    return out, d_out


def _decompose(gram, columns, weight, keep, passes) -> tuple[Principal, Float[Array, "n n"], Bool[Array, ""]]:
    """The principal stack, the rotation V (columns) that leads to it, and whether there was nothing to discard."""
    n, dtype = len(gram), gram.dtype
    settled = jnp.all(jnp.diagonal(gram)[keep:] == 0) if keep < n else jnp.zeros((), bool)
    if passes == 1:
        values, left = jnp.linalg.eigh(gram)
        squared, left = jnp.maximum(values[::-1], 0), left[:, ::-1]
        # Rotate the vectors themselves, exact whatever the conditioning.
        basis, turn = columns, jnp.where(settled, jnp.eye(n, dtype=dtype), left.T)
        kept = _combine(turn[:keep], basis)
    else:
        # columns = lower @ basis, with basis ever closer to orthonormal rows
        lower, pending = _orthogonalise(gram)
        basis = columns
        for _ in range(passes - 1):
            basis = (Stack(_combine(pending, basis)),)
            step, pending = _orthogonalise(basis[0].gram(weight))
            lower = jnp.matmul(lower, step, precision=tree.HIGHEST)
        left, sigma, right = jnp.linalg.svd(lower)
        # Build them from the orthonormal basis, so that small ones are not drowned in the rounding of large ones.
        squared, turn = sigma**2, jnp.matmul(sigma[:, None] * right, pending, precision=tree.HIGHEST)
        given = tree.join(tuple(column.stack() for column in columns), keep)
        kept = tree.select(settled, given, _combine(turn[:keep], basis))
    rest = _combine(turn[keep:], basis)
    residual = jax.tree.map(lambda r: jnp.where(settled, 0, r), tree.squares(rest))
    squared = jnp.where(settled, jnp.diagonal(gram), squared)
    return Principal(kept, residual, squared), jnp.where(settled, jnp.eye(n, dtype=dtype), left), settled


def _orthogonalise(gram: Float[Array, "n n"]) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """L and L⁻¹ with L Lᵀ ≈ G, columns scaled to unit norm before the Cholesky and zero columns left alone.

    The diagonal is raised by n units of rounding, and by what rounding made of the zero eigenvalues of columns that
    depend on others, which would leave a negative pivot.
    """
    eps = jnp.finfo(gram.dtype).eps
    norm = jnp.sqrt(jnp.diagonal(gram))
    inverse_norm = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
    scaled = jnp.fill_diagonal(gram * jnp.outer(inverse_norm, inverse_norm), 1, inplace=False)
    lowest = jnp.linalg.eigvalsh(scaled)[0]
    floor = len(gram) * eps + 2 * jnp.maximum(-lowest, 0)
    cholesky = jnp.linalg.cholesky(scaled + floor * jnp.eye(len(gram), dtype=gram.dtype))
    return cholesky * norm[:, None], inverse_lower(cholesky) * inverse_norm[None, :]


def _combine(coefficients: Float[Array, "m n"], columns: tuple[Combinable, ...]) -> Tree:
    """Linear combinations of all columns together."""
    ends, start = [], 0
    for column in columns:
        ends.append(column.combine(coefficients[:, start : start + column.size]))
        start += column.size
    return jax.tree.map(lambda *parts: functools.reduce(jnp.add, parts), *ends)
