"""The networks of a language model: embeddings, encoder, decoder."""

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Float, Int

from latenttrack.gaussian_process.config import Config


class Convolution(linen.Module):
    """A dilated convolution over time of three taps: t and the two before it, or one on each side."""

    width: int
    dilation: int
    causal: bool

    @linen.compact
    def __call__(self, x: Float[Array, "T D"]) -> Float[Array, "T width"]:
        """One product of the shifted copies, which is faster than a convolution of few channels."""
        d, length = self.dilation, len(x)
        padded = jnp.pad(x, ((2 * d, 0) if self.causal else (d, d), (0, 0)))
        taps = [padded[k * d : k * d + length] for k in range(3)]
        return linen.Dense(self.width)(jnp.concatenate(taps, -1))


class Temporal(linen.Module):
    """Residual blocks of dilated convolutions (Bai et al. 2018)."""

    width: int
    dilations: tuple[int, ...]
    causal: bool

    @linen.compact
    def __call__(self, x: Float[Array, "T width"]) -> Float[Array, "T width"]:
        """Normalised before each block and at the end."""
        for dilation in self.dilations:
            hidden = Convolution(2 * self.width, dilation, self.causal)(linen.LayerNorm()(x))
            x = x + linen.Dense(self.width)(linen.gelu(hidden))
        return linen.LayerNorm()(x)


class Attention(linen.Module):
    """Residual blocks of attention, to both sides or to the past (Vaswani et al. 2017)."""

    width: int
    blocks: int
    window: int
    causal: bool

    @linen.compact
    def __call__(self, x: Float[Array, "T width"]) -> Float[Array, "T width"]:
        """Normalised before each part and at the end; positions are learned."""
        positions = self.param("positions", linen.initializers.normal(0.02), (self.window, self.width))
        x = x + positions[: len(x)]
        mask = jnp.tril(jnp.ones((len(x), len(x)), bool)) if self.causal else None
        for _ in range(self.blocks):
            normal = linen.LayerNorm()(x)
            x = x + linen.MultiHeadDotProductAttention(num_heads=4)(normal, mask=mask)
            hidden = linen.gelu(linen.Dense(4 * self.width)(linen.LayerNorm()(x)))
            x = x + linen.Dense(self.width)(hidden)
        return linen.LayerNorm()(x)


class Network(linen.Module):
    """Parameters, and the parts that use them."""

    config: Config
    vocabulary: int

    def setup(self) -> None:
        """Declare the parameters."""
        c = self.config
        normal = linen.initializers.normal
        self.embedding = self.param("embedding", normal(c.width**-0.5), (self.vocabulary, c.width))
        self.bias = self.param("bias", linen.initializers.zeros, (self.vocabulary,))
        if c.encoder == "transformer":
            self.encoder = Attention(c.width, len(c.dilations), c.window, causal=False)
        else:
            self.encoder = Temporal(c.width, c.dilations, causal=c.encoder == "causal")
        self.sites = linen.Dense(2 * c.channels)
        self.lift = linen.Dense(c.width)
        if c.decoder == "convolutional":
            self.memory = Temporal(c.width, (1, 2, 4), causal=True)
        elif c.decoder == "autoregressive":
            self.memory = linen.Dense(c.width)
        self.hidden = linen.Dense(2 * c.width)
        self.out = linen.Dense(c.width)
        self.norm = linen.LayerNorm()
        if c.regimes > 1:
            self.table = self.param("table", normal(1.0), (c.regimes, c.width))
            self.switch = self.param("switch", normal(0.5), (c.regimes, c.regimes))
            self.first = self.param("first", linen.initializers.zeros, (c.regimes,))
        self.process = self.param("process", lambda key: _process(c, key))

    def __call__(self, tokens: Int[Array, " T"]) -> None:
        """Touch all parameters."""
        sites = self.encode(tokens)
        self.decode(sites[0], tokens)

    def encode(self, tokens: Int[Array, " T"]) -> tuple[Float[Array, "T C"], Float[Array, "T C"]]:
        """Means, and raw precisions or variances."""
        hidden = self.encoder(self.embedding[tokens] * self.config.width**0.5)
        mean, spread = jnp.split(self.sites(hidden), 2, -1)
        return mean, jax.nn.softplus(spread) + 1e-4

    def decode(self, z: Float[Array, "T C"], tokens: Int[Array, " T"] | None) -> Float[Array, "T V"]:
        """Logits, without what a regime adds to them."""
        c = self.config
        hidden = self.lift(z)
        if c.decoder == "convolutional":
            hidden = self.memory(hidden)
        elif c.decoder == "autoregressive":
            known = self.embedding[tokens] * c.width**0.5
            padded = jnp.pad(known, ((c.context, 0), (0, 0)))
            past = [padded[c.context - k : c.context - k + len(known)] for k in range(1, c.context + 1)]
            hidden = hidden + self.memory(jnp.concatenate(past, -1))
        hidden = hidden + self.out(linen.gelu(self.hidden(hidden)))
        return self.norm(hidden) @ self.embedding.T + self.bias

    def regimes(self) -> Float[Array, "K V"]:
        """What each regime adds to the logits."""
        return self.table @ self.embedding.T


def _process(config: Config, key: Array) -> dict[str, Array]:
    """The prior's parameters: length scales spread evenly in their logarithm, unit variance."""
    if config.kernel == "iid":
        return {}
    if config.kernel == "coupled":
        noise = jax.random.normal(key, (config.channels,) * 2) / config.channels**0.5
        scale = jnp.exp(-1 / jnp.geomspace(config.shortest, config.longest, config.channels))
        return {"matrix": jnp.diag(scale / jnp.sqrt(1 - scale**2)) + 0.1 * noise}
    scales = jnp.log(jnp.geomspace(config.shortest, config.longest, config.channels))
    if config.kernel == "rbf":
        return {"log_lengthscale": scales, "log_variance": jnp.zeros_like(scales)}
    return {"log_lengthscale": scales}
