"""MNIST two digits at a time, at 16×16, whose tasks share their two outputs."""

from experiments.continual.learners.interface import Training
from experiments.continual.networks import mlp
from experiments.continual.sequences import Setup
from experiments.continual.tasks import sequence, smaller, split
from experiments.data.mnist import mnist

_PAIRS = [(digit, digit + 1) for digit in range(0, 10, 2)]
SEQUENCE = Setup(
    lambda seeds: sequence(
        [smaller(part, 16) for part in split(mnist(), _PAIRS, labels="position")],
        **{"train": 750, "val": 300, "test": 1000, "seeds": seeds},
    ),
    mlp(256, (50, 50), 2),
    Training(300, 150, None),
)
