"""What a method is: a pure function of one seed's tasks and its hyperparameters.

So seeds are a ``vmap``, or share programs, and a grid does not recompile. A method of one's own is usually a
:class:`Learner`, which says what to do with one task; :func:`follow` takes it through all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

import lowrank_filter as lf
from experiments.continual import networks
from experiments.continual.networks import Network

Tree = Any
Hyper = Mapping[str, Any]


class Training(NamedTuple):
    """What all methods share: how long and on what they train.

    Attributes:
        steps: gradient steps a task.
        batch_size: examples a step; None takes all.
        curvature_examples: examples of a task in its curvature, scaled up to all of them; None takes all.
        decay: whether the learning rate falls linearly to zero within each task.
        whitened: whether steps are taken in z = P^{1/2}(θ − m), for precisions that :func:`coloured` knows.
    """

    steps: int
    batch_size: int | None
    curvature_examples: int | None
    decay: bool = False
    whitened: bool = False


class Sequence(NamedTuple):
    """The training data of one seed's T tasks, and where training starts."""

    start: Tree
    x: Float[Array, "T n d"]
    y: Int[Array, "T n"]
    key: Key[Array, ""]


class Task(NamedTuple):
    """The training data of one task; where it is not present, nothing may be learned from it."""

    x: Float[Array, "n d"]
    y: Int[Array, " n"]
    key: Key[Array, ""]
    present: Bool[Array, ""]


class Models(NamedTuple):
    """Parameters along a leading axis T.

    Attributes:
        used: for each task.
        after: right after training on each, where there is an order.
        chosen: which of these each task uses, where it is one of them.
    """

    used: Tree
    after: Tree | None = None
    chosen: tuple[int, ...] | None = None


Run = Callable[[Network, Training, Sequence, Hyper], dict[str, Models]]


class Method(NamedTuple):
    """A family of reports that come from the same run.

    Attributes:
        reports: the names it reports under, and which of the run's models each stands for; each has its
            hyperparameters chosen for itself.
        grid: the values of each hyperparameter to choose from.
        run: (network, training, sequence, hyperparameters) → models.
        scored: the tasks it is scored on, where not all.
    """

    reports: Mapping[str, str]
    grid: Mapping[str, tuple[float, ...]]
    run: Run
    scored: tuple[int, ...] | None = None


class Kept(NamedTuple):
    """What a learner leaves behind after one task; with a belief and a site, the smoother can look back."""

    params: Tree
    belief: lf.Belief | None = None
    site: lf.Precision | None = None
    noise: Tree | None = None


class Learner(NamedTuple):
    """A method that meets one task after the other.

    Attributes:
        init: (start, hyperparameters) → state.
        step: (network, training, state, task, hyperparameters) → state and what is kept.
        per_layer: whether it needs the pytree of parameters, not one vector of them.
    """

    init: Callable[[Tree, Hyper], Any]
    step: Callable[[Network, Training, Any, Task, Hyper], tuple[Any, Kept]]
    per_layer: bool = False


Fit = Callable[[Network, Training, lf.Belief, Task, Hyper], Tree]
"""Parameters after training on a task with the penalty of a belief."""


