"""Methods of batches that never say where a task ends: each forgets at its own rate, chosen like other settings."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lowrank_filter as lf
from experiments.continual.learners import Task, Training, fitted, free
from experiments.continual.online.filters import lofi
from experiments.continual.online.interface import Hyper, Method, Online, Problem
from experiments.continual.online.optimizers import trained

# Gradient steps of EWC on a batch: at the first its penalty has no gradient.
_INNER = 5
# Images of a gradient step on a part of a large batch, and of such a batch in its curvature.
_PART, _CURVATURE = 50, 1000


def _kept(hyper: Hyper) -> Any:
    """exp(−1/n), by which what a batch taught is 1/e of what it was after n of them; 1 for a memory of 0, which has no
    end. The settings count in tasks, so that a grid suits streams of any length; how many batches one has is "unit"."""
    length = hyper["memory"] * hyper["unit"]
    return jnp.where(length > 0, jnp.exp(-1 / jnp.where(length > 0, length, 1)), 1.0)


def returning(problem: Problem, structure: Any, hyper: Hyper) -> Online:
    """Weights that return to where they began, θ' = c + a(θ − c) + ε: the prior stays, what was learned fades.

    With q = (1 − a²)/p₀ the prior N(c, 1/p₀) is stationary. The state is a belief, c and q.
    """
    fading = jnp.sqrt(_kept(hyper))

    def build(first: Any) -> lf.Filter:
        prior = None if first is None else lf.scaled(problem.observed, first, variance=hyper["variance"])
        return lf.extended_filter(problem.observed, problem.likelihood, structure=structure, precision=prior)

    def init(params: Any, first: Any) -> Any:
        prior = lf.init(params, lf.scaled(problem.observed, first, variance=hyper["variance"]), rank=0)
        precision: Any = prior.precision
        noise = (1 - fading**2) / jax.tree.leaves(precision.diag)[0].ravel()[0]
        return build(first).init(params, first), params, noise

    def update(state: Any, seen: Any, target: Any) -> tuple[Any, Any]:
        belief, center, noise = state
        dynamics = {"process_noise": noise, "transition": fading, "center": center}
        belief, info = build(None).step(belief, seen, target, **dynamics)
        return (belief, center, noise), jnp.asarray(info.diverged)

    return Online(init, lambda state, x: problem.network.apply(state[0].mean, x), update)


def towards(problem: Problem, structure: Any, hyper: Hyper) -> Online:
    """Batches of thousands: train on one towards the belief, once through it, then absorb its curvature there.

    What was learned fades as :func:`faded` has it: noise added alike to all weights would take most from those that are
    known best. The state is a belief, the prior's mean and how many batches there were.
    """
    fading = _kept(hyper)

    def init(params: Any, first: Any) -> Any:
        return lf.init(params, hyper["precision"], structure=structure), params, jnp.zeros((), int)

    def update(state: Any, seen: Any, target: Any) -> tuple[Any, Any]:
        belief, start, count = state
        belief = faded(belief, lf.init(start, hyper["precision"], structure=structure), fading)
        params = _once(problem, belief, count, seen, target, hyper)
        belief, info = lf.laplace_update(
            *(belief, params, problem.observed, problem.likelihood, seen[:_CURVATURE], target[:_CURVATURE]),
            curvature_scale=hyper["curvature"] * max(1.0, len(target) / _CURVATURE),
        )
        return (belief, start, count + 1), ~jnp.isfinite(info.log_evidence)

    return Online(init, lambda state, x: problem.network.apply(state[0].mean, x), update)


def faded(belief: lf.Belief, prior: lf.Belief, kept: Any) -> lf.Belief:
    """The belief to the power γ times the prior to the power 1 − γ (Kulhavý and Zarrop 1993).

    P ← γP + (1 − γ)P₀,   m ← m − P⁻¹(1 − γ)P₀(m − m₀).
    """
    ahead = lf.predict(belief, 0.0, transition=jax.lax.rsqrt(kept), center=belief.mean)
    weak = lf.predict(prior, 0.0, transition=jax.lax.rsqrt(1 - kept), center=prior.mean)
    precision = ahead.precision.add(weak.precision)[0]
    pull = weak.precision.matvec(jax.tree.map(jnp.subtract, belief.mean, prior.mean))
    return belief._replace(mean=jax.tree.map(jnp.subtract, belief.mean, precision.solve(pull)), precision=precision)


def adam_batches(problem: Problem, rank: int, hyper: Hyper) -> Online:
    """Adam once through each batch, from where the last one left it; nothing is kept."""

    def update(state: Any, seen: Any, target: Any) -> tuple[Any, Any]:
        params, count = state
        params = _once(problem, free(params), count, seen, target, hyper, whitened=False)
        return (params, count + 1), jnp.zeros((), bool)

    return Online(
        lambda params, first: (params, jnp.zeros((), int)),
        lambda state, x: problem.network.apply(state[0], x),
        update,
    )


def _once(
    problem: Problem, belief: lf.Belief, count: Any, seen: Any, target: Any, hyper: Hyper, *, whitened: bool = True
) -> Any:
    """Parameters after gradient steps on a batch's parts, each image in one."""
    part = min(_PART, len(target))
    training = Training(len(target) // part, part, None, decay=True, whitened=whitened)
    task = Task(seen, target, jax.random.fold_in(jax.random.key(0), count), jnp.ones((), bool))
    return fitted(problem.network, training, belief, task, hyper)


def online_ewc(problem: Problem, rank: int, hyper: Hyper) -> Online:
    """Online EWC (Schwarz et al. 2018, arXiv 1805.06370) with each batch as a task, since no other end is told.

    Adam on the batch's loss and ½λ(θ − θ*)ᵀF(θ − θ*) with θ* where the last batch left it; then
    F ← γF + Σ_b (∇ log p(y_b|x_b))².
    """
    built, fading = optax.adam(hyper["learning_rate"]), _kept(hyper)

    def loss(params: Any, seen: Any, target: Any) -> Any:
        return jnp.sum(jax.vmap(problem.likelihood.nll)(problem.observed(params, seen), target))

    def update(state: Any, seen: Any, target: Any) -> tuple[Any, Any]:
        anchor, fisher, moments = state
        size = len(target)

        def penalised(params: Any) -> Any:
            apart = jax.tree.map(lambda p, a, f: jnp.sum(f * (p - a) ** 2), params, anchor, fisher)
            return (loss(params, seen, target) + 0.5 * hyper["strength"] * sum(jax.tree.leaves(apart))) / size

        def step(_: Any, state: Any) -> Any:
            params, moments = state
            changes, moments = built.update(jax.grad(penalised)(params), moments, params)
            return optax.apply_updates(params, changes), moments

        params, moments = jax.lax.fori_loop(0, _INNER, step, (anchor, moments))
        each = jax.vmap(lambda x, y: jax.grad(loss)(params, x[None], y[None]))(seen, target)
        fisher = jax.tree.map(lambda f, g: fading * f + jnp.sum(g**2, axis=0), fisher, each)
        return (params, fisher, moments), jnp.zeros((), bool)

    def init(params: Any, first: Any) -> Any:
        return params, jax.tree.map(jnp.zeros_like, params), built.init(params)

    return Online(init, lambda state, x: problem.network.apply(state[0], x), update)


def _ours(structure: Callable[[int], Any], *, ranked: bool = True) -> Method:
    grid = {"variance": (1.0, 10.0), "memory": (0.0, 5.0, 20.0)}
    return Method(lambda problem, rank, hyper: returning(problem, structure(rank), hyper), grid, ranked, draws=False)


def _trained(structure: Any) -> Method:
    grid = {"learning_rate": (1e-2,), "precision": (1.0,), "curvature": (1.0, 3.0), "memory": (3.0, 10.0)}
    return Method(lambda problem, rank, hyper: towards(problem, structure, hyper), grid, ranked=False, draws=False)


BATCHES = {
    "kronecker_batches": _trained(lf.KroneckerFactored()),
    "diagonal_batches": _trained(lf.Diagonal()),
    "adam_batches": Method(adam_batches, {"learning_rate": (1e-3, 3e-3, 1e-2)}, ranked=False, draws=False),
}
"""Trained on a batch's parts: for batches of thousands."""
FILTERS = {
    "endless_low_rank": _ours(lf.LowRank),
    "endless_unit": _ours(lambda rank: lf.LowRank(rank, blocks="unit")),
    "endless_diagonal": _ours(lambda rank: lf.Diagonal(), ranked=False),
    "endless_kronecker": _ours(lambda rank: lf.KroneckerFactored(), ranked=False),
}
METHODS = (
    FILTERS
    | BATCHES
    | {
        "lofi_stream": Method(lofi, {"precision": (3.0, 30.0, 300.0), "process_noise": (0.0, 1e-6)}, draws=False),
        "online_ewc": Method(
            online_ewc,
            {"learning_rate": (1e-3,), "strength": (0.01, 0.1, 1.0), "memory": (5.0, 20.0)},
            ranked=False,
            draws=False,
        ),
        "adamw": Method(
            lambda problem, rank, hyper: trained(optax.adamw, problem, hyper),
            {"learning_rate": (3e-4, 1e-3, 3e-3), "inner": (1.0, 5.0)},
            ranked=False,
            draws=False,
        ),
    }
)
