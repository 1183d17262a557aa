"""Networks of the experiments, as pure functions of flax parameters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Key


class Network(NamedTuple):
    """``init(key)`` → params, ``apply(params, x)`` → logits [B, C]. Hashable: one object, one compilation."""

    init: Callable[[Key[Array, ""]], Any]
    apply: Callable[[Any, Float[Array, "B d"]], Float[Array, "B C"]]


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

    def apply(params: Any, x: Float[Array, "B d"]) -> Any:
        return module.apply({"params": params}, x)

    return Network(lambda key: module.init(key, jnp.zeros((1, inputs)))["params"], apply)
