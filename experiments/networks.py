"""Networks of the experiments, as pure functions of a pytree of parameters and rows of pixels."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key

Tree = Any


class Network(NamedTuple):
    """``init(key)`` → params, ``apply(params, x)`` → logits [B, C]. Hashable: one object, one compilation."""

    init: Callable[[Key[Array, ""]], Tree]
    apply: Callable[[Tree, Float[Array, "B d"]], Float[Array, "B C"]]


def flax(module: linen.Module, shape: tuple[int, ...]) -> Network:
    """A flax module as a network of rows of pixels, which it sees in the given shape."""

    def seen(x: Float[Array, "B d"]) -> Array:
        return x.reshape(len(x), *shape)

    example = jnp.zeros((1, *shape))
    return Network(lambda key: module.init(key, example), lambda params, x: module.apply(params, seen(x)))  # type: ignore[arg-type]


def flat(network: Network) -> tuple[Network, Callable[[Float[Array, " D"]], Tree]]:
    """The same network over one vector of parameters, and the way back to its pytree.

    The kernels work leaf by leaf: where nothing is done per layer, the one-leaf case compiles four times faster.
    """
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    return (
        Network(lambda key: ravel_pytree(network.init(key))[0], lambda params, x: network.apply(unravel(params), x)),
        unravel,
    )


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> Network:
    """A multilayer perceptron with rectified linear units."""
    return flax(_MLP(tuple(hidden), outputs), (inputs,))


def cnn(
    side: int, outputs: int, *, channels: Sequence[int] = (32, 16, 4), hidden: int = 8, colours: int = 1
) -> Network:
    """Convolutions 3×3, each with rectified linear units and pooling over 2×2, then two dense layers."""
    return flax(_CNN(tuple(channels), hidden, outputs), (side, side, colours))


class _MLP(linen.Module):
    hidden: tuple[int, ...]
    outputs: int

    @linen.compact
    def __call__(self, x: Float[Array, "B d"]) -> Float[Array, "B C"]:
        for width in self.hidden:
            x = linen.relu(linen.Dense(width)(x))
        return linen.Dense(self.outputs)(x)


class _CNN(linen.Module):
    channels: tuple[int, ...]
    hidden: int
    outputs: int

    @linen.compact
    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B C"]:
        for width in self.channels:
            x = linen.max_pool(linen.relu(linen.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        x = linen.relu(linen.Dense(self.hidden)(x.reshape(len(x), -1)))
        return linen.Dense(self.outputs)(x)
