"""Posteriors of one channel with their divergences from the prior, in closed form and O(T)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float

from latenttrack.gaussian_process import associative, checks, inference, sequential
from latenttrack.gaussian_process.state_space import StateSpace
from latenttrack.gaussian_process.steps import Pass, Site, Step, times


class Posterior(NamedTuple):
    """q(f) ∝ p(f) ∏ sites.

    Attributes:
        mean, variance: of q(f_t), of the sites' shape.
        divergence: KL(q‖p) of all steps, in nats.
        log_evidence: log Z = log ∫ p(f) ∏ exp(−½ λ (y − f)²) df, in nats. Data with noise of variance 1/λ have
            log density log Z + ½ Σ log(λ / 2π).
    """

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]
    divergence: Float[Array, ""]
    log_evidence: Float[Array, ""]


class MeanField(NamedTuple):
    """q(f) = ∏ N(mean, variance) of all steps [T] or [T, C]."""

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]


def posterior(model: StateSpace, sites: Site, *, parallel: bool = False) -> Posterior:
    """Filter, smoother, divergence and evidence.

    KL(q‖p) = Σ_t {−½ λ_t [(y_t − m_t)² + s_t] − log Z_t} with m, s the smoothed mean and variance. Sites of
    precision 0 at the end make a forecast, in between an interpolation.

    Args:
        model: of one channel; vmap over several.
        sites: [T], or [T, C] for the state's first C coordinates.
        parallel: an associative scan in place of a scan: the same numbers.

    Raises:
        TypeError, ValueError: shapes that do not fit, a negative precision, a mean that is not finite.

    Examples:
        >>> q = gp.posterior(gp.matern(0.5, 2.0), gp.Site(jnp.array([1.0]), jnp.array([1.0])))
        >>> print(q.mean.round(3), q.variance.round(3))
        [0.5] [0.5]
    """
    return _posterior(model, inference.check(model, sites, parallel), parallel)


@functools.partial(jax.jit, static_argnums=2)
def _posterior(model: StateSpace, sites: Site, parallel: bool) -> Posterior:
    marginals, steps, later = inference.smoothed(model, sites, parallel)
    width = 1 if sites.mean.ndim == 1 else sites.mean.shape[1]
    shape = sites.mean.shape
    variance = jnp.diagonal(marginals.covariance, axis1=1, axis2=2)[:, :width].reshape(shape)
    log_evidence = steps.log_evidence.sum()
    divergence = _energy(steps, later, variance, sites.precision).sum() - log_evidence
    return Posterior(marginals.mean[:, :width].reshape(shape), variance, divergence, log_evidence)


def _energy(steps: Step, later: Pass, variance: Array, precision: Array) -> Array:
    """E_q log of each site; y − m from the filter's residual, which a large precision does not cancel."""
    width = steps.residual.shape[1]
    change = times(steps.belief.covariance[:, :width], later.pull)
    error = (steps.residual - change).reshape(precision.shape)
    return -0.5 * precision * (error**2 + variance)


def divergence(
    model: StateSpace, posterior: Site | MeanField, *, noise: ArrayLike | None = None, parallel: bool = False
) -> Float[Array, ""]:
    """KL(q‖p) in nats, of the structured posterior that sites make or of a mean-field one, in O(T).

    A mean field: ½ Σ_t (log S_t + v_t²/S_t + D_t s_t − log s_t − 1) with innovations v of variance S of a
    filter on the means, and D the diagonal of the precision, from the pass back.

    Args:
        model: of one channel; vmap over several.
        posterior: a :class:`Site` [T] or [T, C], or a :class:`MeanField`.
        noise: variance added to the prior of a mean field, > 0; None: 10 epsilons of the dtype times the
            process's variance.
        parallel: associative scans in place of scans: the same number.

    Raises:
        TypeError, ValueError: another posterior, shapes that do not fit, a precision < 0, a variance ≤ 0.

    Examples:
        >>> site = gp.Site(jnp.array([0.0]), jnp.array([0.0]))  # which says nothing
        >>> abs(float(gp.divergence(gp.matern(0.5, 2.0), site)))
        0.0
    """
    if isinstance(posterior, MeanField):
        size = checks.model(model, StateSpace)
        checks.flag("parallel", parallel)
        q = checks.marginals(posterior, MeanField, model, size)
        return _mean_field(model, q, resolved_noise(model, noise), parallel)
    if not isinstance(posterior, Site):
        raise TypeError(
            f"posterior: expected a Site or a MeanField, got {type(posterior).__name__}; write "
            "gaussian_process.Site(mean, precision)"
        )
    return _posterior(model, inference.check(model, posterior, parallel), parallel).divergence


