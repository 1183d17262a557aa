"""What a world is: sequences of tokens, and for each prefix the exact belief and law of the next token."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Sample = Callable[[np.random.Generator, int, int], Int[np.ndarray, "N T"]]


class World(NamedTuple):
    """A source of tokens: stationary, or one of problems, each a prompt and an answer, which alone is predicted.

    Attributes:
        name, vocabulary: of the world, and how many tokens it has.
        window: tokens of a training sequence.
        sample: (rng, N, T) → sequences of any length, of problems that of the window.
        exact: tokens [N, T] → belief after each token [N, T, K], and law of the token after it [N, T, V]; of problems
            before each token of the answer.
        dimension: of the belief: directions in which it moves, so that a linear map of so many gives it.
        prompt: tokens of a problem that are given.
        solved: problems with answers [N, T] → which are right [N].
    """

    name: str
    vocabulary: int
    window: int
    sample: Sample
    exact: Callable[[Int[np.ndarray, "N T"]], tuple[Float[np.ndarray, "N T K"], Float[np.ndarray, "N T V"]]]
    dimension: int
    prompt: int = 0
    solved: Callable[[Int[np.ndarray, "N T"]], Bool[np.ndarray, " N"]] | None = None


class Data(NamedTuple):
    """Sequences to train on and to choose by, and others to measure on, with what is exact.

    The others are eight windows long, but for problems.
    """

    train: Int[np.ndarray, "N T"]
    validation: Int[np.ndarray, "M T"]
    test: Int[np.ndarray, "L long"]
    belief: Float[np.ndarray, "L long K"]
    law: Float[np.ndarray, "L long V"]


LONGEST = 8
"""Windows of a test sequence."""


def draw(world: World, seed: int, train: int, held_out: int) -> Data:
    """Data of a seed; no sequence is used twice, and no problem that was trained on is asked again."""
    rng = np.random.default_rng(seed)
    first = world.sample(rng, train, world.window)
    if world.prompt:
        validation, test = np.split(_others(world, rng, first, 2 * held_out), 2)
    else:
        validation = world.sample(rng, held_out, world.window)
        test = world.sample(rng, held_out, LONGEST * world.window)
    belief, law = world.exact(test)
    return Data(first, validation, test, belief.astype(np.float32), law.astype(np.float32))


def _others(world: World, rng: np.random.Generator, seen: Int[np.ndarray, "N T"], count: int) -> np.ndarray:
    """Problems that are not among those seen, nor twice among themselves."""
    known, rows = {row[: world.prompt].tobytes() for row in seen}, []
    for _ in range(100 * count):
        [row] = world.sample(rng, 1, world.window)
        asked = row[: world.prompt].tobytes()
        if asked not in known:
            known.add(asked)
            rows.append(row)
        if len(rows) == count:
            return np.stack(rows)
    raise ValueError(
        f"held_out: expected {count} problems of {world.name} that are not trained on, found {len(rows)}; "
        "train on fewer, or make the problems larger"
    )
