"""What the kernels need of a precision matrix: the doors through which any structure is reached."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, Self

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.example_gradients import Columns
from lowrank_filter.algebra.partition import Group, Layout
from lowrank_filter.algebra.tree import Tree


class Correction(NamedTuple):
    """What n rank-one terms A Aᵀ with target coefficients u do to a Gaussian of precision P.

    Attributes:
        step: (P + A Aᵀ)⁻¹ A u, a vector.
        explained: uᵀAᵀ (P + A Aᵀ)⁻¹ A u.
        unexplained: uᵀ(I + AᵀP⁻¹A)⁻¹ u = ‖u‖² − explained, computed without that subtraction.
        logdet: log det(P + A Aᵀ) − log det P.
        lower: the Cholesky factor of the small matrix that was solved with; its size is the structure's own.
        along: Aᵀ step, where it was computed on the way.
    """

    step: Tree
    explained: Float[Array, ""]
    unexplained: Float[Array, ""]
    logdet: Float[Array, ""]
    lower: Float[Array, "m m"]
    along: Float[Array, " n"] | None = None


class Projection(NamedTuple):
    """What a Gaussian of precision P says about n linear functionals aⱼᵀθ.

    Attributes:
        covariance: AᵀP⁻¹A.
        predicted: what of the predicted precision was computed on the way, for :meth:`Precision.condition` to go on
            from.
        products: those of the columns that a low-rank structure has made, WᵀD⁻¹A and AᵀD⁻¹A.
    """

    covariance: Float[Array, "n n"]
    predicted: Any
    products: tuple[Float[Array, "k n"], Float[Array, "n n"]] | None = None

    def mixed(self, weights: Float[Array, "B C r"]) -> Self:
        """Of the columns' own combinations, as :meth:`Columns.mixed` has them; nothing over D is computed again."""

        def from_the_right(matrix: Array) -> Array:
            each = matrix.reshape(len(matrix), *weights.shape[:2])
            product = jnp.einsum("kbc,bcr->kbr", each, weights.astype(matrix.dtype), precision=tree.HIGHEST)
            return product.reshape(len(matrix), weights.shape[0] * weights.shape[2])

        def on_both_sides(matrix: Array) -> Array:
            return from_the_right(from_the_right(matrix).T).T

        products = self.products
        if products is not None:
            products = from_the_right(products[0]), on_both_sides(products[1])
        return type(self)(on_both_sides(self.covariance), self.predicted, products)


class Misfit(NamedTuple):
    """How much of what was added did not fit the structure, and how much there was, in one measure of size."""

    left_out: Float[Array, ""]
    whole: Float[Array, ""]

    @property
    def share(self) -> Float[Array, ""]:
        """The part left out; zero where there was nothing. In [0, 1] for low-rank parts; where a Kronecker basis turns
        away from what it held before, the loss of that counts too, and can be larger than what was added."""
        return jnp.where(self.whole > 0, self.left_out / jnp.where(self.whole > 0, self.whole, 1), 0)


class KroneckerFactors(NamedTuple):
    """G ⊗ A, a layer's curvature as a product: G over its units, A over its inputs (with a one for the bias)."""

    units: Float[Array, "U U"]
    inputs: Float[Array, "m m"]


class Curvature(NamedTuple):
    """A positive semi-definite matrix H = Σᵢ JᵢᵀSᵢSᵢᵀJᵢ over the parameters that is never built.

    Attributes:
        root_products: to two linear maps: weights [n, B, r] to the stack of A q, where A has the columns JᵢᵀSᵢ, r for
            each of B examples; and a stack V to Aᵀv [n, B, r].
        block_product: a stack V, in blocks, to H v with H's diagonal blocks in its place.
        kronecker: each layer of a layout to its Kronecker factors; the flag is whether positions that share weights
            are reduced to one (their mean) or each count as an example.
        start: a number n to fixed random weights [n, B, r]; to the identity where n is the number of columns.
        diagonal: diag(H), a vector.
        within: a choice of some of the parameters, and what completes a choice to all of them, to the curvature over
            those alone: a diagonal block of H.
        columns: the number of root columns of H, at least its rank.
        roots: how many of them belong to one example.
        like: a vector (arrays or shapes) that says what the parameters look like.
    """

    root_products: Callable[[], tuple[Callable[[Float[Array, "n B r"]], Tree], Callable[[Tree], Float[Array, "n B r"]]]]
    block_product: Callable[[Layout, tuple[Float[Array, "_U n _m"], ...]], tuple[Float[Array, "_U n _m"], ...]]
    kronecker: Callable[[Layout, bool], dict[Group, KroneckerFactors]]
    start: Callable[[int], Float[Array, "n B r"]]
    diagonal: Callable[[], Tree]
    within: Callable[[Callable[[Tree], Tree], Callable[[Tree, Tree], Tree]], "Curvature"]
    columns: int
    roots: int
    like: Tree


