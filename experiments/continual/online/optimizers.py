"""Optimisers without a posterior: AdamW and Muon, some steps on each example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from experiments.continual.online.interface import Hyper, Method, Online, Problem


def trained(optimizer: Callable[..., Any], problem: Problem, hyper: Hyper) -> Online:
    """``inner`` steps on one example's loss."""
    built = optimizer(hyper["learning_rate"])

    def update(state: Any, seen: Any, target: Any) -> Any:
        def loss(params: Any) -> Any:
            return jnp.mean(jax.vmap(problem.likelihood.nll)(problem.observed(params, seen), target))

        def step(_: Any, state: Any) -> Any:
            params, moments = state
            changes, moments = built.update(jax.grad(loss)(params), moments, params)
            return optax.apply_updates(params, changes), moments

        return jax.lax.fori_loop(0, hyper["inner"].astype(jnp.int32), step, state), jnp.zeros((), bool)

    return Online(
        lambda params, first: (params, built.init(params)),
        lambda state, x: problem.network.apply(state[0], x),
        update,
    )


METHODS = {
    "adamw": Method(
        lambda problem, rank, hyper: trained(optax.adamw, problem, hyper),
        {"learning_rate": (1e-4, 3e-4, 1e-3), "inner": (1.0, 5.0)},
        ranked=False,
        draws=False,
    ),
    "muon": Method(
        lambda problem, rank, hyper: trained(contrib.muon, problem, hyper),
        {"learning_rate": (3e-4, 1e-3, 3e-3), "inner": (1.0, 5.0)},
        ranked=False,
        draws=False,
    ),
}
