"""The belief-state view: what the objective leaves is a recurrent filter."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int

from latenttrack.next_latent import token_checks
from latenttrack.next_latent.dynamics import LatentDynamics
from latenttrack.next_latent.interface import Params, SequenceModel


class LatentFilter(NamedTuple):
    """Pure functions of one sequence; the state is one hidden state h [width], whatever the length.

    ``init(params, prompt)`` → h after the prompt [T], by the model. ``predict(params, h)`` → log p(x_{t+1} | h_t) [V].
    ``update(params, h, token)`` → h_{t+1} = ψ(h_t, x_{t+1}).
    """

    init: Callable[..., Array]
    predict: Callable[..., Array]
    update: Callable[..., Array]


def latent_filter(model: SequenceModel, dynamics: LatentDynamics) -> LatentFilter:
    """A filter from a model trained with :func:`latenttrack.nextlat_loss`, for ``lax.scan`` over any length.

    ``params`` of its functions is the pair (model's, dynamics'). Equal arguments give the same functions.

    Raises:
        TypeError: the model or the dynamics lack a function, or are not hashable.

    Examples:
        >>> config = lt.TransformerConfig(width=8, layers=1, heads=2, window=6)
        >>> model = lt.transformer(config, vocabulary=5)
        >>> params = model.init(jax.random.key(0))
        >>> psi = lt.LatentDynamics(width=8)
        >>> pair = lt.NextLatParams(params, psi.init(jax.random.key(1)))
        >>> filter = lt.latent_filter(model, psi)
        >>> h = filter.update(pair, filter.init(pair, jnp.array([1, 2])), jnp.array(3))
        >>> h.shape, filter.predict(pair, h).shape
        ((8,), (5,))
    """
    token_checks.model(model)
    token_checks.dynamics(dynamics)
    return _latent_filter(model, dynamics)


@functools.lru_cache(maxsize=64)
def _latent_filter(model: Any, dynamics: Any) -> LatentFilter:
    def init(params: tuple[Params, Params], prompt: Int[Array, " T"]) -> Float[Array, " width"]:
        """h_T of a prompt x_0 … x_T of at least one token."""
        prompt = token_checks.tokens("prompt", prompt, axes=(1,))
        return model.hidden(token_checks.pair(params)[0], prompt[None])[0, -1]

    def predict(params: tuple[Params, Params], h: Float[Array, " width"]) -> Float[Array, " V"]:
        """log p(x_{t+1} | h_t), in nats."""
        return jax.nn.log_softmax(model.logits(token_checks.pair(params)[0], h))

    def update(params: tuple[Params, Params], h: Float[Array, " width"], token: Int[Array, ""]) -> Array:
        """ψ(h, x)."""
        of_model, of_dynamics = token_checks.pair(params)
        return dynamics.apply(of_dynamics, h, model.embed(of_model, token_checks.tokens("token", token, axes=(0,))))

    return LatentFilter(init, predict, update)
