"""Draws of paths: from the prior, from a posterior (Matheron's rule), and on from given values."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from latenttrack.gaussian_process import associative, checks, inference
from latenttrack.gaussian_process.posteriors import resolved_noise
from latenttrack.gaussian_process.state_space import StateSpace
from latenttrack.gaussian_process.steps import Site, columns


def sample(
    model: StateSpace,
    key: Key[Array, ""],
    steps: int,
    *,
    sites: Site | None = None,
    given: Float[ArrayLike, "..."] | None = None,
    outputs: int | None = None,
    parallel: bool = False,
) -> Float[Array, "..."]:
    """One path of f; vmap over keys for several.

    Of the prior; with ``sites`` of the first steps, of the posterior, z = f* + smooth(y) − smooth(y*) with a prior path
    f* and y* ~ N(f*, 1/λ) (Matheron's rule: no factorisation); with ``given`` values z_{1:T}, of what comes after them,
    p(z_{T+1:T+steps} | z_{1:T}).

    Args:
        model: of one channel; vmap over several.
        key: a typed random key.
        steps: how many steps are drawn; with ``sites`` at least as many as there are, those after them continue.
        sites: [T] or [T, C], T ≤ steps.
        given: values [T] or [T, C] of the process; only the steps after them are returned.
        outputs: C of a prior path, for the state's first C coordinates; None: [steps] of the first.
        parallel: associative scans in place of scans: the same law, and the same path but for rounding.

    Returns:
        [steps], or [steps, C] with outputs, or where sites or given have C columns.

    Raises:
        TypeError, ValueError: no typed key, shapes that do not fit, sites and given at once.

    Examples:
        >>> gp.sample(gp.matern(1.5, 2.0), jax.random.key(0), 5).shape
        (5,)
    """
    size = checks.model(model, StateSpace)
    key = checks.key("key", key)
    checks.count("steps", steps, minimum=1)
    checks.flag("parallel", parallel)
    width = checks.count_of_outputs(outputs, size)
    if sum(value is not None for value in (sites, given, outputs)) > 1:
        raise ValueError("sites: expected one of sites, given and outputs, got several; leave all but one out")
    total = steps
    if sites is not None:
        sites = _checked(sites, size)
        if len(sites.mean) > steps:
            raise ValueError(f"sites: expected at most steps = {steps} of them, got {len(sites.mean)}; raise steps")
        shape = sites.mean.shape
    elif given is not None:
        given = checks.values("given", given, None, size)
        shape = given.shape
        total = steps + len(given)
        sites = Site(given, jnp.full_like(given, 1 / resolved_noise(model, None)))
    else:
        shape = (steps,) if outputs is None else (steps, width)
    checks.fits("steps", total, model)
    width = 1 if len(shape) == 1 else shape[1]
    path = _sample(model, key, total, width, sites, given is not None, parallel)
    return path[total - steps :].reshape(steps, *shape[1:])


def _checked(sites: Site, size: int) -> Site:
    return checks.sites(sites, Site, None, size)


@functools.partial(jax.jit, static_argnums=(2, 3, 5, 6))
def _sample(
    model: StateSpace, key: Array, length: int, width: int, sites: Site | None, exact: bool, parallel: bool
) -> Array:
    first, second = jax.random.split(key)
    path = _prior(model, first, length, parallel)[:, :width]
    if sites is None:
        return path
    mean, precision = (jnp.pad(part, ((0, length - len(part)), (0, 0))) for part in columns(sites))
    seen = precision > 0
    noise = jnp.where(seen, jax.random.normal(second, mean.shape, mean.dtype), 0)
    spread = 0 if exact else noise / jnp.sqrt(jnp.where(seen, precision, 1))
    # smooth is linear in y.
    moved = inference.smoothed(model, Site(jnp.where(seen, mean - path - spread, 0), precision), parallel)[0]
    return path + moved.mean[:, :width]


def _prior(model: StateSpace, key: Array, length: int, parallel: bool) -> Array:
    """States [T, S]."""
    size, sources = model.noise_root.shape[-2:]
    first, rest = jax.random.split(key)
    dtype = model.stationary_root.dtype
    start = model.stationary_root @ jax.random.normal(first, (size,), dtype)
    draws = jax.random.normal(rest, (length - 1, sources), dtype)
    offsets = (model.noise_root @ draws[..., None])[..., 0]
    transition = jnp.broadcast_to(model.transition, (length - 1, size, size))
    if parallel:
        into = jnp.concatenate([jnp.zeros((1, size, size), dtype), transition])
        return associative.affine(into, jnp.concatenate([start[None], offsets]))

    def body(state: Array, inputs: tuple) -> tuple[Array, Array]:
        state = inputs[0] @ state + inputs[1]
        return state, state

    return jnp.concatenate([start[None], jax.lax.scan(body, start, (transition, offsets))[1]])
