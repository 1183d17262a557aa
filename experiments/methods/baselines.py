"""What every filter is held against."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

import lowrank_filter as lf
from experiments.methods.interface import Hyper, Kept, Learner, Models, Sequence, Task, Training, Tree, fitted, view
from experiments.networks import Network


def _train_on(network: Network, training: Training, params: Tree, task: Task, hyper: Hyper) -> tuple[Tree, Kept]:
    params = fitted(network, training._replace(whitened=False), _free(params), task, hyper)
    return params, Kept(params)


sequential = Learner(lambda start, _: start, _train_on)
"""Train on each task from where the last one ended, with nothing to hold on to."""


def _train_afresh(network: Network, training: Training, start: Tree, task: Task, hyper: Hyper) -> tuple[Tree, Kept]:
    return start, Kept(fitted(network, training._replace(whitened=False), _free(start), task, hyper))


alone = Learner(lambda start, _: start, _train_afresh)
"""Train on each task alone, always from the start: what a task's own data is worth."""


def _hold_on(
    network: Network, training: Training, belief: lf.Belief, task: Task, hyper: Hyper
) -> tuple[lf.Belief, Kept]:
    params = fitted(network, training, belief, task, hyper)
    return lf.init(params, hyper["strength"], rank=0), Kept(params)


anchor = Learner(lambda start, hyper: lf.init(start, hyper["prior"], rank=0), _hold_on)
"""Pull towards the last task's parameters with one strength for all: the filter without any curvature."""


def joint(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
    """Train on all tasks' data at once, for as many steps as the sequence takes: an upper bound."""
    network, start, back = view(network, data.start, per_layer=False)
    tasks, size = data.y.shape
    everything: Bool[Array, ""] = jnp.asarray(True)
    task = Task(data.x.reshape(tasks * size, -1), data.y.ravel(), data.key, everything)
    longer = training._replace(steps=training.steps * tasks, whitened=False)
    params = fitted(network, longer, _free(start), task, hyper)
    return {"joint": Models(back(jax.tree.map(lambda p: jnp.stack([p] * tasks), params)), None)}


def _free(start: Tree) -> lf.Belief:
    """A belief that knows nothing: its penalty is zero, and there is nothing to whiten by."""
    belief = lf.init(start, rank=0)
    return belief._replace(precision=lf.zero_site(belief))
