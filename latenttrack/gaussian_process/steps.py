"""One step of inference on the state of a channel: start → move → absorb a site → move.

A site is the factor exp(−½ λ_t (y_t − f_t)²) of q ∝ p(f) ∏ sites; of several outputs, one for each. λ = 0 leaves p
alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from latenttrack.gaussian_process.state_space import StateSpace


class Site(NamedTuple):
    """exp(−½ precision (mean − f)²), of one step [] or [C], or of all [T] or [T, C]; precision 0: missing."""

    mean: Float[Array, "..."]
    precision: Float[Array, "..."]


class Belief(NamedTuple):
    """N(mean, covariance) over the state: [S] and [S, S], with a leading axis T for all steps."""

    mean: Float[Array, "*T S"]
    covariance: Float[Array, "*T S S"]


class Step(NamedTuple):
    """What an update says beside the belief, for the pass back.

    Attributes:
        belief: after the site.
        forget: I − K H.
        pull: Hᵀ d⁻¹ λ v, the gradient of the log evidence in the predicted state [S].
        information: Hᵀ d⁻¹ λ H [S, S], its negative curvature.
        residual: y − f at the updated mean [C].
        log_evidence: −½ log d − ½ λ v² / d, in nats.
    """

    belief: Belief
    forget: Float[Array, "S S"]
    pull: Float[Array, " S"]
    information: Float[Array, "S S"]
    residual: Float[Array, " C"]
    log_evidence: Float[Array, ""]


def observed(sites: Site) -> Site:
    """Without what a missing step's mean may hold."""
    return Site(jnp.where(sites.precision > 0, sites.mean, 0), sites.precision)


def columns(sites: Site) -> Site:
    """[T, C], also of one output."""
    sites = observed(sites)
    return Site(*(part if part.ndim == 2 else part[:, None] for part in sites))


def start(model: StateSpace) -> Belief:
    """N(0, P∞)."""
    root = model.stationary_root
    return Belief(jnp.zeros(root.shape[:-1], root.dtype), root @ root.T)


def move(belief: Belief, transition: Array, noise_root: Array) -> Belief:
    """One step on."""
    covariance = product(transition, product(belief.covariance, transition.mT)) + noise_root @ noise_root.mT
    return Belief((transition * belief.mean[..., None, :]).sum(-1), covariance)


def product(a: Array, b: Array) -> Array:
    """A B; of small matrices as sums that the compiler fuses, where a call for each would cost more than the work."""
    if a.shape[-1] > 4:
        return a @ b
    return sum(a[..., :, k, None] * b[..., None, k, :] for k in range(a.shape[-1]))


def absorb(belief: Belief, y: Array, precision: Array) -> Step:
    """One step's sites [C], through d = I + Λ P."""
    return (_absorb_one if y.shape[-1] == 1 else _absorb_several)(belief, y, precision)


def _absorb_one(belief: Belief, y: Array, precision: Array) -> Step:
    """One output: nothing but a division. Joseph's form keeps P positive semi-definite."""
    mean, covariance = belief
    y, precision = y[0], precision[0]
    column, innovation = covariance[:, 0], y - mean[0]
    d = 1 + precision * column[0]
    gain = precision * column / d
    first = jnp.zeros_like(mean).at[0].set(1)
    # 1 − K₁ is 1/d, without the cancellation of a large precision.
    kept = jnp.eye(len(mean), dtype=mean.dtype) - jnp.outer(gain.at[0].set(0), first)
    kept = kept.at[0, 0].set(1 / d)
    after = product(kept, product(covariance, kept.T)) + precision / d**2 * column[:, None] * column
    log_evidence = -0.5 * jnp.log1p(precision * column[0]) - 0.5 * precision * innovation**2 / d
    return Step(
        Belief(mean + gain * innovation, after),
        kept,
        first * (precision * innovation / d),
        jnp.outer(first, first) * (precision / d),
        (innovation / d)[None],
        log_evidence,
    )


def _absorb_several(belief: Belief, y: Array, precision: Array) -> Step:
    """C outputs at once, through D = I + Λ^½ P Λ^½, whose eigenvalues are at least 1."""
    mean, covariance = belief
    width = len(y)
    seen = precision > 0
    root = jnp.where(seen, jnp.sqrt(jnp.where(seen, precision, 1)), 0)
    innovation = y - mean[:width]
    d = jnp.eye(width, dtype=mean.dtype) + root[:, None] * covariance[:width, :width] * root
    lower = jnp.linalg.cholesky(d)
    inverse = jax.scipy.linalg.cho_solve((lower, True), jnp.eye(width, dtype=mean.dtype))
    information = root[:, None] * inverse * root
    columns = covariance[:, :width]
    kept = jnp.eye(len(mean), dtype=mean.dtype).at[:, :width].add(-columns @ information)
    spread = columns @ (root[:, None] * inverse)
    whitened = inverse @ (root * innovation)
    weight = root * whitened
    log_evidence = -jnp.log(jnp.diagonal(lower)).sum() - 0.5 * innovation @ weight
    pull = jnp.zeros_like(mean).at[:width].set(weight)
    residual = jnp.where(seen, whitened / jnp.where(seen, root, 1), innovation)
    after = Belief(mean + columns @ weight, kept @ covariance @ kept.T + spread @ spread.T)
    full = jnp.zeros_like(covariance).at[:width, :width].set(information)
    return Step(after, kept, pull, full, residual, log_evidence)
