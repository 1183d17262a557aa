"""A language model with a Gaussian-process latent (arXiv 2512.09535), as pure functions of one sequence."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key

from latenttrack import Aux
from latenttrack.gaussian_process import checks, latent, regime
from latenttrack.gaussian_process.config import Config
from latenttrack.gaussian_process.network import Network
from latenttrack.gaussian_process.posteriors import MeanField, Posterior
from latenttrack.gaussian_process.steps import Site

Params = Any
Encoding = Site | MeanField


class Bound(NamedTuple):
    """Of one sequence, in nats.

    Attributes:
        elbo: E_q log p(x | z) − KL(q‖p), by as many draws as asked for.
        iwae: log of the mean importance weight of these draws; a tighter bound of log p(x).
        reconstruction: −E_q log p(x | z).
        divergence: KL(q‖p) of each channel [C]; [1] of a coupled kernel.
    """

    elbo: Float[Array, ""]
    iwae: Float[Array, ""]
    reconstruction: Float[Array, ""]
    divergence: Float[Array, " C"]


class Model(NamedTuple):
    """Pure functions of one sequence of tokens [T] and one seed; vmap over batches.

    ``init(key)`` → params. ``encode(params, tokens)`` → :class:`Site` or :class:`MeanField` [T, C].
    ``decode(params, z, tokens=None)`` → logits [T, V], [T, K, V] of K regimes. ``loss(params, key, tokens, *, beta=1.0,
    predictive=0.0)`` → (nats per token, :class:`latenttrack.Aux`). ``bound(params, key, tokens, *, samples=1)`` →
    :class:`Bound`. ``predictive(params, key, tokens, *, samples=32, horizon=1)`` → log p(x_t | x_{≤ t − horizon}) [T].
    ``generate(params, key, steps, prompt=None, *, temperature=1.0)`` → tokens [steps].
    """

    init: Callable[..., Params]
    encode: Callable[..., Encoding]
    decode: Callable[..., Array]
    loss: Callable[..., tuple[Array, Aux]]
    bound: Callable[..., Bound]
    predictive: Callable[..., Array]
    generate: Callable[..., Array]


def build(config: Config, vocabulary: int) -> Model:
    """The model of these sizes. Equal arguments give the same functions, hence one compilation.

    Raises:
        TypeError: ``config`` is not a :class:`Config`.
        ValueError: ``vocabulary`` is not a static integer > 1.

    Examples:
        >>> config = gp.Config(window=4, width=4, channels=2, dilations=(1,))
        >>> model = gp.build(config, vocabulary=3)
        >>> params = model.init(jax.random.key(0))
        >>> model.encode(params, jnp.array([0, 1, 2])).mean.shape
        (3, 2)
    """
    checks.instance("config", config, Config, "write gaussian_process.Config(...)")
    checks.count("vocabulary", vocabulary, minimum=2)
    return _build(config, int(vocabulary))


@functools.lru_cache(maxsize=64)
def _build(config: Config, vocabulary: int) -> Model:
    net = Network(config, vocabulary)

    def call(method: str, params: Params, *args: Any) -> Any:
        return net.apply({"params": params}, *args, method=method)

    def init(key: Key[Array, ""]) -> Params:
        """Parameters, drawn from a key."""
        return _init(checks.key("key", key))

    @jax.jit
    def _init(key: Array) -> Params:
        return net.init(key, jnp.zeros(config.window, jnp.int32))["params"]

    @functools.cache
    def shapes() -> Params:
        return jax.eval_shape(init, jax.random.key(0))

    def check(params: Params) -> None:
        checks.like("params", params, shapes(), "take them from init(key) of the same model")

    def check_tokens(tokens: Any) -> Array:
        return checks.tokens(tokens, vocabulary, config.window)

    def encode(params: Params, tokens: Int[Array, " T"]) -> Encoding:
        """q of each step: sites, or moments of a mean field."""
        check(params)
        return _encode(params, check_tokens(tokens))

    @jax.jit
    def _encode(params: Params, tokens: Array) -> Any:
        return (Site if config.posterior == "kalman" else MeanField)(*call("encode", params, tokens))

    def decode(params: Params, z: Float[Array, "T C"], tokens: Int[Array, " T"] | None = None) -> Array:
        """Logits of x_t from z_{≤ t}; of an autoregressive decoder also from the tokens before t."""
        check(params)
        z = checks.numbers("z", z, "a path of the latent")
        if z.ndim != 2 or z.shape[1] != config.channels or len(z) > config.window:
            raise ValueError(
                f"z: expected shape (T, {config.channels}) with T <= {config.window}, got {z.shape}; vmap over a batch"
            )
        if config.decoder == "autoregressive":
            tokens = check_tokens(tokens)
            if len(tokens) != len(z):
                raise ValueError(f"tokens: expected {len(z)} as z has steps, got {len(tokens)}; cut them to one length")
        return _decode(params, z, tokens)

    @jax.jit
    def _decode(params: Params, z: Array, tokens: Array | None) -> Array:
        logits = call("decode", params, z, tokens)
        return logits if config.regimes == 1 else logits[:, None] + call("regimes", params)

    def chain(params: Params) -> tuple[Array, Array]:
        return jax.nn.log_softmax(params["first"]), jax.nn.log_softmax(params["switch"], -1)

    def scores(params: Params, z: Array, tokens: Array, smoothing: float = 0.0) -> Array:
        """log p(x_t | z, x_{<t}) [T], or [T, K] of each regime."""
        logits = call("decode", params, z, tokens)
        if config.regimes > 1:
            return regime.scores(logits, call("regimes", params), tokens, smoothing)
        logits = jax.nn.log_softmax(logits, -1)
        own = jnp.take_along_axis(logits, tokens[:, None], -1)[:, 0]
        return own if not smoothing else (1 - smoothing) * own + smoothing * logits.mean(-1)

    def likelihood(params: Params, z: Array, tokens: Array, smoothing: float = 0.0) -> Array:
        """log p(x_t | z, x_{<t}) [T], the regime marginalised."""
        own = scores(params, z, tokens, smoothing)
        return own if config.regimes == 1 else regime.forward(*chain(params), own)[1]

    def draw(params: Params, key: Array, q: Encoding, summary: Posterior, *, joint: bool) -> Array:
        """z ~ q; where each step is decoded alone, its marginals are enough."""
        if joint or config.regimes > 1 or config.decoder == "convolutional":
            return latent.sample(config, params["process"], key, len(q[0]), q)
        noise = jax.random.normal(key, summary.mean.shape, summary.mean.dtype)
        return summary.mean + jnp.sqrt(jnp.maximum(summary.variance, 1e-12)) * noise

    def loss(
        params: Params, key: Key[Array, ""], tokens: Int[Array, " T"], *, beta: ArrayLike = 1.0, predictive: float = 0.0
    ) -> tuple[Array, Aux]:
        """(1 − predictive) · (reconstruction + β KL) + predictive · prequential, in nats per token.

        ``predictive`` is static, in [0, 1]; a part that weighs nothing is not computed and is 0 in the result. Free
        bits, smoothing and the penalty of embeddings are those of the configuration.
        """
        check(params)
        key = checks.key("key", key)
        tokens = check_tokens(tokens)
        checks.number("beta", beta, zero=True)
        checks.share("predictive", predictive)
        if predictive:
            refuse()
        return _loss(params, key, tokens, jnp.asarray(beta, params["embedding"].dtype), predictive)

    @functools.partial(jax.jit, static_argnums=4)
    def _loss(params: Params, key: Array, tokens: Array, beta: Array, predictive: float) -> tuple[Array, Aux]:
        first, second = jax.random.split(key)
        q = _encode(params, tokens)
        length = len(tokens)
        reconstruction = divergence = ahead = jnp.zeros(())
        if predictive < 1:
            summary = latent.posterior(config, params["process"], q)
            z = draw(params, first, q, summary, joint=False)
            reconstruction = -likelihood(params, z, tokens, config.label_smoothing).mean()
            divergence = jnp.maximum(summary.divergence / length, config.free_bits * _share(config)).sum()
        if predictive > 0:
            ahead = -_predictive(params, second, tokens, config.samples, 1).mean()
        penalty = config.embedding_penalty * (params["embedding"] ** 2).mean()
        total = (1 - predictive) * (reconstruction + beta * divergence) + predictive * ahead + penalty
        return total, Aux(reconstruction, divergence, None, ahead)

    def bound(params: Params, key: Key[Array, ""], tokens: Int[Array, " T"], *, samples: int = 1) -> Bound:
        """Lower bounds of log p(x) by draws of q."""
        check(params)
        key = checks.key("key", key)
        tokens = check_tokens(tokens)
        checks.count("samples", samples, minimum=1)
        return _bound(params, key, tokens, samples)

    @functools.partial(jax.jit, static_argnums=3)
    def _bound(params: Params, key: Array, tokens: Array, samples: int) -> Bound:
        q = _encode(params, tokens)
        summary = latent.posterior(config, params["process"], q)

        def weigh(key: Array) -> tuple[Array, Array]:
            z = draw(params, key, q, summary, joint=True)
            likely = likelihood(params, z, tokens).sum()
            return likely, likely + latent.log_ratio(config, params["process"], q, summary, z)

        likely, weights = jax.lax.map(weigh, jax.random.split(key, samples))
        elbo = likely.mean() - summary.divergence.sum()
        iwae = jax.nn.logsumexp(weights) - jnp.log(samples)
        return Bound(elbo, iwae, -likely.mean(), summary.divergence)

    def refuse() -> None:
        if config.refusal:
            raise ValueError(config.refusal)

    def predictive(
        params: Params, key: Key[Array, ""], tokens: Int[Array, " T"], *, samples: int = 32, horizon: int = 1
    ) -> Float[Array, " T"]:
        """log p(x_t | x_{≤ t − horizon}) [T]: the filter's belief moved on, and as many draws of it as asked for.

        A convolutional decoder sees at each step before t the draw made before that step's token; an autoregressive one
        has a score of horizon 1 only.

        Raises:
            ValueError: an encoder, posterior or latent form for which there is no such score.
        """
        check(params)
        key = checks.key("key", key)
        tokens = check_tokens(tokens)
        checks.count("samples", samples, minimum=1)
        checks.count("horizon", horizon, minimum=1)
        refuse()
        if horizon > 1 and config.decoder == "autoregressive":
            raise ValueError(
                f'horizon: expected 1 for the decoder "autoregressive", got {horizon}; it needs the tokens in between'
            )
        return _scored(params, key, tokens, samples, jnp.asarray(horizon))

    def _predictive(params: Params, key: Array, tokens: Array, samples: int, horizon: int | Array) -> Array:
        sites = _encode(params, tokens)
        moments = latent.ahead(config, params["process"], sites, horizon)
        keys = jax.random.split(key, samples)
        each = jax.vmap(lambda key: scores(params, moments.draw(key), tokens))(keys)
        mixed = jax.nn.logsumexp(each, 0) - jnp.log(samples)
        if config.regimes == 1:
            return mixed
        first, switch = chain(params)
        belief, evidence = regime.forward(first, switch, mixed)
        if isinstance(horizon, int):  # 1, of the loss
            return evidence
        # p(s_t | x_{≤ t − horizon}): the belief of t − horizon + 1, or the first, moved on.
        time = jnp.arange(len(tokens))
        belief = belief[jnp.maximum(time - horizon + 1, 0)]

        chances = jnp.exp(switch)

        def on(moved: Array, belief: Array) -> Array:
            return jnp.where((moved < time)[:, None], regime.move(belief, chances), belief)

        return jax.nn.logsumexp(jax.lax.fori_loop(0, horizon - 1, on, belief) + mixed, -1)

    _scored = jax.jit(_predictive, static_argnums=3)

    def generate(
        params: Params,
        key: Key[Array, ""],
        steps: int,
        prompt: Int[Array, " T"] | None = None,
        *,
        temperature: ArrayLike = 1.0,
    ) -> Int[Array, " steps"]:
        """Tokens of a path of the prior, after a prompt of the posterior that its sites make, all at once.

        An autoregressive decoder takes them one by one along the path.

        Raises:
            ValueError: more steps, with those of the prompt, than the window; a prompt with a mean field.
        """
        check(params)
        key = checks.key("key", key)
        checks.count("steps", steps, minimum=1)
        checks.number("temperature", temperature)
        known = 0 if prompt is None else len(check_tokens(prompt))
        if known + steps > config.window:
            raise ValueError(
                f"steps: expected at most the window of {config.window} tokens with those of the prompt, got "
                f"{known} + {steps}; shorten them, or build a model of a longer window"
            )
        if known and config.posterior != "kalman":
            raise ValueError(
                'prompt: expected none with the posterior "mean_field", which says nothing of later steps, got '
                f'{known} tokens; choose "kalman"'
            )
        prompt = None if prompt is None else check_tokens(prompt)
        return _generate(params, key, prompt, jnp.asarray(temperature, jnp.float32), steps)

    @functools.partial(jax.jit, static_argnums=4)
    def _generate(params: Params, key: Array, prompt: Array | None, temperature: Array, steps: int) -> Array:
        first, second, third = jax.random.split(key, 3)
        known = 0 if prompt is None else len(prompt)
        total = known + steps
        q = None if prompt is None else _encode(params, prompt)
        z = latent.sample(config, params["process"], first, total, q)
        tokens = jnp.zeros(total, jnp.int32)
        tokens = tokens if prompt is None else tokens.at[:known].set(prompt)
        added: Any = 0.0
        if config.regimes > 1:
            added = call("regimes", params)[regimes(params, third, z, prompt, total)]
        if config.decoder != "autoregressive":
            return jax.random.categorical(second, (call("decode", params, z, tokens) + added) / temperature)[known:]
        span = config.context + 1

        def body(tokens: Array, time: Array) -> tuple[Array, None]:
            """Only the last steps are decoded."""
            start = jnp.maximum(time - config.context, 0)
            short = min(span, total)
            start = jnp.minimum(start, total - short)
            made = call(
                "decode",
                params,
                jax.lax.dynamic_slice_in_dim(z, start, short),
                jax.lax.dynamic_slice_in_dim(tokens, start, short),
            )[time - start]
            made = made if config.regimes == 1 else made + added[time]
            token = jax.random.categorical(jax.random.fold_in(second, time), made / temperature)
            return tokens.at[time].set(token), None

        return jax.lax.scan(body, tokens, jnp.arange(known, total))[0][known:]

    def regimes(params: Params, key: Array, z: Array, prompt: Array | None, total: int) -> Array:
        """A path of the regime; after a prompt from what its tokens say."""
        first, switch = chain(params)
        known = 0 if prompt is None else len(prompt)
        if prompt is not None:
            belief = regime.forward(first, switch, scores(params, z[:known], prompt))[0][-1]
            last = belief + scores(params, z[:known], prompt)[-1]
            first = regime.move(last - jax.nn.logsumexp(last), jnp.exp(switch))

        def body(belief: Array, key: Array) -> tuple[Array, Array]:
            state = jax.random.categorical(key, belief)
            return switch[state], state

        states = jax.lax.scan(body, first, jax.random.split(key, total - known))[1]
        return jnp.concatenate([jnp.zeros(known, states.dtype), states])

    return Model(init, encode, decode, loss, bound, predictive, generate)


def _share(config: Config) -> int:
    """Channels that one divergence is of."""
    return config.channels if config.kernel == "coupled" else 1
