"""The training objective: the next token, and beside it the model's own next hidden states (2511.05963)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from latenttrack.next_latent import token_checks
from latenttrack.next_latent.dynamics import LatentDynamics
from latenttrack.next_latent.interface import Params, SequenceModel
from lowrank_filter.common import checks


class Aux(NamedTuple):
    """The parts of :func:`nextlat_loss`, before their weights.

    Attributes:
        cross_entropy: mean −log p(x_{t+1} | h_t), in nats.
        latent: L_h, mean over horizons of the mean SmoothL1 distance of rolled-out to actual hidden states.
        divergence: L_KL, the same mean of KL(p(· | h_{t+i}) ‖ p(· | ĥ_{t+i})), in nats.
    """

    cross_entropy: Float[Array, ""]
    latent: Float[Array, ""]
    divergence: Float[Array, ""]


def nextlat_loss(
    model: SequenceModel,
    dynamics: LatentDynamics,
    params: tuple[Params, Params],
    tokens: Int[Array, "B T"],
    *,
    horizon: int,
    latent: ArrayLike = 1.0,
    divergence: ArrayLike = 1.0,
    token_mask: Bool[Array, "B T"] | None = None,
    latent_mask: Bool[Array, "B T"] | None = None,
    detach: bool = False,
) -> tuple[Float[Array, ""], Aux]:
    """L = CE + λ_h L_h + λ_KL L_KL (Teoh et al., 2511.05963).

    With ĥ_t = h_t and ĥ_{t+i} = ψ(ĥ_{t+i−1}, x_{t+i}), i = 1 … d, which is not detached,

        L_h  = (1/d) Σ_i mean SmoothL1(ĥ_{t+i}, sg h_{t+i}),                      β = 1
        L_KL = (1/d) Σ_i mean KL(sg p(· | h_{t+i}) ‖ p(· | ĥ_{t+i}))

    where the means are over the rollouts that stay in the sequence, L_h's over dimensions too. The head that gives
    p(· | ĥ) is stopped, so it learns from CE alone; so is every target. Horizon 0 is CE.

    Args:
        model, dynamics: the network, and ψ; both static.
        params: their parameters, a pair such as :class:`latenttrack.NextLatParams`.
        tokens: sequences, at least two tokens each. A next token is known for positions 0 … T−2.
        horizon: d, static.
        latent, divergence: λ_h, λ_KL, traced: a sweep over them is a vmap.
        token_mask: True at tokens that are to be predicted (None: all), so False on prompts and padding. CE and KL are
            taken where the next token is one of these; L_KL leaves out the last position, whose next token is unknown.
        latent_mask: True at positions whose hidden state a rollout may reach (None: all), so False at tokens that end
            a sequence, and on padding. A rollout that meets a False after its start ends before it.
        detach: whether nothing but ψ is trained: the control. The value stays the same.

    Raises:
        TypeError: tokens are not integers; model, dynamics or params are something else.
        ValueError: a shape, a length, a horizon or a weight out of its range.

    Examples:
        >>> config = lt.TransformerConfig(width=8, layers=1, heads=2, window=6)
        >>> model = lt.transformer(config, vocabulary=5)
        >>> params = model.init(jax.random.key(0))
        >>> psi = lt.LatentDynamics(width=8)
        >>> pair = lt.NextLatParams(params, psi.init(jax.random.key(1)))
        >>> loss, parts = lt.nextlat_loss(model, psi, pair, jnp.array([[1, 2, 3, 4]]), horizon=2)
        >>> loss.shape
        ()
    """
    token_checks.model(model)
    token_checks.dynamics(dynamics)
    params_model, params_dynamics = token_checks.pair(params)
    vocabulary, window = getattr(model, "vocabulary", None), getattr(model, "window", None)
    tokens = token_checks.tokens("tokens", tokens, vocabulary, window, (2,))
    checks.count("horizon", horizon, minimum=0)
    if tokens.shape[1] < max(horizon + 1, 2):
        raise ValueError(
            f"tokens: expected at least {max(horizon + 1, 2)} tokens a sequence for horizon {horizon}, got "
            f"{tokens.shape[1]}; lengthen them or shorten the horizon"
        )
    for name, value in (("latent", latent), ("divergence", divergence)):
        checks.within(name, value, 0.0, np.inf, "non-negative values")
    checks.flag("detach", detach)
    known = jnp.ones(tokens.shape, bool)
    token_mask, latent_mask = (
        known if mask is None else token_checks.sequence_mask(name, mask, tokens.shape)
        for name, mask in (("token_mask", token_mask), ("latent_mask", latent_mask))
    )

    weights = jnp.asarray(latent), jnp.asarray(divergence)
    return _loss(
        *(model, dynamics, horizon, detach), (params_model, params_dynamics), tokens, weights, token_mask, latent_mask
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _loss(
    model: SequenceModel,
    dynamics: LatentDynamics,
    horizon: int,
    detach: bool,
    params: tuple[Params, Params],
    tokens: Array,
    weights: tuple[Array, Array],
    token_mask: Array,
    latent_mask: Array,
) -> tuple[Array, Aux]:
    (params_model, params_dynamics), (latent, divergence) = params, weights
    if detach:
        params_model = jax.lax.stop_gradient(params_model)
    h = model.hidden(params_model, tokens)
    everywhere = jnp.ones(tokens.shape, bool)
    law = jax.nn.log_softmax(model.logits(params_model, h))
    said = jnp.take_along_axis(law[:, :-1], tokens[:, 1:, None], axis=-1)[..., 0]
    cross_entropy = -_mean(said, token_mask[:, 1:])
    if horizon == 0:
        zero = jnp.zeros_like(cross_entropy)
        return cross_entropy, Aux(cross_entropy, zero, zero)

    fixed = jax.lax.stop_gradient(params_model)
    follows = jnp.pad(token_mask[:, 1:], ((0, 0), (0, 1)))
    steps = {
        "token": model.embed(params_model, tokens),
        "target": jax.lax.stop_gradient(h),
        "law": jax.lax.stop_gradient(law),
        "reached": latent_mask,
        "follows": follows,
    }

    def advance(carry: tuple[Array, Array, dict], index: Int[Array, ""]) -> tuple[tuple, tuple[Array, Array]]:
        rolled, kept, ahead = carry
        ahead = jax.tree.map(lambda leaf: jnp.roll(leaf, -1, axis=1), ahead)
        kept = kept & ahead["reached"] & (jnp.arange(tokens.shape[1]) < tokens.shape[1] - index)
        rolled = dynamics.apply(params_dynamics, rolled, ahead["token"])
        distance = jnp.mean(_smooth_l1(rolled - ahead["target"]), axis=-1)
        said = jax.nn.log_softmax(model.logits(fixed, rolled))
        kl = jnp.sum(jnp.exp(ahead["law"]) * (ahead["law"] - said), axis=-1)
        return (rolled, kept, ahead), (_mean(distance, kept), _mean(kl, kept & ahead["follows"]))

    _, parts = jax.lax.scan(advance, (h, everywhere, steps), jnp.arange(1, horizon + 1))
    aux = Aux(cross_entropy, *map(jnp.mean, parts))
    return cross_entropy + latent * aux.latent + divergence * aux.divergence, aux


def _mean(values: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, ""]:
    """Over what the mask keeps; 0 where it keeps nothing."""
    return jnp.sum(jnp.where(mask, values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def _smooth_l1(difference: Array) -> Array:
    """x²/2 within ±1, |x| − 1/2 beyond."""
    inside = jnp.clip(difference, -1.0, 1.0)
    return inside * (difference - 0.5 * inside)
