"""A discrete regime as a Markov chain, marginalised exactly: the forward pass of a hidden Markov model."""

import jax
from jaxtyping import Array, Float


def forward(
    first: Float[Array, " K"], switch: Float[Array, "K K"], scores: Float[Array, "T K"]
) -> tuple[Float[Array, "T K"], Float[Array, " T"]]:
    """log p(s_t | x_{<t}) and log p(x_t | x_{<t}).

    Args:
        first: log probabilities of s_1.
        switch: log p(s_{t+1} | s_t), rows s_t.
        scores: log p(x_t | s_t).
    """

    def body(belief: Array, score: Array) -> tuple[Array, tuple[Array, Array]]:
        joint = belief + score
        evidence = jax.nn.logsumexp(joint)
        after = jax.nn.logsumexp((joint - evidence)[:, None] + switch, 0)
        return after, (belief, evidence)

    return jax.lax.scan(body, first, scores)[1]
