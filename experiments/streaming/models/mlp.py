"""A perceptron with a Gaussian head: an ensemble of one."""

import functools
from collections.abc import Sequence

from experiments.streaming.models import ensemble, parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.parts import StreamFunctions


@functools.lru_cache
def build(x_dim: int, y_dim: int, *, hidden: Sequence[int] = (128, 128), floor: float = parts.FLOOR) -> StreamFunctions:
    """A perceptron with a Gaussian head."""
    return ensemble.build(x_dim, y_dim, members=1, hidden=hidden, floor=floor)


MODELS = {"mlp": Entry(lambda x, y, _, **sizes: build(x, y, **sizes))}
