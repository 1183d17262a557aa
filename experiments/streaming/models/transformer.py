"""A causal transformer over (x, y, mask) with a mixture head, and the same with its next hidden state as a target.

h_t is made of u_1 … u_t, u_t = (x_t, y_t, whether y_t was observed), and y_{t+1} ~ an equal mixture of Gaussians given
h_t and x_{t+1}. Attention reaches ``context`` steps back. "transformer" is served with a ring of the keys and values of
those steps. "nextlat" (arXiv 2511.05963) is trained with ψ(h_t, u_{t+1}) ≈ h_{t+1} beside it, in parallel over time,
and served by ψ alone: its state is one h.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import latenttrack as lt
from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.parts import StreamFunctions
from latenttrack import Aux, Outputs
from latenttrack.algebra import gaussian
from latenttrack.next_latent.transformer import Cache, Trunk


class Ring(NamedTuple):
    """What attention still reaches: step t is at slot t mod context."""

    place: Int[Array, ""]
    cache: Cache
    h: Float[Array, " width"]


@functools.lru_cache
def build(
    x_dim: int,
    y_dim: int,
    *,
    horizon: int = 0,
    width: int = 24,
    layers: int = 2,
    heads: int = 4,
    context: int = 64,
    head: int = 48,
    components: int = 8,
    floor: float = parts.FLOOR,
) -> StreamFunctions:
    """The network of these sizes; with ``horizon`` > 0 the objective rolls ψ out so far, and ψ serves."""
    config = lt.TransformerConfig(width=width, layers=layers, heads=heads, window=context, expansion=2)
    trunk, dynamics = Trunk(config), lt.LatentDynamics(width)

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 5)
        x, place = jnp.zeros((1, 1, width)), jnp.zeros(1, jnp.int32)
        params = {
            "embed": parts.layers(keys[0], (x_dim + y_dim + 1, width)),
            "start": jax.random.normal(keys[1], (width,)),
            "trunk": trunk.init(keys[2], x, place, jnp.ones((1, 1), bool))["params"],
            "head": parts.layers(keys[3], (width + x_dim, head, 2 * y_dim * components)),
        }
        return params | ({"dynamics": dynamics.init(keys[4])} if horizon else {})

    def embed(params: Any, xs: Array, ys: Array, observed: Array) -> Array:
        return parts.network(params["embed"], xs, ys, observed[..., None])

    def emit(params: Any, h: Array, xs: Array) -> tuple[Array, Array]:
        out = parts.network(params["head"], h, xs)
        return parts.head(out.reshape(*out.shape[:-1], components, 2 * y_dim), floor)

    def attend(params: Any, x: Array, places: Array, seen: Array, *cached: Any) -> tuple[Array, Any]:
        h, cache = trunk.apply({"params": params["trunk"]}, x[None], places, seen, *cached)  # type: ignore[misc]
        return h[0], cache

    def initial_state(params: Any) -> Any:
        """After the learned first step, which stands before every stream."""
        shape = (1, layers, context, heads, width // heads)
        cache, place = Cache(jnp.zeros(shape), jnp.zeros(shape)), jnp.zeros((), jnp.int32)
        ring = step(params, Ring(place - 1, cache, jnp.zeros(width)), params["start"])
        return ring.h if horizon else ring

    def step(params: Any, ring: Ring, x: Array) -> Ring:
        place = ring.place + 1
        slot = place % context
        seen = place - (slot - jnp.arange(context)) % context >= 0
        h, cache = attend(params, x[None], place[None], seen[None], ring.cache, slot)
        return Ring(place, cache, h[0])

    def rollout(
        params: Any, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 1, mask: Any = None
    ) -> tuple[Any, Outputs]:
        ys, observed = parts.present(ys, mask)

        def body(state: Any, inputs: tuple) -> tuple[Any, Outputs]:
            x, y, seen, came = inputs
            mean, variance = emit(params, state if horizon else state.h, x)
            score = seen * gaussian.mixture(gaussian.log_density(y, mean, variance))
            after = dynamics.apply(params["dynamics"], state, came) if horizon else step(params, state, came)
            return after, Outputs(mean, variance, score)

        embedded = embed(params, xs, ys, observed)
        state = initial_state(params) if state is None else state
        return jax.lax.scan(body, state, (xs, ys, observed, embedded))

    def loss(
        params: Any,
        key: Array,
        xs: Array,
        ys: Array,
        state: Any,
        mask: Any = None,
        *,
        weights: Any = None,
        latent: Any = 1.0,
        **_: Any,
    ) -> tuple[Array, Aux]:
        """−log p(y_t | h_{t−1}, x_t), and of ψ's rollouts the same with the head stopped, and their distance to h.

        Each window begins with the first step: what attention reaches in it is trained, not what came before it.
        """
        ys, observed = parts.present(ys, mask)
        steps, share = len(xs), parts.share(observed, weights)
        embedded = embed(params, xs, ys, observed)
        places = jnp.arange(steps + 1)
        behind = places[:, None] - places
        h, _cache = attend(
            params, jnp.concatenate([params["start"][None], embedded]), places, (behind >= 0) & (behind < context)
        )

        def score(params: Any, before: Array) -> Array:
            return -gaussian.mixture(gaussian.log_density(ys[:, None], *emit(params, before, xs)))

        total = said = jnp.sum(share * score(params, h[:-1]))
        fixed = jax.lax.stop_gradient(params)
        rolled, distance, rolled_said = h, 0.0, 0.0
        for ahead in range(1, horizon + 1):
            rolled = dynamics.apply(params["dynamics"], rolled[:-1], embedded[ahead - 1 :])
            target = jax.lax.stop_gradient(h[ahead:])
            difference = rolled - target
            inside = jnp.clip(difference, -1, 1)
            distance += jnp.mean(inside * (difference - 0.5 * inside)) / horizon
            # The divergence of mixtures has no closed form; what came is a draw from the law that h is trained to give.
            late = jnp.where(jnp.arange(steps) < ahead, 0, share)
            padded = jnp.concatenate([jnp.zeros((ahead, width)), rolled[:-1]])
            rolled_said += jnp.sum(late * score(fixed, padded)) / jnp.maximum(jnp.sum(late), 1e-12) / horizon
        if horizon:
            total = total + latent * (distance + rolled_said)
        return total, Aux(said, jnp.zeros(()), state, said)

    return StreamFunctions(init, initial_state, rollout, loss)


MODELS = {
    "nextlat": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), {"horizon": 4}, side_by_side=True),
    "transformer": Entry(lambda x, y, _, **sizes: build(x, y, **sizes), {"width": 32}, side_by_side=True),
}
