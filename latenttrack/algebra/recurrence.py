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

    The usual gradient of a scan adds an outer product H × 3H to its carry at each step; here the steps give their
    gradient of the gates, and one product over all of them gives that of the weight. Reverse mode only.
    """
    return _forward(weight, hidden, projected, observed)[0]


def _forward(weight: Array, hidden: Array, projected: Array, observed: Array) -> tuple[Array, tuple]:
    def body(h: Array, inputs: tuple) -> tuple[Array, tuple]:
        p, seen = inputs
        reset, update, candidate, inner = gates(weight, h, p)
        after = jnp.where(seen > 0, update * h + (1 - update) * candidate, h)
        return after, (after, h, reset, update, candidate, inner)

    _, (states, *saved) = jax.lax.scan(body, hidden, (projected, observed))
    return states, (weight, observed, *saved)


def _backward(residuals: tuple, cotangent: Array) -> tuple[Array, Array, Array, Array]:
    weight, observed, before, *saved = residuals

    def body(dh: Array, inputs: tuple) -> tuple[Array, tuple]:
        given, seen, h, reset, update, candidate, inner = inputs
        dh = dh + given
        da = jnp.where(seen > 0, dh, 0)
        d_candidate = da * (1 - update) * (1 - jnp.square(candidate))
        d_update = da * (h - candidate) * update * (1 - update)
        d_reset = d_candidate * inner * reset * (1 - reset)
        d_projected = jnp.concatenate([d_reset, d_update, d_candidate])
        d_recurrent = jnp.concatenate([d_reset, d_update, d_candidate * reset])
        back = jnp.where(seen > 0, dh * update + weight @ d_recurrent, dh)
        return back, (d_projected, d_recurrent)

    inputs = (cotangent, observed, before, *saved)
    d_hidden, (d_projected, d_recurrent) = jax.lax.scan(body, jnp.zeros_like(before[0]), inputs, reverse=True)
    return before.T @ d_recurrent, d_hidden, d_projected, jnp.zeros_like(observed)


recur.defvjp(_forward, _backward)
