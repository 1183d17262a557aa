"""Methods for a sequence of tasks, all written with the same kernels and behind one interface."""

from experiments.methods.baselines import alone, anchor, joint, sequential
from experiments.methods.evidence import by_evidence
from experiments.methods.filters import filtering
from experiments.methods.interface import (
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
)
from experiments.methods.osla import osla
from experiments.methods.streaming import streaming
from experiments.methods.turned import turned

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
    "joint",
    "osla",
    "sequential",
    "streaming",
    "turned",
]
