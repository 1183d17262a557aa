"""A recurrent network with a Gaussian head: y_t ~ N(f(h_{t−1}, x_t)), h_t = GRU(h_{t−1}, e(x_t, y_t))."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import latenttrack as lt
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
    hidden: int = 64,
    encoder: int = 16,
    width: int = 48,
    components: int = 1,
    floor: float = parts.FLOOR,
    adapt: bool = False,
) -> StreamFunctions | lt.Adapted:
    """The network of these sizes; with ``components`` > 1 the head gives an equal mixture of Gaussians.

    ``adapt``: whether a filter corrects it, of the same kind of features as that of a latent filter: the last hidden
    layer, the state, and 1.
    """

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 4)
        return {
            "encoder": parts.layers(keys[0], (x_dim + y_dim, encoder)),
            "projection": parts.layers(keys[1], (encoder, 3 * hidden)),
            "recurrent": jax.nn.initializers.orthogonal()(keys[2], (hidden, 3 * hidden)),
            "head": parts.layers(keys[3], (hidden + x_dim, width, 2 * y_dim * components)),
        }

    def initial_state(params: Any) -> Array:
        return jnp.zeros(hidden)

    def project(params: Any, xs: Array, ys: Array) -> Array:
        return parts.network(params["projection"], jnp.tanh(parts.network(params["encoder"], xs, ys)))

    def emit(params: Any, h: Array, xs: Array) -> tuple[Array, Array]:
        out = parts.network(params["head"], h, xs)
        return parts.head(out.reshape(*out.shape[:-1], components, 2 * y_dim), floor)

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 1, mask: Any = None
    ) -> tuple[Array, Outputs]:
        ys, observed = parts.present(ys, mask)

        def body(h: Array, inputs: tuple) -> tuple[Array, Outputs]:
            x, y, seen = inputs
            mean, variance = emit(params, h, x)
            score = seen * gaussian.mixture(gaussian.log_density(y, mean, variance))
            after = recurrence.step(params["recurrent"], h, project(params, x, y))
            return jnp.where(seen > 0, after, h), Outputs(mean, variance, score)

        return jax.lax.scan(body, initial_state(params) if state is None else state, (xs, ys, observed))

    def loss(
        params: Any, key: Array, xs: Array, ys: Array, state: Array, mask: Any = None, *, weights: Any = None, **_: Any
    ) -> tuple[Array, Aux]:
        ys, observed = parts.present(ys, mask)
        after = recurrence.recur(params["recurrent"], jax.lax.stop_gradient(state), project(params, xs, ys), observed)
        before = jnp.concatenate([state[None], after[:-1]])
        score = gaussian.mixture(gaussian.log_density(ys[:, None], *emit(params, before, xs)))
        total = -jnp.sum(parts.share(observed, weights) * score)
        return total, Aux(total, jnp.zeros(()), jax.lax.stop_gradient(after[-1]), total)

    model = StreamFunctions(init, initial_state, rollout, loss)
    if not adapt:
        return model

    def features(params: Any, h: Array, x: Array) -> Array:
        first, *_ = params["head"]
        return jnp.concatenate([jnp.tanh(parts.network((first,), h, x)), h, jnp.ones(1)])

    return lt.adapted(model, features, width=width + hidden + 1, y_dim=y_dim)


MODELS = {
    "gru": Entry(lambda x, y, _, **sizes: build(x, y, **sizes)),
    "gru_mixture": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), {"components": 8, "hidden": 60}),
    "gru_32": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), {"components": 32, "hidden": 60}),
    "gru_32_adapted": Entry(
        lambda x, y, _, **sizes: build(x, y, **sizes), {"components": 32, "hidden": 60, "adapt": True}
    ),
}
