"""Points that stand for a standard normal distribution."""

import numpy as np
from jaxtyping import Float
from scipy.stats import norm, qmc


def points(count: int, blocks: int, dimension: int) -> Float[np.ndarray, "2 K d"]:
    """``count`` points in ``blocks`` × ``dimension`` coordinates, as two blocks (the second zero if there is one).

    A scrambled Sobol sequence through the normal quantiles, each coordinate with mean 0 and variance 1: always the
    same points for the same sizes.
    """
    sequence = qmc.Sobol(blocks * dimension, scramble=True, rng=np.random.default_rng(0))
    normal = norm.ppf(sequence.random_base2(int(np.ceil(np.log2(count))))[:count])
    normal = normal - normal.mean(0)
    normal = normal / np.maximum(np.sqrt(np.mean(normal**2, axis=0)), 1e-12)
    made = np.zeros((2, count, dimension))
    made[:blocks] = np.moveaxis(normal.reshape(count, blocks, dimension), 1, 0)
    return made
