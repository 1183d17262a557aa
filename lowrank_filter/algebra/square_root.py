"""Square roots of I + V Vᵀ and I + VᵀV for a stack V of n vectors over D parameters: conditioning without squaring.

A Gram matrix V Vᵀ squares the condition of V, and rounding then takes twice the digits. Two ways around it:

- *few parameters*, D ≤ n: Householder QR of [V; I], the square-root information filter (Bierman 1977, Factorization
  methods for discrete sequential estimation, chapter V).
- *many parameters*: one Gram matrix, and where the pivots of its Cholesky factor show that digits were lost, two
  more of vectors ever closer to orthonormal ones (Fukaya et al. 2020, "Shifted Cholesky QR for computing the QR
  factorization of ill-conditioned matrices"), of the bordered vectors [I, V].
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.algebra.one_buffer import OneBuffer, repeated
from lowrank_filter.algebra.tree import Tree


class Solution(NamedTuple):
    """What (I + V Vᵀ)⁻¹ makes of a target b.

    Attributes:
        vector: Vᵀ(I + V Vᵀ)⁻¹ b, or whatever linear function of it was asked for.
        explained: bᵀV Vᵀ(I + V Vᵀ)⁻¹ b.
        unexplained: bᵀ(I + V Vᵀ)⁻¹ b.
        lower: L with L Lᵀ = I + V Vᵀ [n, n], or I + VᵀV [D, D].
        image: V Vᵀ(I + V Vᵀ)⁻¹ b, where it is known.
        short: whether a square root was asked for, where one may be.
    """

    vector: Tree
    explained: Float[Array, ""]
    unexplained: Float[Array, ""]
    lower: Float[Array, "m m"]
    image: Float[Array, " n"] | None = None
    short: Bool[Array, ""] | None = None


def solve_many_parameters(
    gram: Float[Array, "n n"],
    target: Float[Array, " n"],
    plain: Callable[[Float[Array, " n"]], Tree],
    rows: Callable[[], Tree] | None,
    back: Callable[[Tree], Tree],
) -> Solution:
    """By Cholesky factors of n×n matrices, from G = V Vᵀ.

    Args:
        plain: c to F Vᵀc, for some linear function F.
        rows: V, called only where it has to be built, in whatever coordinates; None where there is no room for it.
        back: F, of a vector in those.
    """
    scaled, scale = small_matrices.scaled_plus_identity(gram)
    first = small_matrices.cholesky(scaled)
    short = asks_for_square_root(first)

    def by_gram(lower: Array, plain: Callable[[Array], Tree]) -> Solution:
        halfway = small_matrices.solve_lower(lower, target)
        coefficients = small_matrices.solve_lower_transposed(lower, halfway)
        image = jnp.matmul(gram, coefficients, precision=tree.HIGHEST)
        return Solution(plain(coefficients), jnp.sum(target * image), jnp.sum(halfway**2), lower, image, short)

    def raised() -> Array:
        return small_matrices.cholesky(small_matrices.raised(scaled, first))

    here = small_matrices.anywhere(short)
    if rows is None:
        return by_gram(jax.lax.cond(here, raised, lambda: first) / scale[:, None], plain)

    def by_square_root() -> Solution:
        lower = raised() / scale[:, None]
        vectors = rows()
        root = orthonormalised(lower, vectors)
        halfway = jnp.matmul(root.border, target, precision=tree.HIGHEST)
        whole = tree.combine(halfway, root.basis)
        # b = K z = z + V w with w = Vᵀz, hence bᵀV w = ‖w‖² + ‖V w‖².
        image = tree.project(vectors, whole)
        explained = tree.inner(whole, whole) + jnp.sum(image**2)
        found = Solution(whole, explained, jnp.sum(halfway**2), root.lower, image, short)
        # One of many that are solved at once may need no square root.
        found = tree.select(short, found, by_gram(lower, lambda coefficients: tree.combine(coefficients, vectors)))
        return found._replace(vector=back(found.vector))

    return jax.lax.cond(here, by_square_root, lambda: by_gram(first / scale[:, None], plain))


def asks_for_square_root(lower: Float[Array, "n n"]) -> Bool[Array, ""]:
    """Whether a pivot of a matrix with unit diagonal lost a third of the digits, or all of them."""
    return ~jnp.all(small_matrices.diagonal(lower) ** 2 > float(jnp.finfo(lower.dtype).eps) ** (1 / 3))


class Orthonormal(NamedTuple):
    """[I, V] = L [Y, X] with orthonormal rows [Y, X].

    Attributes:
        lower: L [n, n].
        border: Y = L⁻¹.
        basis: X = L⁻¹V, a stack.
    """

    lower: Float[Array, "n n"]
    border: Float[Array, "n n"]
    basis: Tree


def orthonormalised(lower: Float[Array, "n n"], rows: Tree) -> Orthonormal:
    """From a first L, of the Gram matrix: two passes more, the second for a Gram matrix whose diagonal was raised."""
    border = small_matrices.inverse_lower(lower)

    def again(root: Orthonormal) -> Orthonormal:
        lower, border, basis = root
        step = small_matrices.cholesky(_product(border, border.T) + tree.gram(basis, basis))
        inverse = small_matrices.inverse_lower(step)
        return Orthonormal(_product(lower, step), _product(inverse, border), tree.combine(inverse, basis))

    return repeated(
        2, again, Orthonormal(lower, border, tree.combine(border, rows)), small=OneBuffer.of_stack(rows).few
    )


def solve_few_parameters(rows: Float[Array, "n D"], prior: Float[Array, "D D"], target: Float[Array, " n"]) -> Solution:
    """By Householder QR, for a prior precision RᵀR instead of I: L Lᵀ = RᵀR + VᵀV, and the vector is (L Lᵀ)⁻¹Vᵀb."""
    basis, upper = triangular(jnp.concatenate([rows, prior]))
    halfway = jnp.matmul(basis[: len(rows)].T, target, precision=tree.HIGHEST)
    whole = jax.scipy.linalg.solve_triangular(upper, halfway)
    left = target - _product(rows, whole), _product(prior, whole)
    unexplained = jnp.sum(left[0] ** 2) + jnp.sum(left[1] ** 2)
    return Solution(whole, jnp.sum(halfway**2), unexplained, upper.T)


def triangular(rows: Float[Array, "n D"]) -> tuple[Float[Array, "n D"], Float[Array, "D D"]]:
    """Q and R of rows that have full rank; the longest come first, so that short ones keep their own accuracy
    (Cox and Higham 1998, "Stability of Householder QR factorization for weighted least squares problems")."""
    order = jnp.argsort(-jnp.max(jnp.abs(jax.lax.stop_gradient(rows)), axis=1))
    basis, upper = jnp.linalg.qr(rows[order])
    return basis[jnp.argsort(order)], upper


@jax.custom_jvp
def shortened(rows: Float[Array, "n D"]) -> Float[Array, "D D"]:
    """T with TᵀT = VᵀV, where there are more rows than columns; of any rank, and differentiable at any."""
    return jnp.linalg.qr(rows, mode="r")


@shortened.defjvp
def _shortened_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """T = QᵀV + ½(QᵀV)⁺ᵀNᵀN with N = V − Q QᵀV and a fixed Q: TᵀT is right to second order, where N is zero."""
    basis, upper = jax.lax.stop_gradient(jnp.linalg.qr(primals[0]))
    inverse = jnp.linalg.pinv(upper)

    def expansion(rows: Array) -> Array:
        inside = _product(basis.T, rows)
        outside = rows - _product(basis, inside)
        return inside + _product(inverse.T, _product(outside.T, outside)) / 2

    return shortened(*primals), jax.jvp(expansion, primals, tangents)[1]


_product = functools.partial(jnp.matmul, precision=tree.HIGHEST)
