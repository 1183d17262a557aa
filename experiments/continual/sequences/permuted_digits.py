"""8×8 digits through five fixed shuffles of the pixels, 1,250 images a task."""

from experiments.continual.learners.interface import Training
from experiments.continual.networks import mlp
from experiments.continual.sequences import Setup
from experiments.continual.tasks import permuted
from experiments.data import digits

SEQUENCE = Setup(
    lambda seeds: permuted(*digits.load(), 5, train=1250, val=200, test=347, seeds=seeds, train_disjoint=False),
    mlp(64, (50, 50), 10),
    Training(300, 125, 500),
)