@functools.partial(jax.jit, static_argnums=3)
def _mean_field(model: StateSpace, q: MeanField, noise: Array, parallel: bool) -> Array:
    precision = jnp.full_like(q.mean, 1 / noise)
    passes = associative if parallel else sequential
    steps = passes.forward(model, Site(q.mean, precision))[1]
    later = passes.backward(model, steps)
    width = steps.residual.shape[1]
    # (K⁻¹)_tt = W + Kᵀ N K: K = (I − forget) on the observed columns.
    forget, _, information = jax.vmap(lambda step: step.operators())(steps)
    gain = (jnp.eye(forget.shape[1], dtype=noise.dtype) - forget)[:, :, :width]
    inner = information[:, :width, :width] + gain.mT @ later.information @ gain
    diagonal = jnp.diagonal(inner, axis1=1, axis2=2).reshape(q.mean.shape)
    fit = -steps.log_evidence.sum() + 0.5 * q.mean.size * jnp.log(noise)
    return fit + 0.5 * (diagonal * q.variance - jnp.log(q.variance) - 1).sum()


def log_prob(
    model: StateSpace,
    values: Float[ArrayLike, "..."],
    *,
    noise: ArrayLike | None = None,
    mask: Bool[ArrayLike, " T"] | None = None,
    parallel: bool = False,
) -> Float[Array, ""]:
    """log N(values; 0, K + noise·I) in nats, in O(T).

    Args:
        model: of one channel; vmap over several.
        values: [T], or [T, C] of the state's first C coordinates.
        noise: variance of what was added to the process, > 0; None: 10 epsilons of the dtype times the
            process's variance, for values of the process itself.
        mask: True where a step was observed [T]; None: everywhere.
        parallel: an associative scan in place of a scan.

    Raises:
        TypeError, ValueError: shapes that do not fit, noise ≤ 0.

    Examples:
        >>> round(float(gp.log_prob(gp.matern(0.5, 2.0), jnp.array([0.0]), noise=1.0)), 3)  # −½ log 4π
        -1.266
    """
    size = checks.model(model, StateSpace)
    checks.flag("parallel", parallel)
    values = checks.values("values", values, model, size, finite=mask is None)
    if mask is None:
        mask = jnp.ones(len(values), bool)
    mask = jnp.asarray(mask)
    if mask.shape != values.shape[:1] or mask.dtype != bool:
        raise ValueError(
            f"mask: expected booleans of shape {values.shape[:1]}, got {mask.dtype} of {mask.shape}; "
            "True where a step was observed"
        )
    return _log_prob(model, values, resolved_noise(model, noise), mask, parallel)


@functools.partial(jax.jit, static_argnums=4)
def _log_prob(model: StateSpace, values: Array, noise: Array, mask: Array, parallel: bool) -> Array:
    mask = mask.reshape(mask.shape + (1,) * (values.ndim - 1)) & jnp.ones(values.shape, bool)
    precision = jnp.where(mask, 1 / noise, 0)
    log_evidence = inference.filtered(model, Site(values, precision), parallel)[2].sum()
    return log_evidence - 0.5 * mask.sum() * jnp.log(2 * jnp.pi * noise)


def resolved_noise(model: StateSpace, noise: ArrayLike | None) -> Array:
    """The variance, or the least that the dtype allows."""
    if noise is not None:
        return checks.number("noise", noise)
    return 10 * jnp.finfo(model.stationary_root.dtype).eps * (model.stationary_root[0] ** 2).sum()
