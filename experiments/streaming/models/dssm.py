"""Deep state-space model with amortised filtering (Krishnan et al. 2017, with a forward network).

    p(z_t | z_{t−1}, x_t),  p(y_t | z_t, x_t),  q(z_t | z_{t−1}, g_t),  g_t = GRU(g_{t−1}, e(x_t, y_t))

Prediction knows the past only through z_{t−1}. Online K particles of z are carried.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.parts import StreamFunctions
from latenttrack import Aux, Outputs
from latenttrack.algebra import gaussian, recurrence


@functools.lru_cache
def build(
    x_dim: int,
    y_dim: int,
    *,
    latent: int = 16,
    hidden: int = 48,
    encoder: int = 16,
    width: int = 48,
    train_samples: int = 32,
    floor: float = parts.FLOOR,
) -> StreamFunctions:
    """The model of these sizes; its state is the number of steps, g [H], and z: [d] in training, [K, d] online."""

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 6)
        return {
            "encoder": parts.layers(keys[0], (x_dim + y_dim, encoder)),
            "projection": parts.layers(keys[1], (encoder, 3 * hidden)),
            "recurrent": jax.nn.initializers.orthogonal()(keys[2], (hidden, 3 * hidden)),
            "prior": parts.layers(keys[3], (latent + x_dim, width, 2 * latent)),
            "posterior": parts.layers(keys[4], (latent + hidden, width, 2 * latent)),
            "decoder": parts.layers(keys[5], (latent + x_dim, width, 2 * y_dim)),
        }

    def initial_state(params: Any) -> tuple[Array, Array, Array]:
        return jnp.zeros((), jnp.int32), jnp.zeros(hidden), jnp.zeros(latent)

    def project(params: Any, xs: Array, ys: Array) -> Array:
        return parts.network(params["projection"], jnp.tanh(parts.network(params["encoder"], xs, ys)))

    def prior(params: Any, z: Array, xs: Array) -> tuple[Array, Array]:
        shift, scale = parts.gaussian(parts.network(params["prior"], z, xs))
        return z + shift, scale

    def emit(params: Any, z: Array, xs: Array) -> tuple[Array, Array]:
        return parts.head(parts.network(params["decoder"], z, xs), floor)

    def posterior(params: Any, z: Array, g: Array) -> tuple[Array, Array]:
        return parts.gaussian(parts.network(params["posterior"], z, g))

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 32, mask: Any = None
    ) -> tuple[tuple[Array, Array, Array], Outputs]:
        ys, observed = parts.present(ys, mask)
        step, g, z = initial_state(params) if state is None else state

        def body(carry: tuple, inputs: tuple) -> tuple[tuple, Outputs]:
            (step, g, z), (x, y, projected, seen) = carry, inputs
            noise = gaussian.noise(key, step, (2, samples, latent))
            mean, scale = prior(params, z, x)
            ahead = mean + scale * noise[0]
            output, variance = emit(params, ahead, x)
            score = seen * gaussian.mixture(gaussian.log_density(y, output, variance))
            g_after = jnp.where(seen > 0, recurrence.step(params["recurrent"], g, projected), g)
            mean, scale = posterior(params, z, g_after)
            z_after = jnp.where(seen > 0, mean + scale * noise[1], ahead)
            return (step + 1, g_after, z_after), Outputs(output, variance, score)

        start = (step, g, jnp.broadcast_to(z, (samples, latent)))
        return jax.lax.scan(body, start, (xs, ys, project(params, xs, ys), observed))

    def loss(
        params: Any,
        key: Array,
        xs: Array,
        ys: Array,
        state: tuple[Array, Array, Array],
        mask: Any = None,
        *,
        beta: Any = 1.0,
        weights: Any = None,
        predictive: Any = 0.5,
    ) -> tuple[Array, Aux]:
        ys, observed = parts.present(ys, mask)
        step, g, z = jax.lax.stop_gradient(state)
        summaries = recurrence.recur(params["recurrent"], g, project(params, xs, ys), observed)
        first, second = jax.random.split(key)

        def body(z: Array, inputs: tuple) -> tuple[Array, tuple]:
            g, x, noise, seen = inputs
            mean, scale = posterior(params, z, g)
            prior_mean, prior_scale = prior(params, z, x)
            after = jnp.where(seen > 0, mean + scale * noise, prior_mean + prior_scale * noise)
            return after, (after, mean, scale, prior_mean, prior_scale)

        noise = jax.random.normal(first, (len(xs), latent))
        last, (zs, mean, scale, prior_mean, prior_scale) = jax.lax.scan(body, z, (summaries, xs, noise, observed))
        reconstruction, kl, ahead = parts.of_latents(
            *(ys, parts.share(observed, weights), (zs, mean, scale), (prior_mean, prior_scale)),
            jax.random.normal(second, (len(xs), train_samples, latent)),
            lambda z: emit(params, z, xs[:, None]),
        )
        total = (1 - predictive) * (reconstruction + beta * kl) + predictive * ahead
        carried = jax.lax.stop_gradient((step + len(xs), summaries[-1], last))
        return total, Aux(reconstruction, kl, carried, ahead)

    return StreamFunctions(init, initial_state, rollout, loss)


MODELS = {"dssm": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), samples_prior=True)}
