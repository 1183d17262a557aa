"""The discriminative Kalman filter: a regression from observations to the latent in place of an observation model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lowrank_filter.common import checks


class DiscriminativeBelief(NamedTuple):
    """p(z_t | x_1 … x_t) = N(mean [d], covariance [d, d]); ``robust``: by the form without the stationary part."""

    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]
    robust: Bool[Array, ""]


def discriminative_update(
    mean: Float[Array, " d"],
    covariance: Float[Array, "d d"],
    transition: Float[Array, "d d"],
    noise: Float[Array, "d d"],
    estimate: Float[Array, " d"],
    uncertainty: Float[Array, "d d"],
    stationary: Float[Array, "d d"] | None = None,
    *,
    mask: Any = None,
) -> DiscriminativeBelief:
    """One step of the discriminative Kalman filter (Burkhart et al. 2020, eq. 2.7).

    With p(z_t | z_{t−1}) = N(A z_{t−1}, Γ), whose stationary law is N(0, S), and a regression p(z_t | x_t) ≈ N(f, Q),

        M = A Σ Aᵀ + Γ,   Σ⁺ = (M⁻¹ + Q⁻¹ − S⁻¹)⁻¹,   μ⁺ = Σ⁺ (M⁻¹ A μ + Q⁻¹ f).

    What Σ⁺ would be without −S⁻¹ is the robust form; it is taken where the first is not positive definite, and always
    where there is no ``stationary``.

    Args:
        mean, covariance: μ [d] and Σ [d, d] of the belief before.
        transition, noise: A and Γ [d, d].
        estimate, uncertainty: f(x_t) [d] and Q(x_t) [d, d].
        stationary: S [d, d]; of A and Γ by :func:`stationary_covariance`.
        mask: whether x_t was observed; where not, the belief is N(Aμ, M).

    Raises:
        TypeError: not arrays of real numbers.
        ValueError: shapes do not fit.

    Examples:
        >>> one = jnp.eye(1)
        >>> belief = lt.discriminative_update(jnp.zeros(1), 0 * one, one, one, jnp.ones(1), one)
        >>> print(belief.mean.round(3), belief.covariance.round(3))
        [0.5] [[0.5]]
    """
    mean = checks.numbers("mean", mean, "of the belief before, [d]")
    if mean.ndim != 1 or not len(mean):
        raise ValueError(f"mean: expected shape (d,), got {mean.shape}; vmap over several")
    d = len(mean)
    square = {"covariance": covariance, "transition": transition, "noise": noise, "uncertainty": uncertainty}
    if stationary is not None:
        square["stationary"] = stationary
    square = {name: checks.numbers(name, value, f"a matrix for the {d} latents") for name, value in square.items()}
    for name, value in square.items():
        checks.shape(name, value, (d, d), f"a matrix for the {d} latents")
    estimate = checks.numbers("estimate", estimate, "the regression's mean [d]")
    checks.shape("estimate", estimate, (d,), "the regression's mean")
    if mask is not None:
        mask = checks.booleans("mask", mask)
        checks.shape("mask", mask, (), "whether x was observed")
    covariance, transition, noise, uncertainty = (
        square[name] for name in ("covariance", "transition", "noise", "uncertainty")
    )
    ahead = transition @ mean
    prior = transition @ covariance @ transition.T + noise
    prior_precision, given = _inverse(prior), _inverse(uncertainty)
    plain = prior_precision + given
    precision, robust = plain, jnp.ones((), bool)
    if stationary is not None:
        less = plain - _inverse(square["stationary"])
        # A Cholesky factor of what is not positive definite is NaN.
        robust = ~jnp.all(jnp.isfinite(jnp.linalg.cholesky(jax.lax.stop_gradient(less))))
        precision = jnp.where(robust, plain, less)
    after = _inverse(precision)
    moved = after @ (prior_precision @ ahead + given @ estimate)
    if mask is None:
        return DiscriminativeBelief(moved, after, robust)
    return DiscriminativeBelief(jnp.where(mask, moved, ahead), jnp.where(mask, after, prior), robust & mask)


def stationary_covariance(transition: Float[Array, "d d"], noise: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """S = A S Aᵀ + Γ, by vec S = (I − A ⊗ A)⁻¹ vec Γ; d² equations.

    Raises:
        ValueError: a spectral radius of A that can be seen is 1 or more: there is no such S.

    Examples:
        >>> print(lt.stationary_covariance(0.5 * jnp.eye(1), 0.75 * jnp.eye(1)).round(3))
        [[1.]]
    """
    transition = checks.numbers("transition", transition, "a square matrix")
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1]:
        raise ValueError(f"transition: expected shape (d, d), got {transition.shape}; give a square matrix")
    noise = checks.numbers("noise", noise, "a matrix of the transition's shape")
    checks.shape("noise", noise, transition.shape, "a matrix of the transition's shape")
    if checks.concrete(transition):
        radius = float(abs(np.linalg.eigvals(np.asarray(transition))).max())
        if not radius < 1:
            raise ValueError(
                f"transition: expected a spectral radius below 1, got {radius:.4g}; leave stationary out, or damp it"
            )
    size = transition.size
    solved = jnp.linalg.solve(jnp.eye(size, dtype=noise.dtype) - jnp.kron(transition, transition), noise.reshape(size))
    found = solved.reshape(noise.shape)
    return 0.5 * (found + found.T)


def _inverse(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Of a positive definite matrix."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), jnp.eye(len(matrix), dtype=matrix.dtype))
