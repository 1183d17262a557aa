"""Prediction: one step of the random walk with decay towards a centre."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lowrank_filter.algebra import tree, widths
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import Shared, compiled
from lowrank_filter.kernels.belief import Belief, check_belief, learned


def predict(belief: Belief, process_noise: Tree, transition: Tree = 1.0, center: Tree | None = None) -> Belief:
    """The belief about θ' = c + a (θ − c) + ε, ε ~ N(0, diag q).

    m⁻ = a m + (1 − a) c and P⁻ = (a P⁻¹ a + diag q)⁻¹, exactly: one k×k Cholesky, no subtraction, no growth of the rank
    (the form of LR-LGF, arXiv 2410.06800, without its two inversions). With q = (1 − a²)/p the prior N(c, 1/p) is
    stationary: an Ornstein-Uhlenbeck process, which forgets towards c (Soft Resets, arXiv 2411.04034). Frozen
    parameters stay where they are.

    Args:
        process_noise: q ≥ 0, a variance per step: a scalar or a pytree prefix of the parameters.
        transition: a, dimensionless: a scalar or a pytree prefix of the parameters. In a :class:`Kronecker` belief both
            are one scalar for each layer.
        center: c, where weights that are not observed return to: a pytree prefix of the parameters, for instance those
            that a network was pretrained to. None: 0.

    Raises:
        ValueError: an argument is not a prefix of the parameters, or a visible noise is negative, or a Kronecker belief
            gets more than one noise or transition in a layer.

    Examples:
        >>> belief = lf.init(jnp.ones(2), precision=1.0, rank=0)
        >>> belief = lf.predict(belief, process_noise=0.75, transition=0.5)
        >>> print(belief.mean, lf.inverse_diagonal(belief.precision))  # the variance is 0.5² + 0.75
        [0.5 0.5] [1. 1.]
    """
    check_belief(belief)
    check_dynamics(belief, process_noise, transition, center)
    return compiled(_predict, belief, Shared.of(process_noise), Shared.of(transition), center)


def _predict(belief: Belief, process_noise: Shared, transition: Shared, center: Tree | None) -> Belief:
    belief, _, whole = learned(belief)
    wide = widths.cast(belief, widths.common(belief))
    mean, noise, decay = dynamics(wide, process_noise, transition, center)
    return whole(widths.like(Belief(mean, wide.precision.propagate(noise, decay)), belief))


def check_dynamics(belief: Belief, process_noise: Tree, transition: Tree, center: Tree | None) -> None:
    """Noise, transition and centre for a belief that is one."""
    checks.prefix("process_noise", process_noise, belief.mean)
    checks.not_negative("process_noise", process_noise)
    checks.prefix("transition", transition, belief.mean)
    checks.finite("transition", transition)
    if center is not None:
        checks.prefix("center", center, belief.mean)
    checks.finite("center", center)
    check = getattr(belief.precision, "check_dynamics", None)  # only of a structure that has no room for some
    if check is not None:
        check("process_noise", process_noise, belief.mean)
        check("transition", transition, belief.mean)


def dynamics(belief: Belief, process_noise: Shared, transition: Shared, center: Tree | None) -> tuple[Tree, Any, Any]:
    """The predicted mean, and noise and transition in the form that the precision's operations take."""
    noise = belief.precision.in_structure("process_noise", process_noise.tree, belief.mean)
    decay = belief.precision.in_structure("transition", transition.tree, belief.mean)
    return moved(belief.mean, transition.tree, center), noise, decay


def moved(mean: Tree, transition: Tree, center: Tree | None) -> Tree:
    """a m + (1 − a) c: the mean itself where a = 1, whatever c is."""
    decay = tree.broadcast(transition, mean)
    kept = jax.tree.map(jnp.multiply, decay, mean)
    if center is None:
        return kept
    return jax.tree.map(lambda k, a, c: k + (1 - a) * c, kept, decay, tree.broadcast(center, mean))


def per_step(name: str, value: Tree, like: Tree, steps: int) -> Callable[[Any], Tree]:
    """A function from a step's index to that step's noise, transition or centre, a prefix of the parameters.

    A leaf that broadcasts to the parameters it covers is the same for all steps; otherwise its first axis counts them.
    """

    def stacked(leaf: Any, covered: Tree) -> bool:
        shapes = [jnp.shape(reference) for reference in jax.tree.leaves(covered)]
        shape = checks.shape_of(name, leaf)
        if all(checks.broadcastable(shape, reference) for reference in shapes):
            return False
        if shape[:1] == (steps,) and all(checks.broadcastable(shape[1:], reference) for reference in shapes):
            return True
        raise ValueError(
            f"{name}: expected a scalar or a pytree prefix of the parameters, the same for all steps or stacked along "
            f"T = {steps}; got a leaf of shape {shape} for parameters of shape {shapes[0]}; {checks.LAYOUT}"
        )

    is_stacked = checks.map_prefix(name, stacked, value, like)

    def at(step: Any) -> Tree:
        return jax.tree.map(lambda leaf, many: jnp.asarray(leaf)[step] if many else leaf, value, is_stacked)

    return at
