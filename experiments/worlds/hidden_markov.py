"""Hidden Markov worlds: labelled transition matrices T[x, s, s'] = p(x, s' | s), and the exact filter."""

import numpy as np
from jaxtyping import Float, Int

from experiments.worlds.world import World

Labelled = Float[np.ndarray, "V S S"]


def regimes() -> Labelled:
    """Four regimes that last, each with its own law of six symbols, of which 20 % are missing: a seventh token."""
    states, symbols, missing = 4, 6, 0.2
    stay = 0.9
    transition = np.full((states, states), (1 - stay) / (states - 1)) + (stay - (1 - stay) / (states - 1)) * np.eye(4)
    emission = np.random.default_rng(7).dirichlet(0.8 * np.ones(symbols), states)
    emission = np.concatenate([(1 - missing) * emission, np.full((states, 1), missing)], axis=1)
    return emission.T[:, :, None] * transition


def mess3(stay: float = 0.85, leave: float = 0.05) -> Labelled:
    """Mess3 (Marzen and Crutchfield; Shai et al., 2405.15943): three states, beliefs on a fractal in the simplex."""
    other, keep = (1 - stay) / 2, 1 - 2 * leave
    transition = np.full((3, 3), leave) + (keep - leave) * np.eye(3)
    emission = np.full((3, 3), other) + (stay - other) * np.eye(3)  # of the symbol, by the state that is reached
    return np.stack([transition * emission[:, x] for x in range(3)])


def rrxor() -> Labelled:
    """Random, random, XOR (Shai et al., 2405.15943): two fair bits, then their exclusive or; five states."""
    matrices = np.zeros((2, 5, 5))
    start, zero, one, true, false = range(5)
    for bit, after in ((0, zero), (1, one)):
        matrices[bit, start, after] = 0.5
    for state, first in ((zero, 0), (one, 1)):
        for bit in (0, 1):
            matrices[bit, state, true if first != bit else false] = 0.5
    matrices[1, true, start] = matrices[0, false, start] = 1.0
    return matrices


def a5(asked: float = 0.2) -> Labelled:
    """The word problem of the alternating group on five letters: generators, now and then a question, then the product.

    Tokens: two generators, of orders 5 and 3, with the same chance; "=" with chance ``asked``; after it the product so
    far, one of 60. A state is the product and whether it was asked for. The group is not solvable: no network of fixed
    depth is known to follow it over any length (Liu et al., 2210.10749).
    """
    generators = (1, 2, 3, 4, 0), (1, 2, 0, 3, 4)
    group = [tuple(range(5))]
    for element in group:  # grows until it is closed
        for product in (tuple(element[i] for i in g) for g in generators):
            group += [] if product in group else [product]
    size = len(group)
    matrices = np.zeros((3 + size, 2 * size, 2 * size))
    for place, element in enumerate(group):
        for token, g in enumerate(generators):
            matrices[token, place, group.index(tuple(element[i] for i in g))] = (1 - asked) / 2
        matrices[2, place, size + place] = asked
        matrices[3 + place, size + place, place] = 1.0
    return matrices


def stationary(matrices: Labelled) -> Float[np.ndarray, " S"]:
    """The left eigenvector of the transition matrix at 1."""
    transition = matrices.sum(0)
    equations = np.append(transition.T - np.eye(len(transition)), np.ones((1, len(transition))), 0)
    return np.linalg.lstsq(equations, np.append(np.zeros(len(transition)), 1), rcond=None)[0]


def sample(matrices: Labelled, rng: np.random.Generator, count: int, length: int) -> Int[np.ndarray, "N T"]:
    """Sequences from the stationary law."""
    states = matrices.shape[1]
    joint = np.cumsum(matrices.transpose(1, 0, 2).reshape(states, -1), axis=1)
    # One row after the other, each a unit long, so that one search serves all states.
    ladder = (np.arange(states)[:, None] + joint / joint[:, -1:]).ravel()
    state = rng.choice(states, size=count, p=stationary(matrices))
    tokens = np.empty((count, length), np.int32)
    for t in range(length):
        found = np.searchsorted(ladder, state + rng.uniform(size=count), side="right")
        tokens[:, t], state = np.divmod(found - state * joint.shape[1], states)
    return tokens


def filtered(matrices: Labelled, tokens: Int[np.ndarray, "N T"]) -> tuple[np.ndarray, np.ndarray]:
    """p(s_{t+1} | x_0 … x_t) [N, T, S] and p(x_{t+1} | x_0 … x_t) [N, T, V]."""
    belief = np.tile(stationary(matrices), (len(tokens), 1))
    beliefs = np.empty((*tokens.shape, matrices.shape[1]))
    for t in range(tokens.shape[1]):
        belief = np.einsum("ns,nsr->nr", belief, matrices[tokens[:, t]])
        belief /= belief.sum(1, keepdims=True)
        beliefs[:, t] = belief
    return beliefs, beliefs @ matrices.sum(2).T


def world(name: str, window: int) -> World:
    """One of :data:`KINDS`."""
    matrices = KINDS[name]()
    return World(
        *(name, len(matrices), window),
        sample=lambda rng, count, length: sample(matrices, rng, count, length),
        exact=lambda tokens: filtered(matrices, tokens),
        dimension=matrices.shape[1] - 1,
    )


KINDS = {"regimes": regimes, "mess3": mess3, "rrxor": rrxor, "a5": a5}
