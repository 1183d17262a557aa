"""The networks and data that the benchmarks share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def initial(sizes: Sequence[int], key: Array) -> list[dict[str, Array]]:
    """An MLP's parameters, layer by layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (i, o)) * np.sqrt(2 / i), "b": jnp.zeros(o)}
        for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply(params: list[dict[str, Array]], x: Array) -> Array:
    """ReLU between the layers."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]
