"""What a model of token sequences is: six pure functions that the objective, the filter and decoding are written on."""

from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, ArrayLike, Float, Int, Key

Params = Any
Cache = Any


class SequenceModel(Protocol):
    """A causal model of sequences of tokens 0 … V−1, hashable: it is static under ``jax.jit``.

    h_t is a function of x_0 … x_t, and p(x_{t+1} | x_0 … x_t) = softmax(logits(h_t)). An attribute ``window``, if there
    is one, is the largest number of tokens that the model takes.
    """

    def init(self, key: Key[Array, ""]) -> Params:
        """Parameters, drawn from a key."""
        ...

    def hidden(self, params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T width"]:
        """h_t for all t at once, after the final normalisation."""
        ...

    def embed(self, params: Params, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        """E(x), of each token alone."""
        ...

    def logits(self, params: Params, h: Float[Array, "*shape width"]) -> Float[Array, "*shape V"]:
        """The head: unnormalised log law of the next token."""
        ...

    def initial_cache(self, params: Params, batch: int, length: int) -> Cache:
        """Room for ``length`` tokens of ``batch`` sequences; a pytree."""
        ...

    def extend(
        self, params: Params, cache: Cache, tokens: Int[Array, "B n"], position: ArrayLike
    ) -> tuple[Float[Array, "B n width"], Cache]:
        """h of tokens at ``position`` … ``position + n − 1``, given what the cache has before them.

        What it has from ``position`` on is overwritten or not looked at, so that going back is a smaller position.
        """
        ...


class NextLatParams(NamedTuple):
    """Parameters of the model and of ψ; any other pair of the two will do."""

    model: Params
    dynamics: Params


class Decoded(NamedTuple):
    """Sequences, prompts included, and what they cost; without B for one prompt.

    Attributes:
        tokens: [B, length]; beyond a row's ``length`` the end-of-sequence token.
        length: tokens of each row [B], the end-of-sequence token included.
        calls: forward passes of the model [B], the one over the prompt included.
        drafted: drafts that were put before the model [B].
        accepted: drafts that became output [B].
    """

    tokens: Int[Array, "*B length"]
    length: Int[Array, "*B"]
    calls: Int[Array, "*B"]
    drafted: Int[Array, "*B"]
    accepted: Int[Array, "*B"]
