"""Countdown (Gandhi et al., 2404.03683): reach a number from others by arithmetic, each used once."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from experiments.worlds.problems import Problem

LARGEST = 99
"""The largest number that has a token; the four operations have the tokens after it."""
PLUS, MINUS, TIMES, OVER = range(LARGEST + 1, LARGEST + 5)
Step = tuple[int, int, int, int]


def problem(count: int = 3, largest: int = 20) -> Problem:
    """Numbers 1 … ``largest`` in order and a number that can be reached from all of them.

    An answer is a line for each operation: the larger number, the operation, the other, the result. Results are whole,
    at least 1 and at most 99. All solutions are known, so the law of the next token is.
    """

    def ask(rng: np.random.Generator) -> Int[np.ndarray, " P"]:
        while True:
            numbers = sorted(rng.integers(1, largest + 1, count).tolist())
            if found := solutions(tuple(numbers)):
                return np.array([*numbers, rng.choice(list(found))])

    def answers(prompt: Int[np.ndarray, " P"]) -> Int[np.ndarray, "M A"]:
        *numbers, target = prompt.tolist()
        return solutions(tuple(numbers))[target]

    return Problem("countdown", OVER + 1, count + 1, 4 * (count - 1), ask, answers)


@functools.lru_cache(maxsize=10_000)
def solutions(numbers: tuple[int, ...]) -> dict[int, Int[np.ndarray, "M A"]]:
    """For each number that can be reached, all ways to it, the operations in any order that their results allow."""
    found: dict[int, set[tuple[int, ...]]] = {}
    for steps in _ways(numbers):
        found.setdefault(steps[-1][-1], set()).add(tuple(itertools.chain(*steps)))
    return {target: np.array(sorted(ways)) for target, ways in sorted(found.items())}


def _ways(numbers: tuple[int, ...]) -> Iterator[list[Step]]:
    if len(numbers) == 1:
        yield []
        return
    for first, second in itertools.combinations(range(len(numbers)), 2):
        rest = tuple(number for place, number in enumerate(numbers) if place not in (first, second))
        a, b = sorted((numbers[first], numbers[second]), reverse=True)
        results = {PLUS: a + b, MINUS: a - b, TIMES: a * b, OVER: a // b if a % b == 0 else 0}
        for operation, result in results.items():
            if 1 <= result <= LARGEST:
                yield from ([(a, operation, b, result), *steps] for steps in _ways((*rest, result)))
