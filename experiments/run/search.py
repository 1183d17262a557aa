"""The values of settings to choose from, and the search that goes on where the best lies at an edge."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
Choice = dict[str, float]
"""Settings by name."""


class Trial(NamedTuple):
    """A choice and what came of it."""

    choice: Choice
    value: Any


def grid(values: Mapping[str, Sequence[float]]) -> list[Choice]:
    """Every combination; the last setting varies fastest."""
    return [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]


def best(trials: Sequence[Trial], score: Callable[[Any], float]) -> Trial:
    """The first trial with the highest score."""
    return max(trials, key=lambda trial: score(trial.value))


def beyond(values: Sequence[float], chosen: float) -> float | None:
    """One value more, by the factor between the first two, past the edge at which the chosen one lies.

    None if it lies inside, or there was nothing to choose.
    """
    if len(values) < 2 or chosen not in (values[0], values[-1]):
        return None
    factor = values[1] / values[0]
    return chosen / factor if chosen == values[0] else chosen * factor
