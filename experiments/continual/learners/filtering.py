"""The filter of the weights: predict, train towards the belief, absorb the curvature."""

from collections.abc import Callable

import jax.numpy as jnp

import lowrank_filter as lf
from experiments.continual.learners.interface import (
    Fit,
    Hyper,
    Kept,
    Learner,
    Method,
    Task,
    Training,
    Tree,
    fitted,
    follow,
)
from experiments.continual.networks import Network
from experiments.continual.structures import Structure

Noise = Callable[[Tree, Hyper], Tree]


def filtering(
    structure: Structure,
    *,
    noise: Noise | None = None,
    fit: Fit = fitted,
) -> Learner:
    """The filter with a precision of any structure; at rank 0 over the network it is online EWC.

    Args:
        noise: (parameters, hyperparameters) → process noise with a leaf for each of the parameters', of as many
            dimensions; by default the hyperparameter ``noise``, the same for all (0 where there is none).
        fit: how it trains on a task.
    """

    def init(start: Tree, hyper: Hyper) -> lf.Belief:
        return structure.prior(start, hyper["prior"])

    def step(
        network: Network, training: Training, belief: lf.Belief, task: Task, hyper: Hyper
    ) -> tuple[lf.Belief, Kept]:
        spread = None if noise is None else noise(belief.mean, hyper)
        belief = lf.predict(belief, hyper.get("noise", 0.0) if spread is None else spread)
        params = fit(network, training, belief, task, hyper)
        belief, info = absorb(network, training, belief, params, task, hyper)
        return belief, Kept(params, belief, info.site, spread)

    def absorb(
        network: Network, training: Training, belief: lf.Belief, params: Tree, task: Task, hyper: Hyper
    ) -> tuple[lf.Belief, lf.Info]:
        size = len(task.y)
        count = training.curvature_examples or size
        return lf.laplace_update(
            belief,
            params,
            network.apply,
            lf.Categorical(),
            task.x[:count],
            task.y[:count],
            curvature_scale=hyper["curvature"] * size / count,
            mask=jnp.broadcast_to(task.present, (count,)),
        )

    return Learner(init, step, per_layer=structure.form != "network" or noise is not None)


_GRID = {"learning_rate": (3e-3,), "prior": (1.0,), "noise": (0.0, 0.1), "curvature": (3.0, 10.0, 30.0)}
_REPORTS = {"filter_last": "last", "filter": "own", "smoother": "smoothed"}
METHODS = {
    "ewc": Method({"ewc": "last"}, _GRID | {"noise": (0.0,)}, follow(filtering(Structure("network", 0)))),
    "filter": Method(_REPORTS, _GRID, follow(filtering(Structure("network", 10)))),
    "kronecker_filter": Method(
        {f"kronecker_{name}": which for name, which in _REPORTS.items()},
        _GRID,
        follow(filtering(Structure("kronecker"))),
    ),
}
