"""One step of inference on the state of a channel: start → move → absorb a site → move.

A site is the factor exp(−½ λ_t (y_t − f_t)²) of q ∝ p(f) ∏ sites; of several outputs, one for each. λ = 0 leaves p
alone.
"""

import functools
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


class Pass(NamedTuple):
    """What the future says about the state after a step: r [S] and N [S, S]; mˢ = m + P r, Pˢ = P − P N P."""

    pull: Float[Array, "*T S"]
    information: Float[Array, "*T S S"]


class One(NamedTuple):
    """A step of one output, d = 1 + excess.

    Attributes:
        belief: after the site.
        gain: K = λ P e₁ / d.
        excess: λ P₁₁.
        innovation: v = y − f.
        precision: λ.
    """

    belief: Belief
    gain: Float[Array, " S"]
    excess: Float[Array, ""]
    innovation: Float[Array, ""]
    precision: Float[Array, ""]

    @property
    def residual(self) -> Float[Array, "*T 1"]:
        """y − f at the updated mean, which a large precision does not cancel."""
        return (self.innovation / (1 + self.excess))[..., None]

    @property
    def log_evidence(self) -> Float[Array, "*T"]:
        """−½ log d − ½ λ v² / d, in nats."""
        fit = self.precision * self.innovation**2 / (1 + self.excess)
        return -0.5 * (jnp.log1p(self.excess) + fit)

    def operators(self) -> tuple[Array, Array, Array]:
        """I − K H, and the gradient and negative curvature of the log evidence in the predicted state."""
        size = len(self.gain)
        d = 1 + self.excess
        first = jnp.eye(1, size, dtype=self.gain.dtype)[0]
        forget = jnp.eye(size, dtype=d.dtype).at[:, 0].set(_kept(self))
        return forget, first * (self.precision * self.innovation / d), jnp.outer(first, first) * (self.precision / d)

    def before(self, later: Pass) -> Pass:
        """What the site and the future say of the predicted state; I − K H differs from I in its first column only."""
        d = 1 + self.excess
        kept = _kept(self)
        pull, information = later
        inner = times(information, kept)
        first = jnp.arange(len(kept)) == 0
        corner = (kept * inner).sum() + self.precision / d
        row = jnp.where(first, corner, inner)
        return Pass(
            jnp.where(first, (kept * pull).sum() + self.precision * self.innovation / d, pull),
            jnp.where(first[:, None], row, jnp.where(first, row[:, None], information)),
        )


def _kept(step: One) -> Array:
    """(I − K H) e₁; 1 − K₁ is 1/d, without the cancellation of a large precision."""
    return jnp.where(jnp.arange(len(step.gain)) == 0, 1 / (1 + step.excess), -step.gain)


class Several(NamedTuple):
    """A step of C outputs.

    Attributes:
        belief: after the sites.
        forget: I − K H.
        pull, information: gradient and negative curvature of the log evidence in the predicted state.
        residual: y − f at the updated mean [C].
        log_evidence: −½ log |D| − ½ vᵀ Λ^½ D⁻¹ Λ^½ v, in nats.
    """

    belief: Belief
    forget: Float[Array, "S S"]
    pull: Float[Array, " S"]
    information: Float[Array, "S S"]
    residual: Float[Array, " C"]
    log_evidence: Float[Array, ""]

    def operators(self) -> tuple[Array, Array, Array]:
        """As :meth:`One.operators`."""
        return self.forget, self.pull, self.information

    def before(self, later: Pass) -> Pass:
        """As :meth:`One.before`."""
        forget = self.forget.T
        return Pass(self.pull + forget @ later.pull, self.information + forget @ later.information @ forget.T)


Step = One | Several


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
    return Belief(times(transition, belief.mean), covariance)


def product(a: Array, b: Array) -> Array:
    """A B; of small matrices as sums that the compiler fuses, where a call for each would cost more than the work."""
    if a.shape[-1] > 4:
        return a @ b
    terms = [a[..., :, k, None] * b[..., None, k, :] for k in range(a.shape[-1])]
    return functools.reduce(jnp.add, terms)


def times(matrix: Array, vector: Array) -> Array:
    """A x; written as sums like :func:`product`.

    A product with a broadcast factor, summed over its last axis, is what XLA gets wrong on a CPU once the result has
    more than 2¹⁵ elements (jaxlib 0.10).
    """
    if matrix.shape[-1] > 4:
        return (matrix @ vector[..., None])[..., 0]
    terms = [matrix[..., :, k] * vector[..., None, k] for k in range(matrix.shape[-1])]
    return functools.reduce(jnp.add, terms)


def absorb(belief: Belief, y: Array, precision: Array) -> Step:
    """One step's sites [C], through d = I + Λ P."""
    return (_absorb_one if y.shape[-1] == 1 else _absorb_several)(belief, y, precision)


def _absorb_one(belief: Belief, y: Array, precision: Array) -> One:
    """One output: nothing but a division."""
    mean, covariance = belief
    y, precision = y[0], precision[0]
    column, innovation = covariance[:, 0], y - mean[0]
    excess = precision * column[0]
    d = 1 + excess
    gain = precision * column / d
    first = jnp.arange(len(mean)) == 0
    # P − K P₁ in the first row and column is P₁/d, without the cancellation of a large precision.
    left = column / d
    after = jnp.where(first[:, None], left, jnp.where(first, left[:, None], covariance - gain[:, None] * column))
    return One(Belief(mean + gain * innovation, after), gain, excess, innovation, precision)


def _absorb_several(belief: Belief, y: Array, precision: Array) -> Several:
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
    return Several(after, kept, pull, full, residual, log_evidence)
