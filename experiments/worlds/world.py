"""What a world is: sequences of tokens, and for each prefix the exact belief and law of the next token."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Sample = Callable[[np.random.Generator, int, int], Int[np.ndarray, "N T"]]


class World(NamedTuple):
    """A stationary source of tokens.

    Attributes:
        name, vocabulary: of the world, and how many tokens it has.
        window: tokens of a training sequence.
        sample: (rng, N, T) → sequences of any length.
        exact: tokens [N, T] → belief after each token [N, T, K], and law of the token after it [N, T, V].
        dimension: of the belief: directions in which it moves, so that a linear map of so many gives it.
    """

    name: str
    vocabulary: int
    window: int
    sample: Sample
    exact: Callable[[Int[np.ndarray, "N T"]], tuple[Float[np.ndarray, "N T K"], Float[np.ndarray, "N T V"]]]
    dimension: int


class Data(NamedTuple):
    """Sequences to train on and to choose by, and others, eight windows long, to measure on, with what is exact."""

    train: Int[np.ndarray, "N T"]
    validation: Int[np.ndarray, "M T"]
    test: Int[np.ndarray, "L 8T"]
    belief: Float[np.ndarray, "L 8T K"]
    law: Float[np.ndarray, "L 8T V"]


LONGEST = 8
"""Windows of a test sequence."""


def draw(world: World, seed: int, train: int, held_out: int) -> Data:
    """Data of a seed; no sequence is used twice."""
    rng = np.random.default_rng(seed)
    first = world.sample(rng, train, world.window)
    validation = world.sample(rng, held_out, world.window)
    test = world.sample(rng, held_out, LONGEST * world.window)
    belief, law = world.exact(test)
    return Data(first, validation, test, belief.astype(np.float32), law.astype(np.float32))
