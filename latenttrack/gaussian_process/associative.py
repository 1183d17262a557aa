"""The same passes as associative scans, O(log T) deep (Särkkä & García-Fernández 2021); back without an inverse."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from latenttrack.gaussian_process.sequential import transitions
from latenttrack.gaussian_process.state_space import StateSpace
from latenttrack.gaussian_process.steps import Belief, Pass, Site, Step, absorb, columns, start


class _Element(NamedTuple):
    """p(x_j | x_i, sites between) = N(A x_i + b, C), and the sites' likelihood of x_i with information η, J."""

    transition: Float[Array, "T S S"]
    mean: Float[Array, "T S"]
    covariance: Float[Array, "T S S"]
    pull: Float[Array, "T S"]
    information: Float[Array, "T S S"]


def forward(model: StateSpace, sites: Site) -> tuple[Belief, Step]:
    """As `sequential.forward`."""
    mean, precision = columns(sites)
    first = start(model)
    size = len(first.mean)
    length = len(mean)
    transition = jnp.broadcast_to(model.transition, (length - 1, size, size))
    noise = jnp.broadcast_to(model.noise_root @ model.noise_root.mT, (length - 1, size, size))
    own = Belief(
        jnp.concatenate([first.mean[None], jnp.zeros((length - 1, size), noise.dtype)]),
        jnp.concatenate([first.covariance[None], noise]),
    )
    into = jnp.concatenate([jnp.zeros_like(first.covariance)[None], transition])
    local = jax.vmap(absorb)(own, mean, precision)
    forget, pull, information = jax.vmap(lambda step: step.operators())(local)
    elements = _Element(
        forget @ into,
        *local.belief,
        (into.mT @ pull[..., None])[..., 0],
        into.mT @ information @ into,
    )
    scanned = jax.lax.associative_scan(jax.vmap(_combine), elements)
    predicted = Belief(
        (into[1:] @ scanned.mean[:-1, :, None])[..., 0],
        into[1:] @ scanned.covariance[:-1] @ into[1:].mT + noise,
    )
    predicted = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, predicted)
    return predicted, jax.vmap(absorb)(predicted, mean, precision)


def _combine(i: _Element, j: _Element) -> _Element:
    one = jnp.eye(len(i.mean), dtype=i.mean.dtype)
    # A_j (I + C_i J_j)⁻¹ and A_iᵀ (I + J_j C_i)⁻¹.
    mixed = one + i.covariance @ j.information
    onto = jnp.linalg.solve(mixed.T, j.transition.T).T
    back = jnp.linalg.solve(mixed, i.transition).T
    covariance = onto @ i.covariance @ j.transition.T + j.covariance
    information = back @ j.information @ i.transition + i.information
    return _Element(
        onto @ i.transition,
        onto @ (i.mean + i.covariance @ j.pull) + j.mean,
        (covariance + covariance.T) / 2,
        back @ (j.pull - j.information @ i.mean) + i.pull,
        (information + information.T) / 2,
    )


def backward(model: StateSpace, steps: Step) -> Pass:
    """As `sequential.backward`: r and N are affine in those of the step after."""
    length, size = steps.belief.mean.shape
    moved = transitions(model, length)
    transition = jnp.broadcast_to(model.transition, (length, size, size)) if moved is None else moved[0]
    # From what is after step t+1 to what is after t.
    operators = jax.vmap(lambda step: step.operators())(steps)
    forget, pull, information = (jnp.concatenate([part[1:], jnp.zeros_like(part[:1])]) for part in operators)
    across = transition.mT @ forget.mT
    elements = (
        across,
        (transition.mT @ pull[..., None])[..., 0],
        transition.mT @ information @ transition,
    )

    def combine(after: tuple, before: tuple) -> tuple:
        across, pull, information = before
        return (
            across @ after[0],
            pull + (across @ after[1][..., None])[..., 0],
            information + across @ after[2] @ across.mT,
        )

    return Pass(*jax.lax.associative_scan(combine, elements, reverse=True)[1:])


def affine(transition: Float[Array, "T S S"], offset: Float[Array, "T S"]) -> Float[Array, "T S"]:
    """x_t = A_t x_{t−1} + b_t from x_0 = 0, all t."""

    def combine(before: tuple, after: tuple) -> tuple:
        return after[0] @ before[0], (after[0] @ before[1][..., None])[..., 0] + after[1]

    return jax.lax.associative_scan(combine, (transition, offset))[1]
