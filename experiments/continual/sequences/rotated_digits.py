"""8×8 digits turned by 0 to 40° in five tasks of 50 images."""

from experiments.continual.learners.interface import Training
from experiments.continual.networks import mlp
from experiments.continual.sequences import Setup
from experiments.continual.tasks import rotated
from experiments.data import digits

SEQUENCE = Setup(
    lambda seeds: rotated(*digits.load(), (0, 10, 20, 30, 40), train=50, val=300, test=500, seeds=seeds),
    mlp(64, (50, 50), 10),
    Training(400, None, None),
)
