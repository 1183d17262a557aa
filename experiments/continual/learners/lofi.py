"""LO-FI: the linearised filter, one pass over each task's examples in order (arXiv 2305.19535)."""

import jax.numpy as jnp

import lowrank_filter as lf
from experiments.continual.learners.interface import Hyper, Kept, Learner, Method, Task, Training, follow
from experiments.continual.networks import Network


def lofi(rank: int, chunk_size: int = 1) -> Learner:
    """The extended Kalman filter of the weights over the network; no gradient step, no second look at an example."""

    def step(
        network: Network, training: Training, belief: lf.Belief, task: Task, hyper: Hyper
    ) -> tuple[lf.Belief, Kept]:
        stream = lf.extended_filter(network.apply, lf.Categorical(), rank=rank, process_noise=hyper.get("noise", 0.0))
        mask = jnp.broadcast_to(task.present, task.y.shape)
        belief, _ = lf.filter_stream(stream, belief, task.x, task.y, mask=mask, chunk_size=chunk_size)
        return belief, Kept(belief.mean)

    return Learner(lambda start, hyper: lf.init(start, hyper["prior"], rank=rank), step)


METHODS = {"lofi": Method({"lofi": "last"}, {"prior": (10.0, 30.0)}, follow(lofi(10)))}
