"""A product with generated weights, whose gradient keeps to large products."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def generated(
    code: Float[Array, "*batch r"], active: Float[Array, "*batch n"], directions: Float[Array, "r n m"]
) -> Float[Array, "*batch m"]:
    """a W with W = Σ_r c_r W_r, another W for each row.

    The compiler's own gradient takes one small product per row and half as long again. Reverse mode only.
    """
    return _forward(code, active, directions)[0]


def _forward(code: Array, active: Array, directions: Array) -> tuple[Array, tuple]:
    rank, *shape = directions.shape
    weights = (code @ directions.reshape(rank, -1)).reshape(*code.shape[:-1], *shape)
    return jnp.einsum("...n,...nm->...m", active, weights), (code, active, directions, weights)


def _backward(saved: tuple, cotangent: Array) -> tuple[Array, Array, Array]:
    code, active, directions, weights = saved
    rank = len(directions)
    outer = (active[..., :, None] * cotangent[..., None, :]).reshape(*active.shape[:-1], -1)
    d_active = jnp.einsum("...m,...nm->...n", cotangent, weights)
    rows = outer.reshape(-1, outer.shape[-1])
    d_directions = (code.reshape(-1, rank).T @ rows).reshape(directions.shape)
    return outer @ directions.reshape(rank, -1).T, d_active, d_directions


generated.defvjp(_forward, _backward)
