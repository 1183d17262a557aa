"""The latent dynamics ψ: from a hidden state and the token that came to the next hidden state."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Key

from latenttrack.next_latent import token_checks
from latenttrack.next_latent.transformer import sphere
from lowrank_filter.common import checks


@dataclasses.dataclass(frozen=True)
class LatentDynamics:
    """ψ(h, x) = h + MLP(norm([E(x); h])), of three linear layers with GELU and without biases (2511.05963).

    Attributes:
        width: of h and of E(x).
        normalize: whether the result goes through the model's final norm again, h / rms(h), so that ψ applied many
            times stays where the model's hidden states are; no parameters. False is as published, and what a model
            without such a norm needs.
    """

    width: int
    normalize: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError on a width that is not a static integer ≥ 1, or a flag that is not a boolean."""
        checks.count("width", self.width, minimum=1)
        checks.flag("normalize", self.normalize)

    def init(self, key: Key[Array, ""]) -> Any:
        """Parameters, drawn from a key."""
        key = checks.key("key", key)
        zeros = jnp.zeros(self.width)
        return _Step(self.width).init(key, zeros, zeros)["params"]

    def apply(
        self, params: Any, h: Float[Array, "*shape width"], embedding: Float[Array, "*shape width"]
    ) -> Float[Array, "*shape width"]:
        """ψ(h, x) of h and E(x)."""
        checks.like("params", params, _shapes(self.width), "take them from init(key) of the same dynamics")
        h = token_checks.last_axis("h", h, self.width, "a model's hidden state, or LatentDynamics of the model's width")
        embedding = token_checks.last_axis("embedding", embedding, self.width, "take it from the model's embed")
        change: Any = _Step(self.width).apply({"params": params}, h, embedding)
        moved = h + change
        return sphere(moved) if self.normalize else moved


class _Step(linen.Module):
    width: int

    @linen.compact
    def __call__(self, h: Array, embedding: Array) -> Array:
        x = linen.RMSNorm(name="norm")(jnp.concatenate([embedding, h], axis=-1))
        for layer in ("first", "second"):
            x = jax.nn.gelu(linen.Dense(2 * self.width, use_bias=False, name=layer)(x))
        return linen.Dense(self.width, use_bias=False, name="third")(x)


@functools.cache
def _shapes(width: int) -> Any:
    zeros = jnp.zeros(width)
    return jax.eval_shape(lambda: _Step(width).init(jax.random.key(0), zeros, zeros)["params"])
