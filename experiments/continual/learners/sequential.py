"""Train on one task after the other with nothing to hold on to."""

from experiments.continual.learners.interface import Hyper, Kept, Learner, Task, Training, Tree, fitted, free
from experiments.continual.networks import Network


def _train_on(network: Network, training: Training, params: Tree, task: Task, hyper: Hyper) -> tuple[Tree, Kept]:
    params = fitted(network, training._replace(whitened=False), free(params), task, hyper)
    return params, Kept(params)


sequential = Learner(lambda start, _: start, _train_on)
"""Train on each task from where the last one ended, with nothing to hold on to."""
