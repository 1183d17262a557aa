"""Methods for a sequence of tasks, all written with the same kernels and behind one interface."""

from experiments.continual.learners.alone import alone
from experiments.continual.learners.anchor import anchor
from experiments.continual.learners.by_evidence import by_evidence
from experiments.continual.learners.filtering import filtering
from experiments.continual.learners.interface import (
    Hyper,
    Kept,
    Learner,
    Method,
    Models,
    Run,
    Sequence,
    Task,
    Training,
    fitted,
    follow,
    free,
)
from experiments.continual.learners.joint import joint
from experiments.continual.learners.lofi import lofi
from experiments.continual.learners.osla import osla
from experiments.continual.learners.sequential import sequential
from experiments.continual.learners.turned import turned

__all__ = [
    "Hyper",
    "Kept",
    "Learner",
    "Method",
    "Models",
    "Run",
    "Sequence",
    "Task",
    "Training",
    "alone",
    "anchor",
    "by_evidence",
    "filtering",
    "fitted",
    "follow",
    "free",
    "joint",
    "lofi",
    "osla",
    "sequential",
    "turned",
]
