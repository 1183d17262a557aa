"""Variational recurrent network (Chung et al. 2015) of y_t given x_t.

    p(z_t | h_{t−1}, x_t),  p(y_t | z_t, h_{t−1}, x_t)
    q(z_t | h_{t−1}, x_t, y_t),  h_t = GRU(h_{t−1}, e(x_t, y_t), z_t)

Online each of K samples of z_t ~ q carries its own h.
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
    latent: int = 8,
    hidden: int = 52,
    encoder: int = 16,
    width: int = 32,
    train_samples: int = 32,
    floor: float = parts.FLOOR,
) -> StreamFunctions:
    """The network of these sizes; its state is the number of steps and h, [H] in training and [K, H] online."""

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 6)
        return {
            "encoder": parts.layers(keys[0], (x_dim + y_dim, encoder)),
            "projection": parts.layers(keys[1], (encoder + latent, 3 * hidden)),
            "recurrent": jax.nn.initializers.orthogonal()(keys[2], (hidden, 3 * hidden)),
            "prior": parts.layers(keys[3], (hidden + x_dim, width, 2 * latent)),
            "posterior": parts.layers(keys[4], (hidden + encoder, width, 2 * latent)),
            "decoder": parts.layers(keys[5], (latent + hidden + x_dim, width, 2 * y_dim)),
        }

    def initial_state(params: Any) -> tuple[Array, Array]:
        return jnp.zeros((), jnp.int32), jnp.zeros(hidden)

    def encode(params: Any, xs: Array, ys: Array) -> Array:
        return jnp.tanh(parts.network(params["encoder"], xs, ys))

    def advance(params: Any, h: Array, code: Array, noise: Array) -> tuple[Array, tuple[Array, Array, Array]]:
        mean, scale = parts.gaussian(parts.network(params["posterior"], h, code))
        z = mean + scale * noise
        projected = parts.network(params["projection"], code, z)
        return recurrence.step(params["recurrent"], h, projected), (z, mean, scale)

    def prior(params: Any, h: Array, xs: Array) -> tuple[Array, Array]:
        return parts.gaussian(parts.network(params["prior"], h, xs))

    def emit(params: Any, z: Array, h: Array, xs: Array) -> tuple[Array, Array]:
        return parts.head(parts.network(params["decoder"], z, h, xs), floor)

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 32, mask: Any = None
    ) -> tuple[tuple[Array, Array], Outputs]:
        ys, observed = parts.present(ys, mask)
        codes = encode(params, xs, ys)
        step, h = initial_state(params) if state is None else state

        def body(carry: tuple[Array, Array], inputs: tuple) -> tuple[tuple[Array, Array], Outputs]:
            (step, h), (x, y, code, seen) = carry, inputs
            noise = gaussian.noise(key, step, (2, samples, latent))
            mean, scale = prior(params, h, x)
            mean, variance = emit(params, mean + scale * noise[0], h, x)
            score = seen * gaussian.mixture(gaussian.log_density(y, mean, variance))
            after, _ = advance(params, h, code, noise[1])
            return (step + 1, jnp.where(seen > 0, after, h)), Outputs(mean, variance, score)

        return jax.lax.scan(body, (step, jnp.broadcast_to(h, (samples, hidden))), (xs, ys, codes, observed))

    def loss(
        params: Any,
        key: Array,
        xs: Array,
        ys: Array,
        state: tuple[Array, Array],
        mask: Any = None,
        *,
        beta: Any = 1.0,
        weights: Any = None,
        predictive: Any = 0.5,
    ) -> tuple[Array, Aux]:
        ys, observed = parts.present(ys, mask)
        codes = encode(params, xs, ys)
        first, second = jax.random.split(key)

        def body(h: Array, inputs: tuple) -> tuple[Array, tuple]:
            code, noise, seen = inputs
            after, latents = advance(params, h, code, noise)
            return jnp.where(seen > 0, after, h), (h, *latents)

        noise = jax.random.normal(first, (len(xs), latent))
        last, (before, z, mean, scale) = jax.lax.scan(body, jax.lax.stop_gradient(state[1]), (codes, noise, observed))
        reconstruction, kl, ahead = parts.of_latents(
            *(ys, parts.share(observed, weights), (z, mean, scale), prior(params, before, xs)),
            jax.random.normal(second, (len(xs), train_samples, latent)),
            lambda z: emit(params, z, before[:, None], xs[:, None]),
        )
        total = (1 - predictive) * (reconstruction + beta * kl) + predictive * ahead
        return total, Aux(reconstruction, kl, (state[0] + len(xs), jax.lax.stop_gradient(last)), ahead)

    return StreamFunctions(init, initial_state, rollout, loss)


MODELS = {"vrnn": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), samples_prior=True)}
