"""The latent filter as pure functions: predict → generate → emit → update, their rollout, and the training loss."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from latenttrack import stream_checks
from latenttrack.adapted import AdaptedState, adapted
from latenttrack.algebra import gaussian, quadrature
from latenttrack.interface import Aux, Outputs, Params
from latenttrack.tracking.config import Config
from latenttrack.tracking.network import Network, Theta, Transition, emit
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled


class State(NamedTuple):
    """What the filter carries from one step to the next: the summary and the belief about z_t.

    Attributes:
        step: steps so far; numbers the random points, so that chunks draw what one piece draws.
        missed: steps since the last observation.
        summary: h_t [H].
        mean: of z_t [d].
        root: L [d, d] with covariance L Lᵀ.
    """

    step: Int[Array, ""]
    missed: Int[Array, ""]
    summary: Float[Array, " H"]
    mean: Float[Array, " d"]
    root: Float[Array, "d d"]


class Prior(NamedTuple):
    """p(z_t | what is known at t−1) = N(mean, covariance)."""

    mean: Float[Array, " d"]
    covariance: Float[Array, "d d"]


class Model(NamedTuple):
    """Pure functions of one stream and one seed; a :class:`latenttrack.StreamModel`.

    ``init(key)`` → params. ``initial_state(params)`` → state. ``predict(params, state)`` → prior over z_t.
    ``generate(params, z, state=None)`` → θ, the predictor's parameters. ``emit(theta, x)`` → (mean, variance) [y_dim].
    ``features(params, state, x)`` → what the last layer of the predictor at the prior's mean sees, the summary, and 1.
    ``update(params, state, x, y, mask=None, channels=None)`` → state. ``rollout(params, key, xs, ys, state=None,
    samples=32, mask=None, channels=None)`` → (state, :class:`Outputs`). ``loss(params, key, xs, ys, state, mask=None,
    *, beta=1.0, weights=None, predictive=0.5, channels=None)`` → (scalar, :class:`Aux`).
    """

    init: Callable[..., Params]
    initial_state: Callable[..., State]
    predict: Callable[..., Prior]
    generate: Callable[..., Theta]
    emit: Callable[..., tuple[Array, Array]]
    features: Callable[..., Array]
    update: Callable[..., State]
    rollout: Callable[..., tuple[State, Outputs]]
    loss: Callable[..., tuple[Array, Aux]]


def build(config: Config, x_dim: int, y_dim: int) -> Model:
    """The latent filter of these sizes. Equal arguments give the same functions, hence one compilation.

    Raises:
        TypeError: ``config`` is not a :class:`Config`.
        ValueError: a size is not a static integer, or below its minimum (0 inputs, 1 target).

    Examples:
        >>> model = lt.build(lt.Config(latent_dim=2, hidden_dim=3), x_dim=1, y_dim=1)
        >>> params = model.init(jax.random.key(0))
        >>> model.predict(params, model.initial_state(params)).covariance.shape
        (2, 2)
    """
    checks.instance("config", config, Config, "write latenttrack.Config(...)")
    checks.count("x_dim", x_dim, minimum=0)
    checks.count("y_dim", y_dim, minimum=1)
    return _build(config, int(x_dim), int(y_dim))


@functools.lru_cache(maxsize=64)
def _build(config: Config, x_dim: int, y_dim: int) -> Model:
    net = Network(config, x_dim, y_dim)

    def call(method: str, params: Params, *args: Any) -> Any:
        return net.apply({"params": params}, *args, method=method)

    @functools.cache
    def shapes() -> tuple[Params, State]:
        params = jax.eval_shape(lambda: net.init(jax.random.key(0))["params"])
        return params, jax.eval_shape(_initial, params)

    def check(params: Params, *states: State) -> None:
        expected, moving = shapes()
        checks.like("params", params, expected, "take them from init(key) of the same model")
        for state in states:
            checks.like("state", state, moving, "take it from initial_state, update or rollout of the same model")

    def check_width(name: str, value: Any, width: int, advice: str) -> Array:
        array = checks.numbers(name, value, advice)
        checks.shape(name, array, (width,), advice)
        return array

    def init(key: Key[Array, ""]) -> Params:
        """Parameters, drawn from a key."""
        return compiled(_init, checks.key("key", key))

    def _init(key: Any) -> Params:
        return net.init(key)["params"]

    def initial_state(params: Params) -> State:
        """Nothing seen: h = 0, and z as the posterior has it there."""
        return compiled(_initial_state, params)

    def _initial_state(params: Params) -> State:
        check(params)
        return _initial(params)

    def _initial(params: Params) -> State:
        summary = jnp.zeros(config.hidden_dim, params["recurrent"].dtype)
        mean, scale = call("posterior", params, summary)
        zero = jnp.zeros((), jnp.int32)
        return State(zero, zero, summary, mean, jnp.diag(scale))

    def predict(params: Params, state: State) -> Prior:
        """p(z_t | z_{t−1}, h_{t−1}) with z_{t−1} integrated out, of the state after t−1."""
        return compiled(_predict, params, state)

    def _predict(params: Params, state: State) -> Prior:
        check(params, state)
        step = call("transition", params, state.summary)
        variance = _widened(step, state)
        if step.matrix is None:
            return Prior(step.offset, jnp.diag(variance))
        moved = step.matrix @ state.root
        return Prior(step.matrix @ state.mean + step.offset, moved @ moved.T + jnp.diag(variance))

    def generate(params: Params, z: Float[Array, " d"], state: State | None = None) -> Theta:
        """θ = g(z); with ``Config.summary`` its first bias also holds the state's summary (None: the initial one)."""
        return compiled(_generate, params, z, state)

    def _generate(params: Params, z: Any, state: State | None) -> Theta:
        check(params, *([] if state is None else [state]))
        z = check_width("z", z, config.latent_dim, "one draw from the prior; vmap over several")
        summary = jnp.zeros(config.hidden_dim, z.dtype) if state is None else state.summary
        return call("weights", params, z, summary)

    def emit_(theta: Theta, x: Float[Array, " x_dim"]) -> tuple[Float[Array, " y_dim"], Float[Array, " y_dim"]]:
        """Mean and variance of the predictor with parameters θ at x."""
        return compiled(_emit, theta, x)

    def _emit(theta: Theta, x: Any) -> tuple[Float[Array, " y_dim"], Float[Array, " y_dim"]]:
        checks.like("theta", theta, theta_shapes(), "take it from generate")
        x = check_width("x", x, x_dim, "one step's inputs; vmap over several")
        return emit(theta, x, config.variance_floor)

    def features(params: Params, state: State, x: Float[Array, " x_dim"]) -> Float[Array, " features"]:
        """Regressors of y: the last hidden layer of the predictor at the prior's mean, the summary, and 1."""
        return compiled(_features, params, state, x)

    def _features(params: Params, state: State, x: Any) -> Float[Array, " features"]:
        x = check_width("x", x, x_dim, "one step's inputs; vmap over several")
        return call("features", params, _predict(params, state).mean, state.summary, x)

    def update(
        params: Params,
        state: State,
        x: Float[Array, " x_dim"],
        y: Float[Array, " y_dim"],
        mask: Any = None,
        channels: Any = None,
    ) -> State:
        """q(z_t | h_t) with h_t = GRU(h_{t−1}, e(x_t, y_t)); a masked y leaves h alone and the prior as the belief.

        So does a step with a NaN or infinity in x or y. Of ``channels`` [y_dim] that were not observed y enters as 0.
        """
        if mask is not None:
            mask = checks.booleans("mask", mask)
        if channels is not None:
            channels = checks.booleans("channels", channels)
        return compiled(_update, params, state, x, y, mask, channels)

    def _update(
        params: Params,
        state: State,
        x: Any,
        y: Any,
        mask: Any,
        channels: Any,
    ) -> State:
        check(params, state)
        x = check_width("x", x, x_dim, "one step's inputs; vmap over several streams")
        y = check_width("y", y, y_dim, "one step's targets; vmap over several streams")
        if mask is not None:
            checks.shape("mask", mask, (), "whether this step's y was observed")
        if channels is not None:
            checks.shape("channels", channels, (y_dim,), "which channels of this step's y were observed")
            y = jnp.where(channels, y, 0)
        valid = _valid(x, y)
        x, y = jnp.where(valid, x, 0), jnp.where(valid if mask is None else valid & mask, y, 0)

        def absorb() -> State:
            hidden = call("advance", params, state.summary, x, y)
            mean, scale = call("posterior", params, hidden)
            return State(state.step + 1, jnp.zeros_like(state.missed), hidden, mean, jnp.diag(scale))

        def wait() -> State:
            mean, root = _advance(call("transition", params, state.summary), state.mean, state.root, state.missed)
            return State(state.step + 1, state.missed + 1, state.summary, mean, root)

        # A step that is missed is rare: nothing is computed for it where there is none.
        return jax.lax.cond(valid if mask is None else valid & mask, absorb, wait)

    @functools.cache
    def theta_shapes() -> Theta:
        z = jnp.zeros(config.latent_dim)
        return jax.eval_shape(lambda params: call("weights", params, z, jnp.zeros(config.hidden_dim)), shapes()[0])

    def points(samples: int) -> Float[np.ndarray, "2 K d"]:
        return quadrature.points(samples, 1 if config.transition == "unstructured" else 2, config.latent_dim)

    def draw(params: Params, key: Key[Array, ""], state: State, samples: int) -> Float[Array, "K d"]:
        """z_t from the prior: z_{t−1} from the belief, then the transition; no factorisation is needed."""
        step = call("transition", params, state.summary)
        if config.points == "fixed":
            first, second = points(samples).astype(step.offset.dtype)
        else:
            first, second = gaussian.noise(key, state.step, (2, samples, config.latent_dim))
        z = step.offset + jnp.sqrt(_widened(step, state)) * first
        if step.matrix is None:
            return z
        return z + (state.mean + second @ state.root.T) @ step.matrix.T

    def rollout(
        params: Params,
        key: Key[Array, ""],
        xs: Float[Array, "T x_dim"],
        ys: Float[Array, "T y_dim"],
        state: State | None = None,
        samples: int = 32,
        mask: Bool[Array, " T"] | None = None,
        channels: Bool[Array, "T y_dim"] | None = None,
    ) -> tuple[State, Outputs]:
        """Predict, score, then update, at each step of a stream, in one ``lax.scan``.

        A step with a NaN or infinity in x or y is one without an observation; it is predicted with zeros in place of
        what x lacks, and ``outputs.invalid`` tells it. ``channels`` tells which of an observed y's were observed: the
        others enter as 0 and are not scored.
        """
        xs, ys, mask = stream_checks.stream(xs, ys, mask, x_dim, y_dim)
        ys, channels = stream_checks.channels(ys, channels)
        stream_checks.finite_stream(xs, ys, mask)
        key = checks.key("key", key)
        checks.count("samples", samples, minimum=1)
        return compiled(_rollout, params, key, xs, ys, state, mask, channels, samples=samples)

    def _rollout(
        params: Params,
        key: Any,
        xs: Any,
        ys: Any,
        state: State | None,
        mask: Any,
        channels: Any,
        *,
        samples: int,
    ) -> tuple[State, Outputs]:
        check(params, *([] if state is None else [state]))

        def body(state: State, inputs: tuple) -> tuple[State, Outputs]:
            x, y, seen, parts = inputs
            z = draw(params, key, state, samples)
            valid = _valid(x, y)
            counts = valid if seen is None else valid & seen
            mean, variance = call("emissions", params, z, state.summary, jnp.where(jnp.isfinite(x), x, 0))
            score = gaussian.mixture(gaussian.log_density(jnp.where(counts, y, 0), mean, variance, parts))
            invalid = ~valid if seen is None else ~valid & seen
            after = update(params, state, x, y, seen, parts)
            return after, Outputs(mean, variance, jnp.where(counts, score, jnp.nan), invalid)

        state = initial_state(params) if state is None else state
        return jax.lax.scan(body, state, (xs, ys, mask, channels))

    def loss(
        params: Params,
        key: Key[Array, ""],
        xs: Float[Array, "T x_dim"],
        ys: Float[Array, "T y_dim"],
        state: State,
        mask: Bool[Array, " T"] | None = None,
        *,
        beta: ArrayLike = 1.0,
        weights: Float[Array, " T"] | None = None,
        predictive: ArrayLike = 0.5,
        channels: Bool[Array, "T y_dim"] | None = None,
    ) -> tuple[Float[Array, ""], Aux]:
        """(1 − p)(reconstruction + β KL) + p (−log mean of prior samples), a weighted mean over the observed steps.

        ``channels``: as in the rollout.
        """
        xs, ys, mask = stream_checks.stream(xs, ys, mask, x_dim, y_dim)
        ys, channels = stream_checks.channels(ys, channels)
        stream_checks.finite_stream(xs, ys, mask)
        key = checks.key("key", key)
        checks.within("beta", beta, 0.0, np.inf, "non-negative values")
        checks.within("predictive", predictive, 0.0, 1.0, "values in [0, 1]")
        if weights is not None:
            weights = checks.numbers("weights", weights, "one weight per time step")
            checks.shape("weights", weights, (len(xs),), "one weight per time step")
        return compiled(_loss, params, key, xs, ys, state, mask, beta, weights, predictive, channels)

    def _loss(
        params: Params,
        key: Any,
        xs: Any,
        ys: Any,
        state: State,
        mask: Any,
        beta: ArrayLike,
        weights: Any,
        predictive: ArrayLike,
        channels: Any,
    ) -> tuple[Float[Array, ""], Aux]:
        check(params, state)
        state = jax.lax.stop_gradient(state)
        if mask is not None:  # what was not observed cannot spoil a gradient
            mask = mask & jax.vmap(_valid)(xs, jnp.where(mask[:, None], ys, 0))
            xs = jnp.where(jnp.isfinite(xs), xs, 0)
        observed = jnp.ones(len(xs), xs.dtype) if mask is None else mask.astype(xs.dtype)
        share = observed if weights is None else observed * weights
        share = share / jnp.maximum(jnp.sum(share), 1e-12)
        ys = ys if mask is None else jnp.where(mask[:, None], ys, 0)

        hidden = call("summaries", params, state.summary, xs, ys, observed)
        before = jnp.concatenate([state.summary[None], hidden[:-1]])
        step: Transition = call("transition", params, before)
        mean, scale = call("posterior", params, hidden)
        beliefs = _beliefs(step, state, mean, scale, mask)

        prior_mean, spread = step.offset, 0.0
        if step.matrix is not None:
            prior_mean = prior_mean + beliefs.mean @ step.matrix.T
            spread = jnp.sum(jnp.square(step.matrix @ beliefs.root), axis=-1)
        prior_variance = step.variance * _wider(step, beliefs.missed)[:, None]
        kl = jnp.sum(share * gaussian.divergence(mean, jnp.square(scale), prior_mean, prior_variance, spread))

        count, ahead = config.posterior_samples, config.prior_samples
        drawn = 0 if config.points == "fixed" else 2 * ahead
        noise = jax.random.normal(key, (len(xs), count + drawn, config.latent_dim), xs.dtype)
        ours, first, second = jnp.split(noise, (count, count + drawn // 2), axis=1)
        if config.points == "fixed":
            first, second = points(ahead)[:, None].astype(xs.dtype)
        prior_z = prior_mean[:, None] + jnp.sqrt(prior_variance)[:, None] * first
        if step.matrix is not None:
            prior_z = prior_z + second @ jnp.swapaxes(step.matrix @ beliefs.root, -1, -2)
        z = jnp.concatenate([mean[:, None] + scale[:, None] * ours, prior_z], axis=1)
        means, variances = call("emissions", params, z, before, xs)
        parts = None if channels is None else channels[:, None]
        density = gaussian.log_density(ys[:, None], means, variances, parts)
        posterior, prior = jnp.split(density, [count], axis=1)
        reconstruction = -jnp.sum(share * jnp.mean(posterior, axis=1))
        scored = -jnp.sum(share * gaussian.mixture(prior))
        total = jnp.asarray(1 - predictive) * (reconstruction + beta * kl) + predictive * scored
        last = _last(state, step, beliefs, hidden, mean, scale, mask)
        return total, Aux(reconstruction, kl, jax.lax.stop_gradient(last), scored)

    model = Model(init, initial_state, predict, generate, emit_, features, update, rollout, loss)
    if config.adapt is None:
        return model
    width = (x_dim, *config.predictor_hidden)[-1] + config.hidden_dim + 1
    return _adapted(model, width, y_dim, config.prior_samples)


def _adapted(model: Model, width: int, y_dim: int, samples: int) -> Model:
    """A latent filter with a correction; its prior and the weights that it generates are its own."""
    corrected = adapted(model, model.features, width=width, y_dim=y_dim)

    def predict(params: Params, state: AdaptedState) -> Prior:
        return model.predict(params, state.inner)

    def generate(params: Params, z: Float[Array, " d"], state: AdaptedState | None = None) -> Theta:
        return model.generate(params, z, None if state is None else state.inner)

    def features(params: Params, state: AdaptedState, x: Float[Array, " x_dim"]) -> Float[Array, " features"]:
        return model.features(params, state.inner, x)

    def update(
        params: Params, state: AdaptedState, x: Any, y: Any, mask: Any = None, channels: Any = None
    ) -> AdaptedState:
        x, y = (checks.numbers(name, value, "one step's values")[None] for name, value in (("x", x), ("y", y)))
        mask, channels = (None if value is None else jnp.asarray(value)[None] for value in (mask, channels))
        key = jax.random.key(0)  # a prediction at fixed points needs none
        return corrected.rollout(params, key, x, y, state, samples, mask, channels)[0]

    return model._replace(
        predict=predict,
        generate=generate,
        features=features,
        update=update,
        initial_state=corrected.initial_state,
        rollout=corrected.rollout,
        loss=corrected.loss,
    )


def _valid(x: Float[Array, " x_dim"], y: Float[Array, " y_dim"]) -> Bool[Array, ""]:
    """Whether a step can be absorbed."""
    return jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))


