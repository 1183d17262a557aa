"""Train on each task alone: what its own data is worth."""

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


def _train_afresh(network: Network, training: Training, start: Tree, task: Task, hyper: Hyper) -> tuple[Tree, Kept]:
    return start, Kept(fitted(network, training._replace(whitened=False), free(start), task, hyper))


alone = Learner(lambda start, _: start, _train_afresh)
"""Train on each task alone, always from the start: what a task's own data is worth."""

METHODS = {"alone": Method({"alone": "own"}, {"learning_rate": (3e-3,)}, follow(alone))}
