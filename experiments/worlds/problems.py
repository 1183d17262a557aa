"""Worlds of problems: a prompt, and after it one of the answers that solve it, each with the same chance."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.worlds.world import World


class Problem(NamedTuple):
    """A kind of problem.

    Attributes:
        name, vocabulary: of the world, and how many tokens it has.
        prompt, answer: tokens of each.
        ask: rng → a prompt [P].
        answers: a prompt [P] → all its answers [M, A].
    """

    name: str
    vocabulary: int
    prompt: int
    answer: int
    ask: Callable[[np.random.Generator], Int[np.ndarray, " P"]]
    answers: Callable[[Int[np.ndarray, " P"]], Int[np.ndarray, "M A"]]


def world(problem: Problem) -> World:
    """Its sequences. The belief is the law of what is still to come: of each token ahead, given the answer so far."""
    size, answer, vocabulary = problem.prompt, problem.answer, problem.vocabulary

    def sample(rng: np.random.Generator, count: int, length: int) -> Int[np.ndarray, "N T"]:
        rows = np.empty((count, length), np.int32)
        for row in rows:
            row[:size] = problem.ask(rng)
            row[size:] = rng.choice(problem.answers(row[:size]))
        return rows

    def exact(tokens: Int[np.ndarray, "N T"]) -> tuple[Float[np.ndarray, "N A K"], Float[np.ndarray, "N A V"]]:
        belief = np.zeros((len(tokens), answer, answer, vocabulary))
        for row, ahead in zip(tokens, belief, strict=True):
            found = problem.answers(row[:size])
            for t in range(answer):
                ahead[t, : answer - t] = np.eye(vocabulary)[found[:, t:]].mean(0)
                found = found[found[:, t] == row[size + t]]
        return belief.reshape(len(tokens), answer, -1), belief[:, :, 0]

    def solved(tokens: Int[np.ndarray, "N T"]) -> Bool[np.ndarray, " N"]:
        return np.array([(problem.answers(row[:size]) == row[size:]).all(1).any() for row in tokens])

    dimension = answer * vocabulary - 1
    return World(problem.name, vocabulary, size + answer, sample, exact, dimension, size, solved)
