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

# The spread settles in four or five rounds where the step is moderate; where the prior says as little of the noise as
# of the function, a round alone would take a third off the error.
_ROUNDS = 30
_MEMORY = 4


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
            count, a, _, spread, _, past = state
            a = newton(lambda moved: at(moved, spread), covariance, a)
            new = spread_of(at(across(a), spread).root)
            scale = jnp.sqrt(jnp.diagonal(new, axis1=1, axis2=2)) + jnp.finfo(new.dtype).tiny
            unit = scale[:, :, None] * scale[:, None, :]
            ahead, past = _accelerated(spread, new, unit, past, count)
            return count + 1, a, new, ahead, jnp.max(jnp.abs(new - spread) / unit), past

        a, spread = start
        nowhere = jnp.zeros((_MEMORY + 1, spread.size), spread.dtype)
        tolerance = 16 * len(covariance) * float(jnp.finfo(covariance.dtype).eps)
        _, a, spread, *_ = jax.lax.while_loop(
            lambda state: (state[0] < _ROUNDS) & (state[4] > tolerance),
            advance,
            (0, a, spread, spread, jnp.asarray(jnp.inf, covariance.dtype), (nowhere, nowhere)),
        )
        return a, spread

    def tangent(linear: Callable, right: Any) -> Any:
        flat, unravel = ravel_pytree(right)
        return unravel(jnp.linalg.solve(jax.jacobian(lambda v: ravel_pytree(linear(unravel(v)))[0])(flat), flat))

    start, nothing = jnp.zeros(len(covariance), covariance.dtype), jnp.zeros((size, width, width), covariance.dtype)
    first = jax.lax.stop_gradient(spread_of(at(start, nothing).root))
    return jax.lax.custom_root(residual, (start, first), solve, tangent)


def _accelerated(
    spread: Float[Array, "B C C"],
    new: Float[Array, "B C C"],
    unit: Float[Array, "B C C"],
    past: tuple[Array, Array],
    count: Array,
) -> tuple[Float[Array, "B C C"], tuple[Array, Array]]:
    """Anderson's extrapolation (1965) of a fixed point from the last changes and what they led to, where it is a
    covariance with variances within a factor of four of those of ``new``; else ``new``."""
    changes, images = (jnp.roll(kept, 1, axis=0) for kept in past)
    changes, images = changes.at[0].set((new - spread).ravel()), images.at[0].set(new.ravel())
    known = (jnp.arange(1, _MEMORY + 1) <= count)[:, None]
    steps, leads = (jnp.where(known, kept[0] - kept[1:], 0) for kept in (changes / unit.ravel(), images))
    gram = jnp.matmul(steps, steps.T, precision=tree.HIGHEST)
    floor = 64 * jnp.finfo(gram.dtype).eps * jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
    shares = jnp.linalg.solve(
        gram + floor * jnp.eye(_MEMORY, dtype=gram.dtype),
        jnp.matmul(steps, changes[0] / unit.ravel(), precision=tree.HIGHEST),
    )
    ahead = new - jnp.matmul(shares, leads, precision=tree.HIGHEST).reshape(new.shape)
    ratios = jnp.diagonal(ahead / unit, axis1=1, axis2=2)
    sound = jnp.all(jnp.linalg.eigvalsh(ahead) > 0) & jnp.all((ratios > 0.25) & (ratios < 4))
    return jnp.where(sound, ahead, new), (changes, images)
