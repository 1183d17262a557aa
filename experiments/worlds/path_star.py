"""Path-star graphs G(d, l) (Bachmann and Nagarajan, 2403.06963): arms that leave one node, and one arm's end."""

import numpy as np
from jaxtyping import Int

from experiments.worlds.problems import Problem


def problem(arms: int = 2, nodes: int = 4) -> Problem:
    """The way from the start to the goal, along one of d arms of l nodes, the start among them.

    Tokens are the nodes' labels, drawn anew for every graph. A prompt: the edges in any order, each outwards, the goal,
    the start; the answer: the l − 1 nodes after the start. Only the first of them asks for more than to follow an edge:
    which arm ends at the goal. Whoever guesses it is right in 1/d of the graphs.
    """
    size = arms * (nodes - 1) + 1

    def ask(rng: np.random.Generator) -> Int[np.ndarray, " P"]:
        start, *rest = rng.permutation(size)
        paths = np.insert(np.reshape(rest, (arms, nodes - 1)), 0, start, axis=1)
        edges = np.stack([paths[:, :-1], paths[:, 1:]], axis=-1).reshape(-1, 2)
        return np.array([*rng.permutation(edges).ravel(), rng.choice(paths[:, -1]), start])

    def answers(prompt: Int[np.ndarray, " P"]) -> Int[np.ndarray, "1 A"]:
        *edges, goal, start = prompt.tolist()
        before, path = dict(zip(edges[1::2], edges[::2], strict=True)), [goal]
        while before[path[-1]] != start:
            path.append(before[path[-1]])
        return np.array([path[::-1]])

    return Problem("path-star", size, 2 * arms * (nodes - 1) + 2, nodes - 1, ask, answers)
