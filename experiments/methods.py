"""Methods for a sequence of tasks, all written with the same three kernels.

A method is a pure function of one seed's tasks and its hyperparameters, so that seeds are a ``vmap`` and a grid does
not recompile. It names the models it reports: for each task the parameters that it would use there.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

import lowrank_filter as lf
from experiments.networks import Network

Tree = Any
Task = tuple[Array, Array, Key[Array, ""]]
Hyper = dict[str, Any]


class Training(NamedTuple):
    """What all methods share: how long and on what they train.

    Attributes:
        steps: gradient steps a task.
        batch_size: examples a step; None takes all.
        curvature_examples: examples of a task in its curvature, scaled up to all of them; None takes all.
        rank: of the low-rank filter.
    """

    steps: int
    batch_size: int | None
    curvature_examples: int | None
    rank: int


class Sequence(NamedTuple):
    """The training data of one seed's T tasks, and where training starts."""

    start: Tree
    x: Float[Array, "T n d"]
    y: Int[Array, "T n"]
    key: Key[Array, ""]


class Models(NamedTuple):
    """Parameters along a leading axis T: those used for each task, and those right after training on each."""

    used: Tree
    after: Tree | None


class Method(NamedTuple):
    """A family of reports that come from the same run.

    Attributes:
        reports: the names it reports under; each has its hyperparameters chosen for itself.
        grid: the values of each hyperparameter to choose from.
        run: (network, training, sequence, hyperparameters) → models for each report.
        scored: the tasks it is scored on, where not all.
    """

    reports: tuple[str, ...]
    grid: Mapping[str, tuple[float, ...]]
    run: Callable[[Network, Training, Sequence, Hyper], dict[str, Models]]
    scored: tuple[int, ...] | None = None


def sequential(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
    """Train on each task from where the last one ended, with nothing to hold on to."""
    nothing = _free(data.start)

    def step(params: Tree, task: Task) -> tuple[Tree, Tree]:
        params = _train(network, training, nothing, *task, hyper, start=params)
        return params, params

    after = jax.lax.scan(step, data.start, _tasks(data))[1]
    return {"sequential": Models(_last(after), after)}


def joint(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
    """Train on all tasks' data at once, for as many steps as the sequence takes: an upper bound."""
    tasks, size = data.y.shape
    longer = training._replace(steps=training.steps * tasks)
    x, y = data.x.reshape(tasks * size, -1), data.y.ravel()
    params = _train(network, longer, _free(data.start), x, y, data.key, hyper)
    return {"joint": Models(jax.tree.map(lambda p: jnp.stack([p] * tasks), params), None)}


def anchor(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
    """Pull towards the last task's parameters with one strength for all: the filter without any curvature."""

    def step(belief: lf.Belief, task: Task) -> tuple[lf.Belief, Tree]:
        params = _train(network, training, belief, *task, hyper)
        return lf.init(params, hyper["strength"], rank=0), params

    after = jax.lax.scan(step, lf.init(data.start, hyper["prior"], rank=0), _tasks(data))[1]
    return {"anchor": Models(_last(after), after)}


def ewc(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
    """Online elastic weight consolidation: the filter at rank 0, whose residual is the Fisher diagonal."""
    beliefs, _ = _filter(network, training._replace(rank=0), data, hyper | {"noise": 0.0})
    return {"ewc": Models(_last(beliefs.mean), beliefs.mean)}


def low_rank(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
    """The low-rank filter: its last model for all tasks, each task's own, and the smoother's."""
    beliefs, sites = _filter(network, training, data, hyper)
    smoothed = lf.smooth(beliefs, sites, hyper["noise"], rank=training.rank)
    return {
        "filter_last": Models(_last(beliefs.mean), beliefs.mean),
        "filter": Models(beliefs.mean, beliefs.mean),
        "smoother": Models(smoothed.mean, None),
    }


def without(missing: int) -> Callable[[Network, Training, Sequence, Hyper], dict[str, Models]]:
    """The same filter and smoother, never shown one task: forecast from before, interpolated from both sides."""

    def run(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
        present = jnp.arange(len(data.y)) != missing
        beliefs, sites = _filter(network, training, data, hyper, present)
        smoothed = lf.smooth(beliefs, sites, hyper["noise"], rank=training.rank)
        return {"forecast": Models(beliefs.mean, None), "interpolated": Models(smoothed.mean, None)}

    return run


def _filter(
    network: Network, training: Training, data: Sequence, hyper: Hyper, present: Bool[Array, " T"] | None = None
) -> tuple[lf.Belief, lf.Precision]:
    """Predict, train and absorb the curvature through all tasks; the stacked beliefs and sites."""
    size = data.y.shape[1]
    count = training.curvature_examples or size
    options = {"rank": training.rank, "curvature_scale": hyper["curvature"] * size / count}

    def step(belief: lf.Belief, task: tuple) -> tuple[lf.Belief, tuple]:
        x, y, key, here = task
        belief = lf.predict(belief, hyper["noise"])
        mask = jnp.full(size, here)
        params = _train(network, training, belief, x, y, key, hyper, mask=mask)
        belief, info = lf.laplace_update(
            belief, params, network.apply, lf.Categorical(), x[:count], y[:count], mask=mask[:count], **options
        )
        return belief, (belief, info.site)

    everywhere = jnp.ones(len(data.y), bool) if present is None else present
    prior = lf.init(data.start, hyper["prior"], rank=training.rank)
    return jax.lax.scan(step, prior, (*_tasks(data), everywhere))[1]


def _train(
    network: Network,
    training: Training,
    belief: lf.Belief,
    x: Array,
    y: Array,
    key: Key[Array, ""],
    hyper: Hyper,
    *,
    start: Tree | None = None,
    mask: Array | None = None,
) -> Tree:
    params, _ = lf.fit(
        belief,
        network.apply,
        lf.Categorical(),
        x,
        y,
        optimizer=optax.adam(hyper["learning_rate"]),
        steps=training.steps,
        batch_size=training.batch_size,
        key=key,
        params=start,
        mask=mask,
    )
    return params


def _free(start: Tree) -> lf.Belief:
    """A belief that knows nothing: its penalty is zero."""
    belief = lf.init(start, rank=0)
    return belief._replace(precision=lf.zero_site(belief))


def _tasks(data: Sequence) -> Task:
    return data.x, data.y, jax.random.split(data.key, len(data.y))


def _last(after: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[-1:], leaf.shape), after)
