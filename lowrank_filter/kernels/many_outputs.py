"""The MAP and the evidence of a linearised network with many classes, in the structure of its last layer.

What :mod:`output_map` and :mod:`evidence` do with a matrix of all outputs by all outputs, by products with
:class:`OutputCovariance` and its solver: no matrix of outputs by outputs exists.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lowrank_filter.algebra import small_matrices, tree
from lowrank_filter.algebra.last_layer import OutputCovariance, Shares, Solver
from lowrank_filter.kernels.evidence import standard_points
from lowrank_filter.kernels.expansion import Local
from lowrank_filter.kernels.likelihoods import Likelihood
from lowrank_filter.kernels.output_map import descended

# Outputs of a batch up to which matrices of them are small, and faster than their structure.
_OUTPUTS = 512


def many(examples: int, outputs: int) -> bool:
    """Whether a matrix of all outputs by all outputs is to be avoided."""
    return examples * outputs > _OUTPUTS


def has_shares(likelihood: Likelihood, outputs: int) -> bool:
    """Whether the curvature is that of a multinomial: by the class that defines the root, not by one derived from it
    that has another root."""

    def owner(name: str) -> Any:
        return next(kind for kind in type(likelihood).__mro__ if name in vars(kind))

    if jax.eval_shape(likelihood.shares, jax.ShapeDtypeStruct((outputs,), np.float32)) is None:
        return False
    return owner("shares") is owner("root") is owner("whitened_score")


def output_map(
    local: Callable[[Float[Array, "B C"]], tuple[Local, Shares]],
    outputs: Float[Array, "B C"],
    covariance: OutputCovariance,
) -> Float[Array, "B C"]:
    """a with a = −∇ℓ(f̂ + Σa), by Newton's method with a line search; once differentiable through that equation."""
    fixed_covariance, fixed_outputs = jax.lax.stop_gradient((covariance, outputs))

    def at(moved: Array) -> tuple[Local, Shares]:
        return jax.lax.stop_gradient(local(fixed_outputs + moved.astype(outputs.dtype)))

    a = jax.lax.stop_gradient(_newton(at, fixed_covariance, outputs))
    found, shares = local(outputs + covariance.times(a).astype(outputs.dtype))
    residual = a + shares.times(found.score)
    shares = jax.lax.stop_gradient(shares)
    return _followed(a, residual, fixed_covariance, fixed_covariance.solver(shares))


@jax.custom_jvp
def _followed(a: Array, residual: Array, covariance: OutputCovariance, solver: Solver) -> Array:
    """The root of a residual, with its derivative −(I + HΣ)⁻¹ dr = −(dr − S(I + SᵀΣS)⁻¹SᵀΣ dr)."""
    return a


@_followed.defjvp
def _followed_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    _, _, covariance, solver = primals
    across = solver.part.deviation * covariance.times(tangents[1])
    return _followed(*primals), solver.solve(across) - tangents[1]


def _newton(at: Callable[[Array], tuple[Local, Shares]], covariance: OutputCovariance, outputs: Array) -> Array:
    """As :func:`output_map.newton`, the lengths one after the other."""
    dtype = covariance.mixed.dtype

    def change(a: Array, moved: Array) -> Array:
        found, shares = at(moved)
        return -covariance.solver(shares).solve(found.score - shares.deviation * moved) - a

    def losses(moved: Array, across: Array, lengths: Array) -> Array:
        return jax.lax.map(lambda length: jnp.sum(at(moved + length * across)[0].loss).astype(dtype), lengths)

    return descended(change, losses, covariance.times, jnp.zeros(outputs.shape, dtype))


def log_expectation(
    local: Callable[[Float[Array, "B C"]], tuple[Local, Shares]],
    outputs: Float[Array, "1 C"],
    covariance: OutputCovariance,
    a: Float[Array, "1 C"],
) -> Float[Array, ""]:
    """log E exp(−ℓ(f)) of one example, as :func:`evidence.log_expectation`: half of the points are the prior's, half
    those of Laplace's approximation.

    A draw φ of N(0, Σ) is one of N(0, J D⁻¹Jᵀ) and what the old factor says of it (Matheron's rule), f* + φ −
    ΣS(I + SᵀΣS)⁻¹(Sᵀφ + ε) one of Laplace's approximation; the ratio of their densities is exp(aᵀ(f − f̂) − ½aᵀΣa −
    ½‖Sᵀ(f − f*)‖²) √det(I + SᵀΣS).
    """
    meeting, dtype = covariance.meeting, covariance.mixed.dtype
    gram, classes, count = meeting.gram, outputs.shape[1], len(meeting.old)
    across = covariance.times(a)
    _, shares = local(outputs + across.astype(outputs.dtype))
    solver = covariance.solver(shares)
    own = jnp.sqrt(gram.own[:, 0, 0])
    known = [jnp.where(own > 0, meeting.own[:, 0] / jnp.where(own > 0, own, 1), 0)]
    features = jnp.zeros((0, 0), dtype)
    if gram.features is not None and meeting.inner is not None:
        features = small_matrices.raised_root(gram.features)
        known.append(small_matrices.solve_lower(features, meeting.inner[:, 0].T).T)
    told = jnp.concatenate(known, axis=1)
    rest = meeting.old - _matmul(told, told.T) + jnp.eye(count, dtype=dtype)
    rest = small_matrices.raised_root(rest) if count else rest
    points = jnp.asarray(standard_points(classes, 2 * classes + len(features) + count), dtype)

    def pair(point: Array) -> Array:
        normals = jnp.split(point, np.cumsum([classes, len(features), count]).tolist())
        drawn = own * normals[0]
        if gram.features is not None:
            drawn = drawn + _matmul(_matmul(features, normals[1]), gram.kernel)
        if count:
            says = _matmul(told, jnp.concatenate(normals[:2])) + _matmul(rest, normals[2])
            drawn = drawn - _matmul(small_matrices.solve_positive(covariance.lower, says), covariance.mixed[:, 0])
        drawn = drawn[None]
        kept = drawn - covariance.times(solver.solve(shares.deviation * drawn + normals[3]))
        return jnp.stack([value(drawn), value(across + kept)])

    def value(moved: Array) -> Array:
        away = shares.transposed_times(moved - across)
        ratio = jnp.sum(a * moved) - 0.5 * jnp.sum(a * across) - 0.5 * jnp.sum(away**2) + 0.5 * solver.logdet
        return -jnp.logaddexp(0.0, ratio) - jnp.sum(local(outputs + moved.astype(outputs.dtype))[0].loss).astype(dtype)

    total = jax.nn.logsumexp(jax.lax.map(pair, points)) - np.log(len(points))
    return jnp.minimum(total, 0)


def _matmul(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=tree.HIGHEST)
