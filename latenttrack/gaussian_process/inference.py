"""Filtering and smoothing with sites: init → predict → update → … one step at a time, or all steps at once, in O(T)."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from latenttrack.gaussian_process import associative, checks, sequential
from latenttrack.gaussian_process.state_space import StateSpace
from latenttrack.gaussian_process.steps import Belief, Pass, Site, Step, absorb, move, observed, product, start, times


def init(model: StateSpace) -> Belief:
    """N(0, P∞), the belief about x_1 before any site.

    Examples:
        >>> gp.init(gp.matern(1.5, 2.0)).covariance.shape
        (2, 2)
    """
    checks.model(model, StateSpace)
    return start(model)


def predict(model: StateSpace, belief: Belief, index: int | Array = 0) -> Belief:
    """N(A m, A P Aᵀ + Q), one step on; ``index`` (0 … T−2) tells which step of a model of irregular ones.

    Examples:
        >>> model = gp.matern(0.5, 2.0)
        >>> print(gp.predict(model, gp.init(model)).covariance.round(3))  # stationary
        [[1.]]
    """
    size = checks.model(model, StateSpace)
    _check_belief(belief, size)
    irregular = model.transition.ndim == 3
    return move(belief, *((part[index] for part in model[:2]) if irregular else model[:2]))


def update(belief: Belief, site: Site) -> tuple[Belief, Float[Array, ""]]:
    """The belief after one step's site and the site's log evidence log ∫ N(x; m, P) exp(−½ λ (y − f)²) dx, in nats.

    Args:
        belief: predicted, [S] and [S, S].
        site: of this step, of shape [], or [C] for the state's first C coordinates.

    Raises:
        TypeError, ValueError: shapes that do not fit, a negative precision.

    Examples:
        >>> belief, log_evidence = gp.update(gp.init(gp.matern(0.5, 2.0)), gp.Site(1.0, 1.0))
        >>> print(belief.mean.round(3), belief.covariance.round(3))
        [0.5] [[0.5]]
    """
    _check_belief(belief, None)
    checks.instance("site", site, Site, "write gaussian_process.Site(mean, precision)")
    if jnp.ndim(site.mean) > 1:
        raise ValueError(f"site: expected shape () or (C,), got {jnp.shape(site.mean)}; scan or vmap over several")
    batch = Site(*(checks.numbers("site", part, "one number, or one for each output")[None] for part in site))
    batch = checks.sites(batch, Site, None, belief.mean.shape[-1])
    mean, precision = (jnp.atleast_1d(part[0]) for part in observed(batch))
    step = absorb(belief, mean, precision)
    return step.belief, step.log_evidence


def smooth(model: StateSpace, sites: Site, *, parallel: bool = False) -> Belief:
    """The marginals of the states given all sites: means [T, S], covariances [T, S, S].

    Args:
        model: of one channel; vmap over several.
        sites: [T], or [T, C] for the state's first C coordinates.
        parallel: an associative scan, O(log T) deep, in place of a scan: the same numbers, for accelerators.

    Raises:
        TypeError, ValueError: shapes that do not fit, a negative precision.

    Examples:
        >>> sites = gp.Site(jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0]))  # the first step is missing
        >>> print(gp.smooth(gp.matern(0.5, 2.0), sites).mean[:, 0].round(3))
        [0.303 0.5  ]
    """
    sites = check(model, sites, parallel)
    return smoothed(model, sites, parallel)[0]


def filter(model: StateSpace, sites: Site, *, parallel: bool = False) -> tuple[Belief, Belief, Float[Array, " T"]]:
    """Beliefs before and after each step's site (predicted, filtered), and each site's log evidence given those before.

    Args and errors as for :func:`smooth`.

    Examples:
        >>> sites = gp.Site(jnp.array([1.0, 1.0]), jnp.array([1.0, 0.0]))  # the second step is missing
        >>> predicted, filtered, log_evidence = gp.filter(gp.matern(0.5, 2.0), sites)
        >>> print(filtered.mean[:, 0].round(3))
        [0.5   0.303]
    """
    sites = check(model, sites, parallel)
    return filtered(model, sites, parallel)


def check(model: StateSpace, sites: Site, parallel: bool) -> Site:
    """The sites as arrays, after all checks."""
    size = checks.model(model, StateSpace)
    checks.flag("parallel", parallel)
    return checks.sites(sites, Site, model, size)


def _check_belief(belief: Belief, size: int | None) -> None:
    checks.instance("belief", belief, Belief, "take it from init, predict or update")
    mean, covariance = (jnp.shape(part) for part in belief)
    expected = (size if size is not None else (mean[0] if len(mean) == 1 else "S"),)
    if mean != expected or covariance != expected * 2:
        raise ValueError(
            f"belief: expected shapes {expected} and {expected * 2}, got {mean} and {covariance}; vmap over channels"
        )


@functools.partial(jax.jit, static_argnums=2)
def smoothed(model: StateSpace, sites: Site, parallel: bool) -> tuple[Belief, Step, Pass]:
    """Marginals given all sites, with the passes that they come from."""
    passes = associative if parallel else sequential
    _, steps = passes.forward(model, sites)
    later = passes.backward(model, steps)
    mean, covariance = steps.belief
    moved = mean + times(covariance, later.pull)
    less = product(covariance, product(later.information, covariance))
    return Belief(moved, covariance - less), steps, later


@functools.partial(jax.jit, static_argnums=2)
def filtered(model: StateSpace, sites: Site, parallel: bool) -> tuple[Belief, Belief, Array]:
    """Beliefs before and after each site, and its log evidence."""
    predicted, steps = (associative if parallel else sequential).forward(model, sites)
    return predicted, steps.belief, steps.log_evidence
