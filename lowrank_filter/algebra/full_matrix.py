"""Precisions of which every entry is kept: a triangular square root."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lowrank_filter.algebra import saving, small_matrices, tree, triangular
from lowrank_filter.algebra.correction import PredictedFirst
from lowrank_filter.algebra.example_gradients import Columns
from lowrank_filter.algebra.partition import Layout, one_block
from lowrank_filter.algebra.precision import Correction, Curvature, Misfit
from lowrank_filter.algebra.square_root import Solution, shortened, solve_few_parameters
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.registered import registered

# So many times more parameters than rows: then these are eliminated by panels.
_FEW = 4


@registered
@dataclasses.dataclass(frozen=True)
class FullMatrix(PredictedFirst):
    """P = RᵀR over few parameters: the square-root information filter (Bierman 1977, Factorization methods for discrete
    sequential estimation, chapter V). Nothing is approximated.

    Attributes:
        root: R [D, D], upper triangular in a belief; in a site any square root, singular where data left P unknown.
        layout: which parameters they are; static.
    """

    root: Array
    layout: Layout = dataclasses.field(metadata={"static": True})

    def __repr__(self) -> str:
        """Its size and kind, no numbers."""
        return f"FullMatrix({tree.described(self.layout.like())})"

    @property
    def rank(self) -> int:
        """There is no low-rank part."""
        return 0

    def in_structure(self, name: str, value: Tree, like: Tree) -> Float[Array, " D"]:
        """Any prefix of the parameters will do; flat."""
        return self._flat(tree.broadcast(value, like))

    def check(self, vector: Tree | None = None, *, positive: bool = True, name: str = "vector") -> None:
        """A diagonal of R without zeros, and a vector shaped like the parameters."""
        if positive and checks.concrete(self.root):
            checks.positive("precision.root", abs(jnp.diagonal(self.root, axis1=-2, axis2=-1)))
        if vector is not None:
            checks.same_shapes(name, vector, self.layout.like())

    def matvec(self, vector: Tree) -> Tree:
        """Rᵀ(R v)."""
        return self._tree(_matmul(self.root.T, _matmul(self.root, self._flat(vector))))

    def quadratic(self, vector: Tree) -> Float[Array, ""]:
        """‖R v‖²."""
        return jnp.sum(_matmul(self.root, self._flat(vector)) ** 2)

    def solve(self, vector: Tree) -> Tree:
        """R⁻¹R⁻ᵀv."""
        return self._tree(self._over(self._over(self._flat(vector), transposed=True)))

    def whiten(self, vector: Tree) -> Tree:
        """R⁻ᵀv."""
        return self._tree(self._over(self._flat(vector), transposed=True))

    def logdet(self) -> Float[Array, ""]:
        """Σ 2 log |Rᵢᵢ|."""
        return 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.root))))

    def logdet_over(self, before: Self) -> Float[Array, ""]:
        """Σ 2 log |Rᵢᵢ/R₀ᵢᵢ|."""
        return 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.root) / jnp.diagonal(before.root))))

    def inverse_diagonal(self) -> Tree:
        """The squares of the rows of R⁻¹."""
        return self._tree(jnp.sum(self._over(jnp.eye(len(self.root), dtype=self.root.dtype)) ** 2, axis=1))

    def draw(self, key: Key[Array, ""], count: int) -> Tree:
        """R⁻¹z, z standard normal."""
        normals = jax.random.normal(key, (len(self.root), count), self.root.dtype)
        return jax.vmap(self._tree, in_axes=1)(self._over(normals))

    def propagate(self, noise: Float[Array, " D"], transition: Float[Array, " D"]) -> Self:
        """R⁻ = U⁻¹R A⁻¹, U Uᵀ = I + R Q' Rᵀ with Q' = Q/a² and U upper triangular, so that R⁻ is."""
        return self._with(self._propagated(noise / transition**2) / transition)

    def retrodict(self, noise: Float[Array, " D"], transition: Float[Array, " D"]) -> Self:
        """The same with a = 1, and the decay from outside; of any square root."""
        return self._with(self._propagated(noise, upper=False) * transition)

    def smoothing_gain(self, vector: Tree, noise: Float[Array, " D"], transition: Float[Array, " D"]) -> Tree:
        """G v = w − Q' RᵀU⁻ᵀU⁻¹R w with w = v/a, in the notation of :meth:`propagate`."""
        scaled, spread = self._flat(vector) / transition, noise / transition**2
        root = self._propagated(spread)
        return self._tree(scaled - spread * _matmul(root.T, _matmul(root, scaled)))

    def _condition(self, columns: Columns, target: Float[Array, " n"]) -> tuple[Self, Self, Correction, Misfit]:
        """R⁺ of a QR decomposition of the columns' rows below R; without data not a bit changes."""
        rows = jax.vmap(self._flat)(columns.stack())
        solution = self._solution(rows, target.astype(rows.dtype))
        nothing = jnp.all(rows == 0)
        precision = self._with(jnp.where(nothing, self.root, solution.lower.T))
        logdet = jnp.where(nothing, 0, precision.logdet_over(self))
        correction = Correction(self._tree(solution.vector), *solution[1:3], logdet, solution.lower)
        return precision, self._with(self._square(rows)), correction, _fits(rows)

    def _solution(self, rows: Float[Array, "n D"], target: Float[Array, " n"]) -> Solution:
        if _FEW * len(rows) > len(self.root):
            return solve_few_parameters(rows, self.root, target)
        root, halfway, unexplained = triangular.appended(self.root, rows, target)
        vector = jax.scipy.linalg.solve_triangular(root, halfway)
        return Solution(vector, jnp.sum(halfway**2), unexplained, root.T)

    def approximate(self, curvature: Curvature, *, iterations: int | None) -> tuple[Self, Misfit]:
        """Exactly: the root columns where they are few, else H as products with every direction."""
        if curvature.columns <= len(self.root):
            pull, _ = curvature.root_products()
            rows = jax.vmap(self._flat)(pull(curvature.start(curvature.columns)))
            return self._with(self._square(rows)), _fits(rows)
        (whole,) = curvature.block_product(self.layout, (jnp.eye(len(self.root), dtype=self.root.dtype)[None],))
        values, vectors = small_matrices.eigendecompose((whole[0] + whole[0].T) / 2)
        large = values > 0  # smaller ones than rounding too: what they lack would be missing from every variance
        roots = jnp.where(large, jnp.sqrt(jnp.where(large, values, 1)), 0)
        return self._with(roots[:, None] * vectors.T), _fits(whole)

    def add(self, other: Self, *, reference: Self | None = None) -> tuple[Self, Misfit]:
        """One QR decomposition of both roots."""
        nothing = jnp.all(other.root == 0)
        both = shortened(jnp.concatenate([self.root, other.root]))
        return self._with(jnp.where(nothing, self.root, both)), _fits(self.root)

    def truncate(self, rank: int | None = None, *, reference: Self | None = None) -> Self:
        """There is nothing to truncate."""
        return self

    def _propagated(self, noise: Float[Array, " D"], *, upper: bool = True) -> Float[Array, "D D"]:
        """U⁻¹R, with U of a Cholesky factorisation from the last row to the first."""
        return _unless_still(_of_upper if upper else _of_any, self.root, noise)

    def _square(self, rows: Float[Array, "n D"]) -> Float[Array, "D D"]:
        """As many rows as columns, with the same Gram matrix of the columns."""
        missing = len(self.root) - len(rows)
        return shortened(rows) if missing < 0 else jnp.pad(rows, [(0, missing), (0, 0)])

    def _over(self, right: Array, *, transposed: bool = False) -> Array:
        return jax.scipy.linalg.solve_triangular(self.root, right, trans="T" if transposed else "N")

    def _flat(self, vector: Tree) -> Float[Array, " D"]:
        return self.layout.split(vector)[0][0]

    def _tree(self, flat: Float[Array, " D"]) -> Tree:
        return self.layout.join([flat[None]])

    def _with(self, root: Float[Array, "D D"]) -> Self:
        return dataclasses.replace(self, root=root)


