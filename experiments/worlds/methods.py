"""The methods: a transformer trained on the next token alone, with more heads, or with the next hidden state."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import latenttrack as lt


@dataclasses.dataclass(frozen=True)
class Method:
    """How a transformer is trained.

    Attributes:
        horizon: steps that ψ is rolled out; 0: no ψ in training.
        normalize: whether ψ's result is normalised.
        afterwards: whether ψ is trained alone, on the finished transformer of "gpt", by as many steps again.
        heads: tokens that are predicted at once; the second and later ones by linear heads of their own.
    """

    horizon: int = 0
    normalize: bool = True
    afterwards: bool = False
    heads: int = 1

    @property
    def rolls(self) -> bool:
        """Whether there is a ψ to measure."""
        return self.horizon > 0

    @property
    def weighs(self) -> bool:
        """Whether λ matters: where ψ alone is trained it scales all of the objective."""
        return self.rolls and not self.afterwards


METHODS = {
    "gpt": Method(),
    "gpt_detached": Method(1, afterwards=True),
    "gpt_detached_plain": Method(1, normalize=False, afterwards=True),
    "mtp": Method(heads=4),
    **{f"nextlat_{d}": Method(d) for d in (1, 2, 4)},
    **{f"nextlat_{d}_plain": Method(d, normalize=False) for d in (1, 2, 4)},
}
LABELS = {
    "gpt": "Next token alone",
    "gpt_detached": "Next token, ψ afterwards",
    "gpt_detached_plain": "Next token, ψ afterwards, not normed",
    "mtp": "Four tokens at once",
    **{f"nextlat_{d}": f"NextLat, d = {d}" for d in (1, 2, 4)},
    **{f"nextlat_{d}_plain": f"NextLat, d = {d}, not normed" for d in (1, 2, 4)},
}


def several_heads(model: Any, params: tuple[Any, Array], tokens: Array, prompt: int = 0) -> Array:
    """Mean over heads of −log p(x_{t+i} | h_t), i = 1 …; head 1 is the model's. A prompt is not predicted."""
    of_model, heads = params
    h = model.hidden(of_model, tokens)
    all_logits = [model.logits(of_model, h), *(h @ head for head in heads)]
    losses = []
    for ahead, logits in enumerate(all_logits, start=1):
        first = max(prompt, ahead)
        law = jax.nn.log_softmax(logits[:, first - ahead : -ahead])
        losses.append(-jnp.mean(jnp.take_along_axis(law, tokens[:, first:, None], axis=-1)))
    return jnp.mean(jnp.stack(losses))


def asked(tokens: Array, prompt: int) -> Array | None:
    """True at tokens that are to be predicted; None: all."""
    return jnp.broadcast_to(jnp.arange(tokens.shape[1]) >= prompt, tokens.shape) if prompt else None


def loss(model: Any, method: Method, weight: Any, params: Any, tokens: Array, prompt: int = 0) -> Array:
    """What a method minimises that does not come afterwards."""
    if method.heads > 1:
        return several_heads(model, params, tokens, prompt)
    dynamics = lt.LatentDynamics(model.config.width, method.normalize)
    options = {"horizon": method.horizon, "latent": weight, "divergence": weight, "token_mask": asked(tokens, prompt)}
    return lt.nextlat_loss(model, dynamics, params, tokens, **options)[0]
