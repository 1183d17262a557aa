"""Networks of the experiments, as pure functions of one flat parameter vector.

The kernels take any pytree, operation by operation for each leaf. Here, where nothing is done per layer, the one-leaf
case compiles four times faster.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key


class Network(NamedTuple):
    """``init(key)`` → params [D], ``apply(params, x)`` → logits [B, C]. Hashable: one object, one compilation."""

    init: Callable[[Key[Array, ""]], Float[Array, " D"]]
    apply: Callable[[Float[Array, " D"], Float[Array, "B d"]], Float[Array, "B C"]]


class _MLP(linen.Module):
    hidden: tuple[int, ...]
    outputs: int

    @linen.compact
    def __call__(self, x: Float[Array, "B d"]) -> Float[Array, "B C"]:
        for width in self.hidden:
            x = linen.relu(linen.Dense(width)(x))
        return linen.Dense(self.outputs)(x)


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> Network:
    """A multilayer perceptron with rectified linear units."""
    module = _MLP(tuple(hidden), outputs)
    example = jnp.zeros((1, inputs))
    _, unravel = ravel_pytree(module.init(jax.random.key(0), example))

    def apply(params: Float[Array, " D"], x: Float[Array, "B d"]) -> Any:
        return module.apply(unravel(params), x)

    return Network(lambda key: ravel_pytree(module.init(key, example))[0], apply)
