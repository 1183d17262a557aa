"""Sequences of tasks with a network and its training, one file for each: its ``SEQUENCE`` is found here by name."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments.continual.learners.interface import Training
from experiments.continual.networks import Network
from experiments.continual.tasks import Tasks


class Setup(NamedTuple):
    """(seeds) → tasks, the network that learns them, and how it is trained."""

    tasks: Callable[[Sequence[int]], Tasks]
    network: Network
    training: Training


@functools.cache
def known() -> Mapping[str, Setup]:
    """Every sequence by the name of its file."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}").SEQUENCE for name in names}
