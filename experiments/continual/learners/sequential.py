"""Train on one task after the other with nothing to hold on to."""

from experiments.continual.learners.interface import (
    Hyper,
    Kept,
    Learner,
    Method,
    Task,
    Training,
    Tree,
    fitted,
    follow,
    free,
)
from experiments.continual.networks import Network


def _train_on(network: Network, training: Training, params: Tree, task: Task, hyper: Hyper) -> tuple[Tree, Kept]:
    params = fitted(network, training._replace(whitened=False), free(params), task, hyper)
    return params, Kept(params)


sequential = Learner(lambda start, _: start, _train_on)
"""Train on each task from where the last one ended, with nothing to hold on to."""

METHODS = {"sequential": Method({"sequential": "last"}, {"learning_rate": (1e-3, 3e-3)}, follow(sequential))}
