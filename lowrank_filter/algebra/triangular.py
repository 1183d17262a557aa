"""Upper triangular matrices over a thousand parameters, by blocks: what is zero is not multiplied."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lowrank_filter.algebra import tree

# Columns that are eliminated at once: of 850 with ten rows more, 16 to 32 take 2 ms, 128 take 6, all together 14.
_PANEL = 32
# Columns of a block of a product or solve, of which each is a program of its own to the compiler.
_BLOCK = 160


class Appended(NamedTuple):
    """[R; V] = Q [R⁺; 0] with orthonormal columns Q, and what Qᵀ makes of a target [0; b].

    Attributes:
        root: R⁺, upper triangular.
        halfway: R⁺⁻ᵀVᵀb, its first D entries.
        unexplained: the sum of the squares of the others, min ‖R x‖² + ‖b − V x‖² over x.
    """

    root: Float[Array, "D D"]
    halfway: Float[Array, " D"]
    unexplained: Float[Array, ""]


@jax.custom_jvp
def appended(root: Float[Array, "D D"], rows: Float[Array, "n D"], target: Float[Array, " n"]) -> Appended:
    """Few rows below an upper triangular R, eliminated by Householder reflections of a panel of columns after the other
    (the "triangular-pentagonal" QR decomposition of LAPACK): O(D²n), and rounding is that of the QR of all together.

    In each panel the longest rows come first, so that short ones keep their own accuracy (Cox and Higham 1998,
    "Stability of Householder QR factorization for weighted least squares problems").
    """
    size, width = len(root), min(len(root), max(_PANEL, len(rows)))
    missing = -size % width
    unit = jnp.diag(jnp.asarray([0.0] * size + [1.0] * missing, root.dtype))
    above = jnp.pad(jnp.pad(root, (0, missing)) + unit, ((0, 0), (0, 1)))
    below = jnp.concatenate([jnp.pad(rows, ((0, 0), (0, missing))), target[:, None]], axis=1)

    def eliminate(panel: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        above, below = state
        both = jnp.concatenate([jax.lax.dynamic_slice_in_dim(above, panel * width, width), below])
        here = jax.lax.dynamic_slice_in_dim(both, panel * width, width, axis=1)
        order = jnp.argsort(-jnp.max(jnp.abs(here), axis=1))
        basis, _ = jnp.linalg.qr(here[order], mode="complete")
        both = jnp.matmul(basis[jnp.argsort(order)].T, both, precision=tree.HIGHEST)
        return jax.lax.dynamic_update_slice_in_dim(above, both[:width], panel * width, axis=0), both[width:]

    above, below = jax.lax.fori_loop(0, len(above) // width, eliminate, (above, below))
    return Appended(jnp.triu(above[:size, :size]), above[:size, -1], jnp.sum(below[:, -1] ** 2))


@appended.defjvp
def _appended_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Appended, Appended]:
    """dR⁺ = Φ(R⁺⁻ᵀ dG R⁺⁻¹) R⁺ with G = RᵀR + VᵀV, Φ the upper triangle with half the diagonal."""
    (root, rows, target), (d_root, d_rows, d_target) = primals, tangents
    found = appended(root, rows, target)

    def over(right: Array) -> Array:
        return jax.scipy.linalg.solve_triangular(found.root, right, trans="T")

    half = _matmul(d_root.T, root) + _matmul(d_rows.T, rows)
    middle = over(over(half + half.T).T)
    upper = jnp.triu(middle) - jnp.diag(jnp.diagonal(middle)) / 2
    d_found = _matmul(upper, found.root)
    pulled = _matmul(d_rows.T, target) + _matmul(rows.T, d_target)
    d_halfway = over(pulled - _matmul(d_found.T, found.halfway))
    d_unexplained = 2 * (jnp.vdot(target, d_target) - jnp.vdot(found.halfway, d_halfway))
    return found, Appended(d_found, d_halfway, d_unexplained)


def weighted_square(root: Float[Array, "D D"], weight: Float[Array, " D"]) -> Float[Array, "D D"]:
    """R diag(w) Rᵀ of an upper triangular R: its lower triangle, mirrored."""
    rows = []
    for start, stop in _blocks(len(root)):
        product = _matmul(root[start:stop, start:] * weight[start:], root[:stop, start:].T)
        rows.append(jnp.pad(product, ((0, 0), (0, len(root) - stop))))
    lower = jnp.concatenate(rows)
    return jnp.tril(lower) + jnp.tril(lower, -1).T


def solve(upper: Float[Array, "D D"], right: Float[Array, "D D"]) -> Float[Array, "D D"]:
    """U⁻¹R, both upper triangular."""
    columns = []
    for start, stop in _blocks(len(upper)):
        column = jax.scipy.linalg.solve_triangular(upper[:stop, :stop], right[:stop, start:stop])
        columns.append(jnp.pad(column, ((0, len(upper) - stop), (0, 0))))
    return jnp.concatenate(columns, axis=1)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK))


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=tree.HIGHEST)
