"""Pull towards the last task's parameters: a filter without any curvature."""

import lowrank_filter as lf
from experiments.continual.learners.interface import Hyper, Kept, Learner, Method, Task, Training, fitted, follow
from experiments.continual.networks import Network


def _hold_on(
    network: Network, training: Training, belief: lf.Belief, task: Task, hyper: Hyper
) -> tuple[lf.Belief, Kept]:
    params = fitted(network, training, belief, task, hyper)
    return lf.init(params, hyper["strength"], rank=0), Kept(params)


anchor = Learner(lambda start, hyper: lf.init(start, hyper["prior"], rank=0), _hold_on)
"""Pull towards the last task's parameters with one strength for all: the filter without any curvature."""

_GRID = {"learning_rate": (3e-3,), "prior": (1.0,), "strength": (1.0, 10.0, 100.0)}
METHODS = {"anchor": Method({"anchor": "last"}, _GRID, follow(anchor))}