def follow(learner: Learner, missing: int | None = None) -> Run:
    """Take a learner through all tasks, or all but one that it never sees.

    The run's models: ``last`` (the last one for all tasks), ``own`` (each task's own, right after it); where the
    learner keeps beliefs, ``smoothed``; and around a missing task ``neighbours``, the mean of the parameters that the
    tasks before and after it ended with.
    """

    def run(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
        network, start, back = view(network, data.start, learner.per_layer)

        def step(state: Any, task: Task) -> tuple[Any, Kept]:
            return learner.step(network, training, state, task, hyper)

        count = len(data.y)
        present = jnp.arange(count) != (count if missing is None else missing)
        tasks = Task(data.x, data.y, jax.random.split(data.key, count), present)
        scan = jax.lax.scan if network.side_by_side else _one_by_one
        kept = scan(step, learner.init(start, hyper), tasks)[1]
        after = back(kept.params)
        last = stacked(*[at(after, count - 1)] * count)
        models = {
            "last": Models(last, after, (count - 1,) * count),
            "own": Models(after, after, tuple(range(count))),
        }
        if kept.belief is not None and kept.site is not None:
            noise = hyper.get("noise", 0.0) if kept.noise is None else kept.noise
            models["smoothed"] = Models(back(lf.smooth(kept.belief, kept.site, noise).mean))
        if missing is not None and 0 < missing < count - 1:
            between = jax.tree.map(lambda a, b: (a + b) / 2, at(after, missing - 1), at(after, missing + 1))
            models["neighbours"] = Models(stacked(*[between] * count))
        return models

    return run


def _one_by_one(step: Callable, state: Any, tasks: Task) -> tuple[Any, Kept]:
    """``lax.scan`` in Python: what ``step`` calls is compiled once, for every method that calls it."""
    found = []
    for number in range(len(tasks.y)):
        state, kept = step(state, at(tasks, number))
        found.append(kept)
    return state, stacked(*found)


@jax.jit
def stacked(*trees: Tree) -> Tree:
    """Along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def at(stack: Tree, number: ArrayLike) -> Tree:
    """One of them."""
    return jax.tree.map(lambda leaf: leaf[number], stack)


def view(network: Network, start: Tree, per_layer: bool) -> tuple[Network, Tree, Callable[[Tree], Tree]]:
    """The network and its starting parameters as a learner wants them; and a stack of parameters back as pytrees."""
    if per_layer:
        return network, start, lambda stack: stack
    vector, _ = ravel_pytree(start)
    network, unravel = networks.flat(network)
    return network, vector, jax.vmap(unravel)


def fitted(
    network: Network,
    training: Training,
    belief: lf.Belief,
    task: Task,
    hyper: Hyper,
    *,
    start: Tree | None = None,
) -> Tree:
    """Parameters after training on a task, from the belief's mean or elsewhere, pulled towards the belief."""
    options: Any = fit_options(training, task, hyper)
    data = lf.Categorical(), task.x, task.y
    if training.whitened and (root := coloured(belief.precision)) is not None and start is None:
        # The penalty is ½‖z‖² there: after many tasks P spans so many decades that steps in θ learn nothing new.
        def placed(z: Tree) -> Tree:
            return jax.tree.map(jnp.add, belief.mean, root(z))

        white = lf.init(jax.tree.map(jnp.zeros_like, belief.mean), 1.0, rank=0)
        z, _ = lf.fit(white, lambda z, x: network.apply(placed(z), x), *data, **options)
        return placed(z)
    return lf.fit(belief, network.apply, *data, params=start, **options)[0]


def free(start: Tree) -> lf.Belief:
    """A belief that knows nothing: its penalty is below any rounding."""
    return lf.init(start, 1e-30, rank=0)


def fit_options(training: Training, task: Task, hyper: Hyper) -> dict[str, Any]:
    """What ``lf.fit`` is told."""
    rate = hyper["learning_rate"]
    if training.decay:
        rate = optax.polynomial_schedule(rate, 0.0, 1, training.steps)
    return {
        "optimizer": optax.adam(rate),
        "steps": training.steps,
        "batch_size": training.batch_size,
        "key": task.key,
        "mask": jnp.broadcast_to(task.present, task.y.shape),
    }


def coloured(precision: Any) -> Callable[[Tree], Tree] | None:
    """z ↦ P^{-1/2}z, for precisions that are diagonal in a basis they know; None for others."""
    if isinstance(precision, lf.DiagLowRank) and precision.rank == 0:
        return lambda z: jax.tree.map(lambda x, d: x * jax.lax.rsqrt(d), z, precision.diag)
    if isinstance(precision, lf.Kronecker):
        layout, parts = precision.layout, precision.parts
        return lambda z: layout.join(
            [part.out_of(x * jax.lax.rsqrt(part.scale)) for part, x in zip(parts, layout.split(z), strict=True)]
        )
    return getattr(precision, "coloured", lambda: None)()
