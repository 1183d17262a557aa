"""Walks through a town: from destination to destination, along streets of a grid some of which are closed."""

import functools

import numpy as np
from jaxtyping import Float, Int

from experiments.worlds.world import World

TURNS = ((-1, 0), (0, 1), (1, 0), (0, -1))


class Town:
    """A grid of crossings with some streets closed, and the law of walks that hurry with a discount.

    A sequence is: a crossing where one starts, a destination, turns until it is reached, the next destination, …
    Tokens: crossings 0 … n²−1, then the four turns. With h(c) = γ Σ_turns h(c') / open(c) and h(destination) = 1, a
    linear system, the law of a turn is h(c') / Σ h: a random walk given that it reaches the destination before it dies,
    as it does with 1 − γ at each step (Doob's transform).
    """

    def __init__(self, side: int = 4, closed: int = 5, discount: float = 0.8) -> None:
        """The same closed streets every time, such that every crossing can be reached."""
        self.size, self.vocabulary = side * side, side * side + 4
        for seed in range(1000):
            self.after = _streets(side, closed, np.random.default_rng(seed))
            if _connected(self.after):
                break
        else:
            raise ValueError(
                f"closed: expected a town whose crossings stay connected, got {closed}; close fewer streets"
            )
        self.law = np.zeros((self.size, self.size, self.vocabulary))
        for destination in range(self.size):
            weight = self._hurry(destination, discount)
            onward = np.where(self.after >= 0, weight[self.after], 0)
            self.law[:, destination, self.size :] = onward / onward.sum(1, keepdims=True)
            self.law[destination, destination] = 0
            self.law[destination, destination, : self.size] = 1 / (self.size - 1)
            self.law[destination, destination, destination] = 0

    def _hurry(self, destination: int, discount: float) -> Float[np.ndarray, " C"]:
        walk = np.zeros((self.size, self.size))
        for crossing in range(self.size):
            onward = self.after[crossing][self.after[crossing] >= 0]
            np.add.at(walk, (crossing, onward), 1 / len(onward))
        system, right = np.eye(self.size) - discount * walk, np.zeros(self.size)
        system[destination], right[destination] = np.eye(self.size)[destination], 1
        return np.linalg.solve(system, right)

    def step(self, crossing: np.ndarray, destination: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where one is and wants to be after a token; a turn that is not open leaves one where one is."""
        turns = token >= self.size
        moved = self.after[crossing, np.where(turns, token - self.size, 0)]
        return np.where(turns & (moved >= 0), moved, crossing), np.where(turns, destination, token)

    def sample(self, rng: np.random.Generator, count: int, length: int) -> Int[np.ndarray, "N T"]:
        """Tours, each from its start."""
        tokens = np.empty((count, length), np.int32)
        tokens[:, 0] = rng.integers(self.size, size=count)
        crossing = destination = tokens[:, 0]
        for t in range(1, length):
            chances = np.cumsum(self.law[crossing, destination], axis=1)
            tokens[:, t] = (rng.uniform(size=count)[:, None] < chances / chances[:, -1:]).argmax(1)
            crossing, destination = self.step(crossing, destination, tokens[:, t])
        return tokens

    def places(self, tokens: Int[np.ndarray, "N T"]) -> tuple[np.ndarray, np.ndarray]:
        """Crossing and destination after each token [N, T]; the first token is both."""
        crossing = destination = tokens[:, 0]
        found = [(crossing, destination)]
        for t in range(1, tokens.shape[1]):
            crossing, destination = self.step(crossing, destination, tokens[:, t])
            found.append((crossing, destination))
        return tuple(np.stack(part, axis=1) for part in zip(*found, strict=True))  # type: ignore[return-value]

    def exact(self, tokens: Int[np.ndarray, "N T"]) -> tuple[np.ndarray, np.ndarray]:
        """Both as indicators side by side [N, T, 2C], and the law of the next token."""
        crossing, destination = self.places(tokens)
        eye = np.eye(self.size)
        return np.concatenate([eye[crossing], eye[destination]], axis=-1), self.law[crossing, destination]


@functools.cache
def town(side: int = 4, closed: int = 5) -> Town:
    """One town for each choice, so that it is static under ``jax.jit``."""
    return Town(side, closed)


def world(window: int, side: int = 4, closed: int = 5) -> World:
    """Tours through :func:`town`."""
    made = town(side, closed)
    return World("navigation", made.vocabulary, window, made.sample, made.exact, 2 * (made.size - 1))


def _streets(side: int, closed: int, rng: np.random.Generator) -> Int[np.ndarray, "C 4"]:
    """The crossing after each turn, −1 where there is no street or a closed one."""
    after = np.full((side * side, 4), -1)
    for crossing in range(side * side):
        row, column = divmod(crossing, side)
        for turn, (down, right) in enumerate(TURNS):
            if 0 <= row + down < side and 0 <= column + right < side:
                after[crossing, turn] = (row + down) * side + column + right
    streets = [(c, turn) for c in range(side * side) for turn in (1, 2) if after[c, turn] >= 0]
    for index in rng.choice(len(streets), closed, replace=False):
        crossing, turn = streets[index]
        after[after[crossing, turn], (turn + 2) % 4] = -1
        after[crossing, turn] = -1
    return after


def _connected(after: np.ndarray) -> bool:
    seen, fresh = {0}, [0]
    while fresh:
        for there in after[fresh.pop()]:
            if there >= 0 and there not in seen:
                seen.add(int(there))
                fresh.append(int(there))
    return len(seen) == len(after)
