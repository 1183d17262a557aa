"""Train on all tasks at once: an upper bound."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from experiments.continual.learners.interface import Hyper, Method, Models, Sequence, Task, Training, fitted, free, view
from experiments.continual.networks import Network


def joint(network: Network, training: Training, data: Sequence, hyper: Hyper) -> dict[str, Models]:
    """Train on all tasks' data at once, for as many steps as the sequence takes: an upper bound."""
    network, start, back = view(network, data.start, per_layer=False)
    tasks, size = data.y.shape
    everything: Bool[Array, ""] = jnp.asarray(True)
    task = Task(data.x.reshape(tasks * size, -1), data.y.ravel(), data.key, everything)
    longer = training._replace(steps=training.steps * tasks, whitened=False)
    params = fitted(network, longer, free(start), task, hyper)
    return {"joint": Models(back(jax.tree.map(lambda p: jnp.stack([p] * tasks), params)))}


METHODS = {"joint": Method({"joint": "joint"}, {"learning_rate": (3e-3,)}, joint)}
