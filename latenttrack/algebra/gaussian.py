"""Draws, densities and divergences of Gaussians with diagonal covariance, and of their mixtures."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def noise(key: Key[Array, ""], step: Int[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers of one step of a stream: the same for a step, however the stream is cut."""
    # Drawn flat: with a short last axis the compiler's code for a CPU takes more than twice as long for the same bits.
    return jax.random.normal(jax.random.fold_in(key, step), (math.prod(shape),)).reshape(shape)


def log_density(
    y: Float[Array, "*#batch y"],
    mean: Float[Array, "*#batch y"],
    variance: Float[Array, "*#batch y"],
    observed: Bool[Array, "*#batch y"] | None = None,
) -> Float[Array, "*#batch"]:
    """log N(y; mean, diag variance), summed over the last axis, over the observed channels alone where told which.

    A variance of zero has the limit of small ones: −∞ off the mean in any such channel, else +∞.
    """
    point = variance == 0
    safe = jnp.where(point, 1, variance)
    terms = jnp.square(y - mean) / safe + jnp.where(point, 0, jnp.log(2 * jnp.pi * safe))
    if observed is not None:
        terms, point = jnp.where(observed, terms, 0), point & observed
    total = -0.5 * jnp.sum(terms, axis=-1)
    limit = jnp.where(jnp.any(point & (y != mean), axis=-1), -jnp.inf, jnp.inf)
    return jnp.where(jnp.any(point, axis=-1) & ~jnp.isnan(total), limit, total)


def mixture(log_densities: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    """log (1/K) Σ_k exp(log_densities_k), the log density of an equal mixture."""
    return jax.nn.logsumexp(log_densities, axis=-1) - jnp.log(log_densities.shape[-1])


def root_of_sum(root: Float[Array, "d r"], variance: Float[Array, " d"]) -> Float[Array, "d d"]:
    """Lower triangular L with L Lᵀ = root rootᵀ + diag variance, without forming the sum.

    R of [root, diag √variance]ᵀ = Q R. A Cholesky factor of the sum has no small directions beside large ones: with
    numbers of d digits it is lost where they differ by 10^(d/2).
    """
    upper = jnp.linalg.qr(jnp.concatenate([root.T, jnp.diag(jnp.sqrt(variance))]), mode="r")
    return (jnp.where(jnp.diag(upper) < 0, -1, 1)[:, None] * upper).T


def divergence(
    mean: Float[Array, "*#batch d"],
    variance: Float[Array, "*#batch d"],
    prior_mean: Float[Array, "*#batch d"],
    prior_variance: Float[Array, "*#prior"],
    spread: Float[Array, "*#batch d"] | float = 0.0,
) -> Float[Array, "*#batch"]:
    """E KL(N(mean, diag variance) ‖ N(m, diag prior_variance)) over m with mean ``prior_mean`` and variance ``spread``.

    The Gaussian divergence at the mean, plus ½ Σ_i spread_i / prior_variance_i. For a prior N(A z + b, ·) with
    z ~ N(μ, Σ), spread is the diagonal of A Σ Aᵀ (latent tracking, arXiv 2602.00458).
    """
    ratio = variance / prior_variance
    shift = jnp.square(mean - prior_mean) + spread
    return 0.5 * jnp.sum(ratio - jnp.log(ratio) - 1 + shift / prior_variance, axis=-1)
