"""The dense form of one channel, O(T³): a process given by its covariance matrix alone."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, Key

from latenttrack.gaussian_process.posteriors import MeanField, Posterior
from latenttrack.gaussian_process.steps import Site, observed

Covariance = Float[Array, "n n"]


def posterior(covariance: Covariance, sites: Site) -> Posterior:
    """As :func:`gaussian_process.posterior`, sites [n], by one Cholesky factor of I + Λ^½ K Λ^½."""
    y, precision = observed(sites)
    root, lower = _factor(covariance, precision)
    half = solve_triangular(lower, root[:, None] * covariance, lower=True)
    whitened = solve_triangular(lower, root * y, lower=True)
    mean, variance = half.T @ whitened, jnp.diagonal(covariance) - (half**2).sum(0)
    log_evidence = -jnp.log(jnp.diagonal(lower)).sum() - 0.5 * (whitened**2).sum()
    divergence = -0.5 * (precision * ((y - mean) ** 2 + variance)).sum() - log_evidence
    return Posterior(mean, variance, divergence, log_evidence)


def _factor(covariance: Covariance, precision: Array) -> tuple[Array, Array]:
    """Λ^½, and L of I + Λ^½ K Λ^½."""
    seen = precision > 0
    root = jnp.where(seen, jnp.sqrt(jnp.where(seen, precision, 1)), 0)
    return root, jnp.linalg.cholesky(jnp.eye(len(root), dtype=root.dtype) + root[:, None] * covariance * root)


def divergence(covariance: Covariance, q: MeanField) -> Float[Array, ""]:
    """KL(∏ N(mean, variance) ‖ N(0, K)) in nats."""
    lower = jnp.linalg.cholesky(covariance)
    inverse = solve_triangular(lower, jnp.eye(len(lower), dtype=lower.dtype), lower=True)
    trace = ((inverse**2).sum(0) * q.variance).sum()
    fit = ((inverse @ q.mean) ** 2).sum()
    return 0.5 * (trace + fit - len(lower) - jnp.log(q.variance).sum()) + jnp.log(jnp.diagonal(lower)).sum()


def log_prob(covariance: Covariance, values: Float[Array, " n"]) -> Float[Array, ""]:
    """log N(values; 0, K) in nats."""
    lower = jnp.linalg.cholesky(covariance)
    whitened = solve_triangular(lower, values, lower=True)
    return -0.5 * ((whitened**2).sum() + len(lower) * jnp.log(2 * jnp.pi)) - jnp.log(jnp.diagonal(lower)).sum()


def sample(covariance: Covariance, key: Key[Array, ""], sites: Site | None = None, *, rows: bool = False) -> Array:
    """A path [n] of the prior, or of the posterior by Matheron's rule.

    ``rows`` draws one value after another, each given those before it: the same path.
    """
    first, second = jax.random.split(key)
    lower = jnp.linalg.cholesky(covariance)
    noise = jax.random.normal(first, (len(lower),), lower.dtype)
    path = jax.lax.map(lambda row: row @ noise, lower) if rows else lower @ noise
    if sites is None:
        return path
    y, precision = observed(sites)
    seen = precision > 0
    spread = jax.random.normal(second, y.shape, y.dtype) / jnp.sqrt(jnp.where(seen, precision, 1))
    root, factor = _factor(covariance, precision)
    error = root * jnp.where(seen, y - path - spread, 0)
    return path + covariance @ (root * cho_solve((factor, True), error))
