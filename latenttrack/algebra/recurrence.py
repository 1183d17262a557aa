"""A gated recurrent unit over a whole window, with the gradient of its weights as one product outside the scan."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gates(
    weight: Float[Array, "H 3*H"], hidden: Float[Array, "*batch H"], projected: Float[Array, "*batch 3*H"]
) -> tuple[Float[Array, "*batch H"], ...]:
    """Reset gate, update gate, candidate and the recurrent part of the candidate."""
    size = hidden.shape[-1]
    recurrent = hidden @ weight
    reset, update = jnp.split(jax.nn.sigmoid(projected[..., : 2 * size] + recurrent[..., : 2 * size]), 2, axis=-1)
    inner = recurrent[..., 2 * size :]
    return reset, update, jnp.tanh(projected[..., 2 * size :] + reset * inner), inner


def step(
    weight: Float[Array, "H 3*H"], hidden: Float[Array, "*batch H"], projected: Float[Array, "*batch 3*H"]
) -> Float[Array, "*batch H"]:
    """h' = u h + (1 − u) n, with n = tanh(p_n + r (h W_n)), r and u the sigmoids of p + h W (Cho et al. 2014)."""
    _, update, candidate, _ = gates(weight, hidden, projected)
    return update * hidden + (1 - update) * candidate


@jax.custom_vjp
def recur(
    weight: Float[Array, "H 3*H"],
    hidden: Float[Array, " H"],
    projected: Float[Array, "T 3*H"],
    observed: Float[Array, " T"],
) -> Float[Array, "T H"]:
    """The hidden states h_1 … h_T; a step with ``observed`` 0 keeps the one before it.

    The usual gradient of a scan keeps every gate of every step and adds an outer product H × 3H to its carry at each.
    Here only the hidden states are kept: the gates of all steps are one product again, and so is the gradient of the
    weight; what is left in the backward scan is linear. Reverse mode only.
    """
    return _forward(weight, hidden, projected, observed)[0]


def _forward(weight: Array, hidden: Array, projected: Array, observed: Array) -> tuple[Array, tuple]:
    def body(h: Array, inputs: tuple) -> tuple[Array, Array]:
        p, seen = inputs
        h = jnp.where(seen > 0, step(weight, h, p), h)
        return h, h

    states = jax.lax.scan(body, hidden, (projected, observed))[1]
    return states, (weight, hidden, projected, observed, states)


def _backward(residuals: tuple, cotangent: Array) -> tuple[Array, Array, Array, Array]:
    weight, hidden, projected, observed, states = residuals
    before = jnp.concatenate([hidden[None], states[:-1]])
    reset, update, candidate, inner = gates(weight, before, projected)
    seen = observed[:, None] > 0
    kept = jnp.where(seen, update, 1)
    to_candidate = jnp.where(seen, (1 - update) * (1 - jnp.square(candidate)), 0)
    to_update = jnp.where(seen, (before - candidate) * update * (1 - update), 0)
    to_reset = to_candidate * inner * reset * (1 - reset)
    recurrent = jnp.concatenate([to_reset, to_update, to_candidate * reset], axis=1)

    def body(dh: Array, inputs: tuple) -> tuple[Array, Array]:
        given, slope, share = inputs
        dh = dh + given
        return dh * share + weight @ (jnp.tile(dh, 3) * slope), dh

    d_hidden, d_states = jax.lax.scan(body, jnp.zeros_like(hidden), (cotangent, recurrent, kept), reverse=True)
    tiled = jnp.tile(d_states, 3)
    d_projected = tiled * jnp.concatenate([to_reset, to_update, to_candidate], axis=1)
    return before.T @ (tiled * recurrent), d_hidden, d_projected, jnp.zeros_like(observed)


recur.defvjp(_forward, _backward)
