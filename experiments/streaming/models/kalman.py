"""A linear-Gaussian state-space model filtered by dynamax; its parameters are trained on the exact likelihood.

z_t = F z_{t−1} + ε,  ε ~ N(0, diag q);    y_t = H z_t + D x_t + b + η,  η ~ N(0, diag r)
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.parts import StreamFunctions
from latenttrack import Outputs
from latenttrack.algebra import gaussian


@functools.lru_cache
def build(x_dim: int, y_dim: int, *, latent: int = 8, floor: float = parts.FLOOR) -> StreamFunctions:
    """The filter of these sizes; its state is the predicted mean and covariance of z_t. A masked y counts as 0."""
    # Importing dynamax takes seconds; only those who use the filter wait for it.
    from dynamax.linear_gaussian_ssm.inference import lgssm_filter, make_lgssm_params  # noqa: PLC0415

    def init(key: Array) -> dict[str, Array]:
        first, second = jax.random.split(key)
        return {
            "transition": jnp.diag(jnp.linspace(0.3, 0.98, latent)),
            "process": jnp.full(latent, -1.0),
            "emission": jax.random.normal(first, (y_dim, latent)) / latent,
            "input": 0.1 * jax.random.normal(second, (y_dim, x_dim)),
            "bias": jnp.zeros(y_dim),
            "noise": jnp.full(y_dim, 0.5),
        }

    def initial_state(params: Any) -> tuple[Array, Array]:
        return jnp.zeros(latent), jnp.eye(latent)

    def run(params: Any, xs: Array, ys: Array, state: Any, mask: Any) -> tuple[tuple[Array, Array], Array, Array]:
        ys, _ = parts.present(ys, mask)
        transition, emission = params["transition"], params["emission"]
        process = jnp.diag(1e-6 + jnp.square(jax.nn.softplus(params["process"])))
        noise = jnp.diag(floor + jnp.square(jax.nn.softplus(params["noise"])))
        model = make_lgssm_params(
            state[0],
            state[1],
            transition,
            process,
            emission,
            noise,
            emissions_bias=params["bias"],
            emissions_input_weights=params["input"],
        )
        filtered = lgssm_filter(model, ys, xs)
        ahead = filtered.filtered_means @ transition.T
        spread = transition @ filtered.filtered_covariances @ transition.T + process
        means = jnp.concatenate([state[0][None], ahead[:-1]])
        covariances = jnp.concatenate([state[1][None], spread[:-1]])
        mean = means @ emission.T + xs @ params["input"].T + params["bias"]
        covariance = emission @ covariances @ emission.T + noise
        return (ahead[-1], spread[-1]), mean, jnp.diagonal(covariance, axis1=-2, axis2=-1)

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 1, mask: Any = None
    ) -> tuple[tuple[Array, Array], Outputs]:
        after, mean, variance = run(params, xs, ys, initial_state(params) if state is None else state, mask)
        safe, observed = parts.present(ys, mask)
        score = observed * gaussian.log_density(safe, mean, variance)
        return after, Outputs(mean[:, None], variance[:, None], score)

    return StreamFunctions(init, initial_state, rollout, parts.by_evidence(rollout))


MODELS = {"kalman": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), side_by_side=True)}
