"""The MAP of a linearised network: a generalised linear model in the few outputs, whatever the number of parameters.

With the network linearised, f(θ) = f̂ + J(θ − m), the minimiser of ℓ(f(θ)) + ½(θ − m)ᵀP(θ − m) is m + P⁻¹Jᵀa with

    a = argmin ℓ(f̂ + Σa) + ½ aᵀΣa,    Σ = J P⁻¹Jᵀ,

in the B·C outputs alone (Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", section 3.4).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.kernels.expansion import Local

# Newton's method takes five or ten; Fisher scoring, where the Hessian is not positive, converges linearly.
_ITERATIONS = 100
_HALVINGS = 12


def output_map(
    local: Callable[[Float[Array, "B C"]], Local], outputs: Float[Array, "B C"], covariance: Float[Array, "n n"]
) -> Float[Array, " n"]:
    """a, by Newton's method with a line search; differentiable through the optimality a = −∇ℓ(f̂ + Σa).

    Args:
        local: the likelihood to second order at outputs.
        outputs: f̂ at the mean.
        covariance: Σ, of all B·C outputs together.
    """

    def at(moved: Array) -> Local:
        return local(outputs + moved.reshape(outputs.shape).astype(outputs.dtype))

    def residual(a: Array) -> Array:
        found = at(_matmul(covariance, a))
        return a + jnp.einsum("bcr,br->bc", found.root, found.score).ravel().astype(a.dtype)

    def tangent(linear: Callable, right: Array) -> Array:
        return jnp.linalg.solve(jax.jacobian(linear)(right), right)

    start = jnp.zeros(len(covariance), covariance.dtype)
    return jax.lax.custom_root(residual, start, lambda _, start: newton(at, covariance, start), tangent)


def newton(at: Callable[[Array], Local], covariance: Float[Array, "n n"], start: Array) -> Array:
    """a ← −S K⁻¹(u − SᵀΣa), K = I + SᵀΣS, by :func:`descended`."""
    dtype = covariance.dtype

    def change(a: Array, moved: Array) -> Array:
        found = at(moved)
        root = found.root.astype(dtype)
        size, outputs, width = root.shape
        target = found.score - jnp.einsum("bcr,bc->br", root, moved.reshape(size, outputs), precision=tree.HIGHEST)
        blocks = covariance.reshape(size, outputs, size, outputs)
        gram = jnp.einsum("bcr,bcde,des->brds", root, blocks, root, precision=tree.HIGHEST)
        lower = small_matrices.cholesky_plus_identity(gram.reshape(size * width, size * width))
        weights = small_matrices.solve_positive(lower, target.ravel()).reshape(size, width)
        return -jnp.einsum("bcr,br->bc", root, weights, precision=tree.HIGHEST).ravel() - a

    def losses(moved: Array, across: Array, lengths: Array) -> Array:
        return jax.vmap(lambda length: jnp.sum(at(moved + length * across).loss).astype(dtype))(lengths)

    return descended(change, losses, functools.partial(_matmul, covariance), start)


def descended(
    change: Callable[[Array, Array], Array],
    losses: Callable[[Array, Array, Array], Array],
    times: Callable[[Array], Array],
    start: Array,
) -> Array:
    """Minimise ℓ(Σa) + ½aᵀΣa from a start: each change of a is shortened to whichever of its halvings lowers that most.

    Args:
        change: of a, given a and Σa.
        losses: ℓ at Σa + t Σδ for all lengths t, given Σa, Σδ and these.
        times: the product with Σ.
    """
    dtype = start.dtype
    eps = float(jnp.finfo(dtype).eps)
    # The last of them is where it starts.
    lengths = jnp.asarray(np.append(0.5 ** np.arange(_HALVINGS), 0), dtype)

    def step(state: tuple) -> tuple:
        count, a, _ = state
        moved = times(a)
        along = change(a, moved)
        across = times(along)
        exists = jnp.all(jnp.isfinite(across))
        along, across = jnp.where(exists, along, 0), jnp.where(exists, across, 0)
        penalties = 0.5 * (
            jnp.sum(a * moved) + 2 * lengths * jnp.sum(a * across) + lengths**2 * jnp.sum(along * across)
        )
        values = losses(moved, across, lengths) + penalties
        values = jnp.where(jnp.isfinite(values), values, jnp.inf)
        least = jnp.min(values)
        rounding = 4 * eps * (1 + jnp.abs(least))
        # The longest of those that rounding cannot tell apart: near the optimum the whole step is exact.
        best = jnp.max(jnp.where(values <= least + rounding, lengths, 0))
        a = a + jnp.where(least < jnp.inf, best, 0) * along
        return count + 1, a, values[-1] - least > rounding

    def unfinished(state: tuple) -> Array:
        return state[2] & (state[0] < _ITERATIONS)

    return jax.lax.while_loop(unfinished, step, (0, start, jnp.ones((), bool)))[1]


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=tree.HIGHEST)