class _Belief(NamedTuple):
    """z_{t−1} before each step of a window."""

    mean: Float[Array, "T d"]
    root: Float[Array, "T d d"]
    missed: Int[Array, " T"]


def _wider(step: Transition, missed: Int[Array, "..."]) -> Float[Array, "..."]:
    """Without z_{t−1} to carry it, the variance of a prior grows by its own size with each step missed."""
    growth = jnp.zeros_like(missed) if step.matrix is not None else missed
    return 1 + growth.astype(step.variance.dtype)


def _widened(step: Transition, state: State) -> Float[Array, " d"]:
    return step.variance * _wider(step, state.missed)


def _advance(step: Transition, mean: Array, root: Array, missed: Array) -> tuple[Array, Array]:
    """Mean and root of the prior, of one belief."""
    variance = step.variance * _wider(step, missed)
    if step.matrix is None:
        return step.offset, jnp.diag(jnp.sqrt(variance))
    return step.matrix @ mean + step.offset, gaussian.root_of_sum(step.matrix @ root, variance)


def _after(carry: _Belief, step: Transition, mean: Array, scale: Array, seen: Any) -> _Belief:
    ahead, root = _advance(step, *carry)
    return _Belief(
        jnp.where(seen, mean, ahead), jnp.where(seen, jnp.diag(scale), root), jnp.where(seen, 0, carry.missed + 1)
    )