class Precision(Protocol):
    """A symmetric positive definite matrix P over the parameters, known by its operations.

    A new structure is a pytree of arrays with these methods; no kernel changes. What it does where a sum does not fit
    is its own business, a static part of it; ``iterations`` is for those that search for directions.
    """

    @property
    def rank(self) -> int:
        """The rank of the low-rank part; 0 where there is none."""
        ...

    def in_structure(self, name: str, value: Tree, like: Tree) -> Any:
        """A noise or transition given as a prefix of the parameters ``like``, in the form that the operations take.

        Raises:
            ValueError: the structure has no room for such a one; ``name`` is what it is called.
        """
        ...

    def check(self, vector: Tree | None = None, *, positive: bool = True, name: str = "vector") -> None:
        """Raise ValueError where it can be seen that this is no precision, or the vector not shaped for it."""
        ...

    def matvec(self, vector: Tree) -> Tree:
        """P v."""
        ...

    def quadratic(self, vector: Tree) -> Float[Array, ""]:
        """vᵀP v."""
        ...

    def solve(self, vector: Tree) -> Tree:
        """P⁻¹ v."""
        ...

    def whiten(self, vector: Tree) -> Tree:
        """R v with RᵀR = P⁻¹, so that J P⁻¹ Jᵀ is a Gram matrix and cannot lose its sign."""
        ...

    def logdet(self) -> Float[Array, ""]:
        """log det P."""
        ...

    def logdet_over(self, before: Self) -> Float[Array, ""]:
        """log det P − log det P₀, without the difference of two sums over all parameters."""
        ...

    def inverse_diagonal(self) -> Tree:
        """diag(P⁻¹)."""
        ...

    def draw(self, key: Key[Array, ""], count: int) -> Tree:
        """A stack of ``count`` independent draws from N(0, P⁻¹)."""
        ...

    def propagate(self, noise: Any, transition: Any) -> Self:
        """(A P⁻¹ A + Q)⁻¹ with A = diag(transition), Q = diag(noise), both :meth:`in_structure`."""
        ...

    def retrodict(self, noise: Any, transition: Any) -> Self:
        """A (P⁻¹ + Q)⁻¹ A: information P about θ' = A θ + ε, as information about θ. P may be singular."""
        ...

    def smoothing_gain(self, vector: Tree, noise: Any, transition: Any) -> Tree:
        """P⁻¹ A (A P⁻¹ A + Q)⁻¹ v."""
        ...

    def project(self, columns: Columns, *, noise: Any = None, transition: Any = None) -> Projection:
        """The columns under N(0, P⁻¹), where P is propagated first as in :meth:`condition`."""
        ...

    def covariances(self, columns: Columns) -> Float[Array, "B n n"]:
        """AᵀP⁻¹A of each of B sets of n columns, stacked; positive semi-definite up to rounding, and accurate where the
        data have said much."""
        ...

    def condition(
        self,
        columns: Columns,
        target: Float[Array, " n"],
        *,
        noise: Any = None,
        transition: Any = None,
        projection: Projection | None = None,
    ) -> tuple[Self, Self, Correction, Misfit]:
        """P + A Aᵀ brought back into the family and A Aᵀ in it (the site); the exact :class:`Correction`.

        With noise and transition, both :meth:`in_structure`, P is propagated first; ``projection`` is what
        :meth:`project` made of them and of the columns, in place of both.
        """
        ...

    def approximate(self, curvature: Curvature, *, iterations: int | None) -> tuple[Self, Misfit]:
        """A curvature as a positive semi-definite member of the same family, measured against this precision; what of
        its trace (in the metric) did not fit, as far as that is known."""
        ...

    def add(self, other: Self, *, reference: Self | None = None) -> tuple[Self, Misfit]:
        """P + other brought back into the family, and what of it did not fit."""
        ...

    def truncate(self, rank: int | None = None, *, reference: Self | None = None) -> Self:
        """This matrix brought to a rank, by default what its policy keeps, measured against ``reference`` or itself."""
        ...
