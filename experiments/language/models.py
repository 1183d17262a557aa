"""The models that are compared: autoregressive networks, and Gaussian-process latents in their forms."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Int

from latenttrack import Aux
from latenttrack import gaussian_process as gp
from latenttrack.gaussian_process.network import Attention, Temporal


class Entry(NamedTuple):
    """How a Gaussian-process model differs from the plain one, and what it is trained on.

    Attributes:
        options: of :class:`gaussian_process.Config`.
        predictive: the prequential share of the loss.
        beta: the final weight of the divergence.
    """

    options: dict[str, Any]
    predictive: float = 0.0
    beta: float = 1.0


_DENSE = {"kernel": "rbf", "latent": "block", "posterior": "mean_field", "shortest": 2.2, "longest": 2.2}
# A bound asks for the posterior, which sees both sides. Where a token is decoded from its own latent alone, positively
# correlated channels make two tokens two independent draws given what they share: classes that alternate, which is what
# syntax is, are out of their reach. A decoder that remembers has no such limit.
_MEMORY = {"encoder": "bidirectional", "decoder": "convolutional"}
ENTRIES = {
    # The published objective clamps the divergence from above, far below what it is: it has no gradient.
    "paper form": Entry(_DENSE | {"decoder": "convolutional", "label_smoothing": 0.03}, beta=0.0),
    "rbf mean field": Entry(_MEMORY | _DENSE),
    "ou mean field": Entry(_MEMORY | {"posterior": "mean_field"}),
    "iid": Entry(_MEMORY | {"kernel": "iid"}),
    "ou": Entry(_MEMORY),
    # What is told anew at each step is what the decoder uses: channels that begin slow collapse.
    "ou short": Entry(_MEMORY | {"shortest": 0.25, "longest": 2.0}),
    "ou free bits": Entry(_MEMORY | {"free_bits": 0.05}),
    "ou causal": Entry({"decoder": "convolutional"}),
    "ou transformer": Entry(_MEMORY | {"encoder": "transformer"}),
    "ou pointwise": Entry({"encoder": "bidirectional"}),
    "matern 3/2": Entry(_MEMORY | {"kernel": "matern32"}),
    "sum": Entry(_MEMORY | {"kernel": "sum"}),
    "coupled": Entry(_MEMORY | {"kernel": "coupled"}),
    "coupled pointwise": Entry({"encoder": "bidirectional", "kernel": "coupled"}),
    "switching": Entry({"regimes": 128}),
    "prequential": Entry({}, predictive=1.0),
    "prequential switching": Entry({"regimes": 128}, predictive=1.0),
    "hybrid": Entry({"encoder": "bidirectional", "decoder": "autoregressive", "shortest": 8.0, "longest": 64.0}),
    "hybrid prequential": Entry({"decoder": "autoregressive"}, predictive=1.0),
}
AUTOREGRESSIVE = ("tcn", "transformer")


class _Autoregressive(linen.Module):
    """The next token given all before it."""

    kind: str
    vocabulary: int
    window: int
    width: int
    dilations: tuple[int, ...]

    @linen.compact
    def __call__(self, tokens: Int[Array, " T"]) -> Array:
        """Log probabilities [T, V]; row t has seen the tokens before t."""
        embedding = self.param("embedding", linen.initializers.normal(self.width**-0.5), (self.vocabulary, self.width))
        bias = self.param("bias", linen.initializers.zeros, (self.vocabulary,))
        seen = jnp.pad(embedding[tokens] * self.width**0.5, ((1, 0), (0, 0)))[:-1]
        if self.kind == "tcn":
            hidden = Temporal(self.width, self.dilations, causal=True)(seen)
        else:
            hidden = Attention(self.width, len(self.dilations) - 2, self.window, causal=True)(seen)
        return jax.nn.log_softmax(hidden @ embedding.T + bias)


class Language(NamedTuple):
    """A model as training and scores see it; of one sequence.

    Attributes:
        init: ``init(key)`` → params.
        loss: ``loss(params, key, tokens, beta)`` → nats per token.
        gaussian: of a latent model, its functions.
        config: of a latent model, its sizes.
        next_token: of an autoregressive model, ``next_token(params, tokens)`` → log probabilities [T, V].
    """

    init: Callable[..., Any]
    loss: Callable[..., Array]
    gaussian: gp.Model | None = None
    config: gp.Config | None = None
    next_token: Callable[..., Array] | None = None


@functools.cache
def make(name: str, vocabulary: int, window: int, width: int, channels: int) -> Language:
    """The model of a name."""
    dilations = (1, 2, 4, 8, 16)
    if name in AUTOREGRESSIVE:
        net = _Autoregressive(name, vocabulary, window, width, dilations)

        def log_probabilities(params: Any, tokens: Array) -> Array:
            return net.apply({"params": params}, tokens)  # type: ignore[return-value]

        def plain(params: Any, key: Array, tokens: Array, beta: Array) -> Array:
            return -log_probabilities(params, tokens)[jnp.arange(len(tokens)), tokens].mean()

        def init(key: Array) -> Any:
            return net.init(key, jnp.zeros(window, jnp.int32))["params"]

        return Language(init, plain, next_token=log_probabilities)
    entry = ENTRIES[name]
    sizes = {"window": window, "width": width, "channels": channels, "dilations": dilations}
    config = gp.Config(**sizes | entry.options)
    model = gp.build(config, vocabulary)

    def loss(params: Any, key: Array, tokens: Array, beta: Array) -> Array:
        total: tuple[Array, Aux] = model.loss(params, key, tokens, beta=beta * entry.beta, predictive=entry.predictive)
        return total[0]

    return Language(model.init, loss, model, config)
