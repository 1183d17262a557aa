"""Filters of this library: by default, with a chosen prior and noise, in parts, and as LO-FI was published."""

from typing import Any

import jax.numpy as jnp

import lowrank_filter as lf
from experiments.continual.online.interface import Hyper, Method, Online, Problem


def online(problem: Problem, build: Any) -> Online:
    """Of a filter that ``build`` makes of the inputs of the first examples."""

    def outputs(belief: lf.Belief, x: Any) -> Any:
        return problem.network.apply(belief.mean, x)

    def update(belief: lf.Belief, seen: Any, target: Any) -> tuple[lf.Belief, Any]:
        belief, info = build(None).step(belief, seen, target)
        return belief, jnp.asarray(info.diverged)

    def draw(belief: lf.Belief, key: Any, x: Any) -> Any:
        ahead = build(None).predict(belief)
        return lf.predictive(ahead, problem.network.apply, x, likelihood=lf.Bernoulli()).sample(key, 1)[0]

    return Online(lambda params, first: build(first).init(params, first), outputs, update, draw)


def default(problem: Problem, rank: int, hyper: Hyper) -> Online:
    """As a user writes it first: a rank, and nothing else."""
    return online(problem, lambda first: lf.extended_filter(problem.observed, problem.likelihood, rank=rank))


def chosen(problem: Problem, structure: Any, hyper: Hyper) -> Online:
    """With a prior variance of the outputs and a process noise."""

    def build(first: Any) -> lf.Filter:
        prior = None if first is None else lf.scaled(problem.observed, first, variance=hyper["variance"])
        return lf.extended_filter(
            problem.observed,
            problem.likelihood,
            structure=structure,
            precision=prior,
            process_noise=hyper["process_noise"],
        )

    return online(problem, build)


def gaussian(problem: Problem, rank: int, hyper: Hyper) -> Online:
    """Rewards as outputs with Gaussian noise: what is right is right each time, so one reward may say much."""
    problem = problem._replace(likelihood=lf.Gaussian(hyper["noise"]))
    return chosen(problem, lf.LowRank(rank), {"process_noise": 0.0, **hyper})


def lofi(problem: Problem, rank: int, hyper: Hyper) -> Online:
    """LO-FI (arXiv 2305.19535): one plain step, truncated in the Euclidean metric."""

    def build(first: Any) -> lf.Filter:
        return lf.extended_filter(
            problem.observed,
            problem.likelihood,
            structure=lf.LowRank(rank, metric="euclidean"),
            precision=hyper["precision"],
            process_noise=hyper["process_noise"],
            iterations=0,
        )

    return online(problem, build)


def _parts(body: lf.LowRank, head: Any) -> Any:
    return {"params": {"body": body, "head": head}}


_GRID = {"variance": (0.1, 1.0, 10.0), "process_noise": (0.0, 1e-6)}
METHODS = {
    "filter_default": Method(default, {}),
    "filter_chosen": Method(lambda problem, rank, hyper: chosen(problem, lf.LowRank(rank), hyper), _GRID),
    "filter_dense_head": Method(
        lambda problem, rank, hyper: chosen(problem, _parts(lf.LowRank(rank), lf.Dense()), hyper), _GRID
    ),
    # The head has another rank: parts with equal structures would be one part.
    "filter_low_head": Method(
        lambda problem, rank, hyper: chosen(problem, _parts(lf.LowRank(rank), lf.LowRank(2 * rank)), hyper), _GRID
    ),
    "lofi_stream": Method(lofi, {"precision": (30.0, 300.0, 3000.0), "process_noise": (0.0, 1e-6)}),
}
# Of rewards alone.
REWARDS = {"filter_gaussian": Method(gaussian, {"variance": (0.1, 1.0), "noise": (1e-3, 1e-2, 1e-1)})}
