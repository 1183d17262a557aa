"""A precision over so few parameters that all of it is factorised at once: a square root, D×D."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lowrank_filter.algebra import tree
from lowrank_filter.algebra.square_root import triangular
from lowrank_filter.algebra.tree import Tree


class FewParameters(NamedTuple):
    """P = E Π RᵀR Πᵀ E with E = diag(d)^½, Π a permutation and R upper triangular. Vectors are flat, [D].

    The parameters of which the factor knows most come first: so R is graded, and its small entries accurate.

    Attributes:
        upper: R.
        scale: the diagonal of E⁻¹.
        order: Π, as the parameters in the order of R's columns.
    """

    upper: Float[Array, "D D"]
    scale: Float[Array, " D"]
    order: Int[Array, " D"]

    def solve(self, vector: Float[Array, " D"]) -> Float[Array, " D"]:
        """P⁻¹v."""
        return self.unwhiten(self.whiten(vector))

    def whiten(self, vector: Float[Array, " D"]) -> Float[Array, " D"]:
        """R⁻ᵀΠᵀE⁻¹v, of the length of P^{-1/2}v."""
        return jax.scipy.linalg.solve_triangular(self.upper, self.within(vector), trans="T")

    def unwhiten(self, normal: Float[Array, " D"]) -> Float[Array, " D"]:
        """E⁻¹ΠR⁻¹z: of covariance P⁻¹ where that of z is I."""
        return self.without(jax.scipy.linalg.solve_triangular(self.upper, normal))

    def within(self, vector: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        """ΠᵀE⁻¹v."""
        return (self.scale * vector)[..., self.order]

    def without(self, vector: Float[Array, " D"]) -> Float[Array, " D"]:
        """E⁻¹Πv."""
        return self.scale * vector[jnp.argsort(self.order)]

    def logdet(self) -> Float[Array, ""]:
        """Σ 2 log |Rᵢᵢ| + log dᵢ."""
        return 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.upper))) - jnp.log(self.scale))

    def inverse_diagonal(self) -> Float[Array, " D"]:
        """The squares of the rows of E⁻¹ΠR⁻¹."""
        inverse = jax.scipy.linalg.solve_triangular(self.upper, jnp.eye(len(self.scale), dtype=self.upper.dtype))
        return self.scale * self.without(jnp.sum(inverse**2, axis=1))


def few_parameters(diag: Tree, factor: Tree) -> FewParameters:
    """diag(d) + W Wᵀ, flattened."""
    scale = jax.lax.rsqrt(tree.flat(diag))
    rows = tree.flat_stack(factor) * scale
    order = jnp.argsort(-jnp.sum(jax.lax.stop_gradient(rows) ** 2, axis=0))
    _, upper = triangular(jnp.concatenate([rows[:, order], jnp.eye(len(scale), dtype=scale.dtype)]))
    return FewParameters(upper, scale, order)