def _beliefs(step: Transition, state: State, mean: Array, scale: Array, mask: Any) -> _Belief:
    """The belief before each step; a scan where some are masked, else the posteriors moved by one."""
    first = _Belief(state.mean, state.root, state.missed)
    if mask is None:
        roots = jax.vmap(jnp.diag)(scale[:-1])
        missed = jnp.zeros(len(mean) - 1, state.missed.dtype)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, _Belief(mean[:-1], roots, missed))

    def body(carry: _Belief, inputs: tuple) -> tuple[_Belief, _Belief]:
        offset, variance, *rest = inputs
        return _after(carry, Transition(step.matrix, offset, variance), *rest), carry

    return jax.lax.scan(body, first, (step.offset, step.variance, mean, scale, mask))[1]


def _last(
    state: State, step: Transition, beliefs: _Belief, hidden: Array, mean: Array, scale: Array, mask: Any
) -> State:
    count = state.step + len(mean)
    if mask is None:
        return State(count, jnp.zeros_like(state.missed), hidden[-1], mean[-1], jnp.diag(scale[-1]))
    carry = jax.tree.map(lambda leaf: leaf[-1], beliefs)
    final = Transition(step.matrix, step.offset[-1], step.variance[-1])
    after = _after(carry, final, mean[-1], scale[-1], mask[-1])
    return State(count, after.missed, hidden[-1], after.mean, after.root)
