"""A discrete regime as a Markov chain, marginalised exactly: the forward pass of a hidden Markov model."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def scores(
    logits: Float[Array, "T V"], table: Float[Array, "K V"], tokens: Int[Array, " T"], smoothing: float = 0.0
) -> Float[Array, "T K"]:
    """log p(x_t | s_t = k) of p ∝ exp(logits_t + table_k), by one product of matrices for all normalisers."""
    logits, table = (part - part.max(-1, keepdims=True) for part in (logits, table))
    # Where two experts share nothing that float32 can hold, the normaliser is at most this: no score is flattered.
    least = jnp.finfo(logits.dtype).tiny
    normaliser = jnp.log(jnp.maximum(jnp.exp(logits) @ jnp.exp(table).T, least))
    own = jnp.take_along_axis(logits, tokens[:, None], -1) + table[:, tokens].T
    if smoothing:
        own = (1 - smoothing) * own + smoothing * (logits.mean(-1)[:, None] + table.mean(-1))
    return own - normaliser


def move(belief: Float[Array, "*T K"], chances: Float[Array, "K K"]) -> Float[Array, "*T K"]:
    """log p(s_{t+1}) of log p(s_t) and p(s_{t+1} | s_t): a product of matrices, no K² exponentials at each step."""
    after = jnp.exp(belief) @ chances
    return jnp.log(jnp.maximum(after, jnp.finfo(after.dtype).tiny))


def forward(
    first: Float[Array, " K"], switch: Float[Array, "K K"], scores: Float[Array, "T K"]
) -> tuple[Float[Array, "T K"], Float[Array, " T"]]:
    """log p(s_t | x_{<t}) and log p(x_t | x_{<t}).

    Args:
        first: log probabilities of s_1.
        switch: log p(s_{t+1} | s_t), rows s_t.
        scores: log p(x_t | s_t).
    """

    chances = jnp.exp(switch)

    def body(belief: Array, score: Array) -> tuple[Array, tuple[Array, Array]]:
        joint = belief + score
        evidence = jax.nn.logsumexp(joint)
        return move(joint - evidence, chances), (belief, evidence)

    return jax.lax.scan(body, first, scores)[1]
