"""Methods for a sequence of tasks, one file for each: its ``METHODS`` are found here by their names."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping

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
    "known",
    "lofi",
    "osla",
    "sequential",
    "turned",
]


@functools.cache
def known() -> Mapping[str, Method]:
    """Every method with settings to choose from, by its name."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {name: method for module in modules for name, method in getattr(module, "METHODS", {}).items()}