def diagonal(precision: Tree) -> FullMatrix:
    """A diagonal precision with room for all the rest."""
    saving.known_to_flax(FullMatrix, "root")
    layout = one_block(precision)
    return FullMatrix(jnp.diag(jnp.sqrt(layout.split(precision)[0][0])), layout)


def _of_upper(root: Float[Array, "D D"], noise: Float[Array, " D"]) -> Float[Array, "D D"]:
    return triangular.solve(_cholesky_from_last(triangular.weighted_square(root, noise)), root)


def _of_any(root: Float[Array, "D D"], noise: Float[Array, " D"]) -> Float[Array, "D D"]:
    return jax.scipy.linalg.solve_triangular(_cholesky_from_last(_matmul(root * noise, root.T)), root)


def _cholesky_from_last(gram: Float[Array, "D D"]) -> Float[Array, "D D"]:
    return small_matrices.cholesky_plus_identity(gram[::-1, ::-1])[::-1, ::-1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _unless_still(moved: Callable, root: Float[Array, "D D"], noise: Float[Array, " D"]) -> Float[Array, "D D"]:
    """R where there is no noise, which is the case of most streams."""
    some = small_matrices.anywhere(jnp.any(noise != 0))
    return jax.lax.cond(some, lambda: moved(root, noise), lambda: root)


@_unless_still.defjvp
def _unless_still_jvp(moved: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """There is a derivative by a noise of zero."""
    return jax.jvp(moved, primals, tangents)


def _fits(like: Array) -> Misfit:
    nothing = jnp.zeros((), like.dtype)
    return Misfit(nothing, nothing)


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=tree.HIGHEST)
