"""The discriminative Kalman filter (Burkhart et al. 2020) of the target's own trend.

    z_t = A z_{t−1} + N(0, Γ),   p(z_t | x_t) ≈ N(f(x_t), Q(x_t)) by a network,   y_t = h z_t + b + N(0, r)

A and Γ are stationary by construction, with S = I. A step absorbs x_t through the regression, is scored, then absorbs
y_t as a Kalman filter does.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import latenttrack as lt
from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.parts import StreamFunctions
from latenttrack import Outputs
from latenttrack import gaussian_process as gp
from latenttrack.algebra import gaussian


@functools.lru_cache
def build(
    x_dim: int, y_dim: int, *, latent: int = 3, hidden: tuple[int, ...] = (128, 128), floor: float = parts.FLOOR
) -> StreamFunctions:
    """The filter of these sizes for one target; its state is the filtered mean and covariance of z_t."""
    if y_dim != 1:
        raise ValueError(f"y_dim: expected 1, got {y_dim}; the filter here has one target")

    def init(key: Array) -> dict[str, Any]:
        return {
            "coupling": jnp.diag(jnp.linspace(0.5, 4.0, latent)),
            "regression": parts.layers(key, (x_dim, *hidden, 2 * latent)),
            "emission": jnp.full(latent, latent**-0.5),
            "bias": jnp.zeros(()),
            "noise": jnp.zeros(()),
        }

    def initial_state(params: Any) -> tuple[Array, Array]:
        return jnp.zeros(latent), jnp.eye(latent)

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 1, mask: Any = None
    ) -> tuple[tuple[Array, Array], Outputs]:
        ys, observed = parts.present(ys, mask)
        dynamics, h = gp.coupled(params["coupling"]), params["emission"]
        noise = floor + jnp.square(jax.nn.softplus(params["noise"]))
        estimates, variances = parts.head(parts.network(params["regression"], xs), 1e-3)
        fixed = dynamics.transition, dynamics.noise_root @ dynamics.noise_root.T

        def body(state: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], Outputs]:
            estimate, variance, y, seen = inputs
            mean, covariance, _ = lt.discriminative_update(
                *state, *fixed, estimate, jnp.diag(variance), jnp.eye(latent)
            )
            column = covariance @ h
            ahead, spread = (h @ mean + params["bias"])[None], (h @ column + noise)[None]
            score = seen * gaussian.log_density(y, ahead, spread)
            gain = seen * column / spread
            kept = jnp.eye(latent) - jnp.outer(gain, h)  # Joseph's form
            after = kept @ covariance @ kept.T + noise * jnp.outer(gain, gain)
            return (mean + gain * (y - ahead), after), Outputs(ahead[None], spread[None], score)

        start = initial_state(params) if state is None else state
        return jax.lax.scan(body, start, (estimates, variances, ys, observed))

    return StreamFunctions(init, initial_state, rollout, parts.by_evidence(rollout))


MODELS = {"discriminative": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), side_by_side=True)}
