"""The passes over all steps as scans."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from latenttrack.gaussian_process.state_space import StateSpace
from latenttrack.gaussian_process.steps import Belief, Pass, Site, Step, absorb, columns, move, product, start, times


def transitions(model: StateSpace, length: int) -> tuple[Array, Array] | None:
    """A and L of the step after each of the T, with one after the last that is not used; None for regular steps."""
    if model.transition.ndim == 2:
        return None
    if length == 1:
        size = model.stationary_root.shape[0]
        return jnp.zeros((1, size, size)), jnp.zeros((1, size, 1))
    return tuple(jnp.concatenate([part, part[-1:]]) for part in model[:2])  # pyright: ignore


def forward(model: StateSpace, sites: Site) -> tuple[Belief, Step]:
    """Predicted beliefs, and the steps."""
    mean, precision = columns(sites)

    def body(belief: Belief, inputs: tuple) -> tuple[Belief, tuple]:
        y, precision, moved = inputs
        step = absorb(belief, y, precision)
        return move(step.belief, *(model[:2] if moved is None else moved)), (belief, step)

    inputs = (mean, precision, transitions(model, len(mean)))
    return jax.lax.scan(body, start(model), inputs)[1]


def backward(model: StateSpace, steps: Step) -> Pass:
    """r and N of each step, from the sites after it."""
    mean, covariance = steps.belief
    zero = Pass(jnp.zeros_like(mean[0]), jnp.zeros_like(covariance[0]))

    def body(later: Pass, inputs: tuple) -> tuple[Pass, Pass]:
        step, moved = inputs
        transition = (model.transition if moved is None else moved[0]).T
        pull = times(transition, later.pull)
        after = Pass(pull, product(transition, product(later.information, transition.T)))
        return step.before(after), after

    inputs = (steps._replace(belief=None), transitions(model, len(mean)))
    return jax.lax.scan(body, zero, inputs, reverse=True)[1]
