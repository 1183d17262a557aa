"""A decoder-only transformer: root-mean-square norms before each block and at the end, no biases, a KV cache."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, ArrayLike, Float, Int, Key

from latenttrack.next_latent import token_checks
from latenttrack.next_latent.interface import Params
from lowrank_filter.common import checks

Positions = Literal["rotary", "learned"]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices of :func:`latenttrack.transformer`; all static.

    Attributes:
        width: of the residual stream and of h; a multiple of ``heads``.
        layers: blocks of attention and a two-layer perceptron.
        heads: of attention; with rotary positions their width is even.
        window: the largest number of tokens.
        expansion: width of the perceptrons' hidden layer over ``width``.
        positions: "rotary" turns queries and keys (Su et al., 2104.09864), "learned" adds a vector per position.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    window: int = 128
    expansion: int = 4
    positions: Positions = "rotary"

    def __post_init__(self) -> None:
        """Raise ValueError on a size below one, widths that do not divide, an unknown choice."""
        for name in ("width", "layers", "heads", "window", "expansion"):
            checks.count(name, getattr(self, name), minimum=1)
        checks.choice("positions", self.positions, ("rotary", "learned"))
        unit = 2 * self.heads if self.positions == "rotary" else self.heads
        if self.width % unit:
            raise ValueError(
                f"width: expected a multiple of {unit} for {self.heads} heads and {self.positions} positions, got "
                f"{self.width}; change width or heads"
            )


class Cache(NamedTuple):
    """Keys and values of all layers by position, [B, layers, length, heads, width / heads]."""

    keys: Float[Array, "B layers length heads d"]
    values: Float[Array, "B layers length heads d"]


class Transformer(NamedTuple):
    """Pure functions of one set of parameters; a :class:`latenttrack.SequenceModel`."""

    config: TransformerConfig
    vocabulary: int
    window: int
    init: Callable[..., Params]
    hidden: Callable[..., Array]
    embed: Callable[..., Array]
    logits: Callable[..., Array]
    initial_cache: Callable[..., Cache]
    extend: Callable[..., tuple[Array, Cache]]


def transformer(config: TransformerConfig, vocabulary: int) -> Transformer:
    """A transformer over this many tokens. Equal arguments give the same functions, hence one compilation.

    h = norm(residual stream) has root mean square 1: the final norm has no gain, which the head W of logits = W h
    would absorb and which would let an objective on h shrink it.

    Raises:
        TypeError: ``config`` is not a :class:`TransformerConfig`.
        ValueError: ``vocabulary`` is not a static integer of at least 1.

    Examples:
        >>> config = lt.TransformerConfig(width=8, layers=1, heads=2, window=6)
        >>> model = lt.transformer(config, vocabulary=5)
        >>> params = model.init(jax.random.key(0))
        >>> model.hidden(params, jnp.array([[1, 2, 3]])).shape
        (1, 3, 8)
    """
    checks.instance("config", config, TransformerConfig, "write latenttrack.TransformerConfig(...)")
    checks.count("vocabulary", vocabulary, minimum=1)
    return _transformer(config, int(vocabulary))


@functools.lru_cache(maxsize=64)
def _transformer(config: TransformerConfig, vocabulary: int) -> Transformer:
    net = _Network(config, vocabulary)

    @functools.partial(jax.jit, static_argnums=0)
    def call(method: Callable, params: Params, *args: Any) -> Any:
        return net.apply({"params": params}, *args, method=method)

    @functools.cache
    def shapes() -> Params:
        return jax.eval_shape(lambda: net.init(jax.random.key(0))["params"])

    def check(params: Params) -> None:
        checks.like("params", params, shapes(), "take them from init(key) of the same model")

    def init(key: Key[Array, ""]) -> Params:
        """Parameters, drawn from a key."""
        key = checks.key("key", key)
        return net.init(key)["params"]

    def hidden(params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T width"]:
        """h_t for all t, in parallel over the window."""
        check(params)
        tokens = token_checks.tokens("tokens", tokens, vocabulary, config.window, (2,))
        return call(_Network.trunk, params, tokens, 0)[0]

    def embed(params: Params, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        """E(x)."""
        check(params)
        return call(_Network.embedded, params, token_checks.tokens("tokens", tokens, vocabulary))

    def logits(params: Params, h: Float[Array, "*shape width"]) -> Float[Array, "*shape V"]:
        """W h."""
        check(params)
        h = token_checks.last_axis("h", h, config.width, "take it from hidden or extend")
        return call(_Network.logits, params, h)

    def initial_cache(params: Params, batch: int, length: int) -> Cache:
        """Zeros for ``length`` ≤ window positions."""
        check(params)
        checks.count("batch", batch, minimum=1)
        token_checks.length("length", length, config.window)
        shape = (batch, config.layers, length, config.heads, config.width // config.heads)
        zeros = jnp.zeros(shape, params["head"]["kernel"].dtype)
        return Cache(zeros, zeros)

    def extend(
        params: Params, cache: Cache, tokens: Int[Array, "B n"], position: ArrayLike
    ) -> tuple[Float[Array, "B n width"], Cache]:
        """h of tokens from ``position`` on, and the cache with their keys and values; position + n ≤ its length."""
        check(params)
        checks.instance("cache", cache, Cache, "take it from initial_cache or extend")
        rows, room = cache.keys.shape[0], cache.keys.shape[2]
        tokens = token_checks.tokens("tokens", tokens, vocabulary, room, (2,))
        checks.shape("tokens", tokens, (rows, tokens.shape[1]), "as many rows as the cache was made for")
        token_checks.room(room, tokens.shape[1], position)
        return call(_Network.trunk, params, tokens, position, cache)

    return Transformer(config, vocabulary, config.window, init, hidden, embed, logits, initial_cache, extend)


def sphere(h: Float[Array, "*shape width"]) -> Float[Array, "*shape width"]:
    """h / rms(h): a root-mean-square norm without a gain (Zhang & Sennrich, 1910.07467)."""
    return h * jax.lax.rsqrt(jnp.mean(jnp.square(h), axis=-1, keepdims=True) + 1e-6)


class _Network(linen.Module):
    config: TransformerConfig
    vocabulary: int

    def setup(self) -> None:
        c = self.config
        self.embedding = linen.Embed(self.vocabulary, c.width, embedding_init=linen.initializers.normal(1.0))
        if c.positions == "learned":
            self.places = linen.Embed(c.window, c.width, embedding_init=linen.initializers.normal(0.1))
        self.blocks = Trunk(c)
        self.head = linen.Dense(self.vocabulary, use_bias=False)

    def __call__(self) -> None:
        """Touch every parameter once, for ``init``."""
        self.logits(self.trunk(jnp.zeros((1, 1), jnp.int32), 0)[0])

    def embedded(self, tokens: Array) -> Array:
        return self.embedding(tokens)

    def logits(self, h: Array) -> Array:
        return self.head(h)

    def trunk(self, tokens: Array, position: ArrayLike, cache: Cache | None = None) -> tuple[Array, Cache | None]:
        places = jnp.asarray(position) + jnp.arange(tokens.shape[1])
        x = self.embedding(tokens)
        if self.config.positions == "learned":
            x = x + self.places(places)
        seen = jnp.arange(tokens.shape[1] if cache is None else cache.keys.shape[2]) <= places[:, None]
        return self.blocks(x, places, seen, cache, places[0])


class Trunk(linen.Module):
    """The blocks over a residual stream, and the final norm; for whatever is embedded."""

    config: TransformerConfig

    @linen.compact
    def __call__(
        self, x: Array, places: Array, seen: Array, cache: Cache | None = None, slot: ArrayLike = 0
    ) -> tuple[Array, Cache | None]:
        """h [B, n, width] of x [B, n, width] at places [n], each of which sees some keys [n, keys].

        With a cache the keys are the cache's, with the new ones from ``slot`` on.
        """
        for layer in range(self.config.layers):
            x, cache = _Block(self.config, name=f"block_{layer}")(x, places, seen, cache, slot, layer)
        return sphere(x), cache


class _Block(linen.Module):
    config: TransformerConfig

    @linen.compact
    def __call__(
        self, x: Array, places: Array, seen: Array, cache: Cache | None, slot: ArrayLike, layer: int
    ) -> tuple[Array, Cache | None]:
        c = self.config
        # What all layers add to the residual stream has the size of one.
        last = linen.initializers.variance_scaling(0.5 / c.layers, "fan_in", "normal")
        mixed = linen.Dense(3 * c.width, use_bias=False, name="attention_in")(_norm("attention_norm")(x))
        heads = mixed.reshape(*x.shape[:-1], 3, c.heads, -1)
        query, key, value = heads[..., 0, :, :], heads[..., 1, :, :], heads[..., 2, :, :]
        if c.positions == "rotary":
            query, key = _turned(query, places), _turned(key, places)
        if cache is not None:
            start = (0, layer, slot, 0, 0)
            cache = Cache(
                jax.lax.dynamic_update_slice(cache.keys, key[:, None], start),
                jax.lax.dynamic_update_slice(cache.values, value[:, None], start),
            )
            key, value = cache.keys[:, layer], cache.values[:, layer]
        read = _attention(query, key, value, seen).reshape(x.shape)
        x = x + linen.Dense(c.width, use_bias=False, kernel_init=last, name="attention_out")(read)
        inner = linen.Dense(c.expansion * c.width, use_bias=False, name="inner")(_norm("inner_norm")(x))
        return x + linen.Dense(c.width, use_bias=False, kernel_init=last, name="outer")(jax.nn.gelu(inner)), cache


def _attention(query: Array, key: Array, value: Array, seen: Array) -> Float[Array, "B n heads d"]:
    """softmax(q k / √d) v over what is seen; jax.nn.dot_product_attention has its softmax in float32 always."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)), value)


def _norm(name: str) -> linen.RMSNorm:
    return linen.RMSNorm(name=name)


def _turned(x: Float[Array, "B n heads d"], places: Int[Array, " n"]) -> Float[Array, "B n heads d"]:
    """Pairs (x_i, x_{i + d/2}) turned by an angle that grows with the position."""
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-jnp.arange(half, dtype=x.dtype) / half)
    angle = (places[:, None] * rate)[:, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
