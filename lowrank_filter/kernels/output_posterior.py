"""The Gaussian nearest to the posterior of a linearised network's outputs, where the posterior's mode misleads.

With a prior N(f̂, Σ) of all outputs, q = N(f̂ + Σa, V) has

    a = −E_q ∇ℓ,    V = Σ − ΣS(I + SᵀΣS)⁻¹SᵀΣ,    S Sᵀ = E_q H

with H the Fisher information: the fixed point of variational Gaussian inference (Opper & Archambeau 2009, "The
variational Gaussian approximation revisited"), with H for the Hessian.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.kernels.expansion import Local
from lowrank_filter.kernels.output_map import newton

# The spread settles in four or five rounds where the step is moderate.
_ROUNDS = 30


def output_posterior(
    local: Callable[[Float[Array, "B C"], Float[Array, "B C C"]], Local],
    outputs: Float[Array, "B C"],
    covariance: Float[Array, "n n"],
) -> tuple[Float[Array, " n"], Float[Array, "B C C"]]:
    """a, and V's block of each example; differentiable through the equations that they solve.

    Args:
        local: the likelihood to second order at outputs, expected under their covariance.
        outputs: f̂ at the mean.
        covariance: Σ, of all B·C outputs together.
    """
    size, width = outputs.shape

    def at(moved: Array, spread: Array) -> Local:
        return local(outputs + moved.reshape(outputs.shape).astype(outputs.dtype), spread.astype(outputs.dtype))

    def across(a: Array) -> Array:
        return jnp.matmul(covariance, a, precision=tree.HIGHEST)

    def spread_of(root: Array) -> Array:
        prior = small_matrices.raised_root(covariance).reshape(size, width, -1)
        half = jnp.einsum("bcr,bcn->brn", root.astype(covariance.dtype), prior, precision=tree.HIGHEST)
        half = half.reshape(-1, size * width)
        lower = small_matrices.cholesky_plus_identity(jnp.matmul(half.T, half, precision=tree.HIGHEST))
        left = small_matrices.solve_lower(lower, prior.reshape(size * width, -1).T).reshape(-1, size, width)
        return jnp.einsum("nbc,nbd->bcd", left, left, precision=tree.HIGHEST)

    def residual(found: tuple[Array, Array]) -> tuple[Array, Array]:
        a, spread = found
        here = at(across(a), spread)
        slope = jnp.einsum("bcr,br->bc", here.root, here.score, precision=tree.HIGHEST).ravel()
        return a + slope.astype(a.dtype), spread - spread_of(here.root)

    def solve(_: Any, start: tuple[Array, Array]) -> tuple[Array, Array]:
        def advance(state: tuple) -> tuple:
            count, a, spread, _ = state
            a = newton(lambda moved: at(moved, spread), covariance, a)
            new = spread_of(at(across(a), spread).root)
            scale = jnp.sqrt(jnp.diagonal(new, axis1=1, axis2=2))
            share = jnp.abs(new - spread) / (scale[:, :, None] * scale[:, None, :] + jnp.finfo(scale.dtype).tiny)
            return count + 1, a, new, jnp.max(share)

        tolerance = 16 * len(covariance) * float(jnp.finfo(covariance.dtype).eps)
        _, a, spread, _ = jax.lax.while_loop(
            lambda state: (state[0] < _ROUNDS) & (state[3] > tolerance),
            advance,
            (0, *start, jnp.asarray(jnp.inf, covariance.dtype)),
        )
        return a, spread

    def tangent(linear: Callable, right: Any) -> Any:
        flat, unravel = ravel_pytree(right)
        return unravel(jnp.linalg.solve(jax.jacobian(lambda v: ravel_pytree(linear(unravel(v)))[0])(flat), flat))

    start, nothing = jnp.zeros(len(covariance), covariance.dtype), jnp.zeros((size, width, width), covariance.dtype)
    first = jax.lax.stop_gradient(spread_of(at(start, nothing).root))
    return jax.lax.custom_root(residual, (start, first), solve, tangent)
