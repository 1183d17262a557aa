"""The latent filter as pure functions: predict → generate → emit → update, their rollout, and the training loss."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from latenttrack import checks
from latenttrack.algebra import gaussian, quadrature
from latenttrack.config import Config
from latenttrack.kernels.interface import Aux, Outputs, Params
from latenttrack.kernels.network import Network, Theta, Transition, emit


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
    ``update(params, state, x, y, mask=None)`` → state. ``rollout(params, key, xs, ys, state=None, samples=32,
    mask=None)`` → (state, :class:`Outputs`). ``loss(params, key, xs, ys, state, mask=None, *, beta=1.0, weights=None,
    predictive=0.5)`` → (scalar, :class:`Aux`).
    """

    init: Callable[..., Params]
    initial_state: Callable[..., State]
    predict: Callable[..., Prior]
    generate: Callable[..., Theta]
    emit: Callable[..., tuple[Array, Array]]
    update: Callable[..., State]
    rollout: Callable[..., tuple[State, Outputs]]
    loss: Callable[..., tuple[Array, Aux]]


@functools.lru_cache(maxsize=64)
def build(config: Config, x_dim: int, y_dim: int) -> Model:
    """The latent filter of these sizes. Equal arguments give the same functions, hence one compilation."""
    checks.count("x_dim", x_dim, minimum=0)
    checks.count("y_dim", y_dim, minimum=1)
    net = Network(config, x_dim, y_dim)

    def call(method: str, params: Params, *args: Any) -> Any:
        return net.apply({"params": params}, *args, method=method)

    def init(key: Key[Array, ""]) -> Params:
        """Parameters, drawn from a key."""
        return net.init(key)["params"]

    def initial_state(params: Params) -> State:
        """Nothing seen: h = 0, and z as the posterior has it there."""
        summary = jnp.zeros(config.hidden_dim, params["recurrent"].dtype)
        mean, scale = call("posterior", params, summary)
        zero = jnp.zeros((), jnp.int32)
        return State(zero, zero, summary, mean, jnp.diag(scale))

    def predict(params: Params, state: State) -> Prior:
        """p(z_t | z_{t−1}, h_{t−1}) with z_{t−1} integrated out, of the state after t−1."""
        step = call("transition", params, state.summary)
        variance = _widened(step, state)
        if step.matrix is None:
            return Prior(step.offset, jnp.diag(variance))
        moved = step.matrix @ state.root
        return Prior(step.matrix @ state.mean + step.offset, moved @ moved.T + jnp.diag(variance))

    def generate(params: Params, z: Float[Array, " d"], state: State | None = None) -> Theta:
        """θ = g(z); with ``Config.summary`` its first bias also holds the state's summary (None: the initial one)."""
        summary = jnp.zeros(config.hidden_dim, z.dtype) if state is None else state.summary
        return call("weights", params, z, summary)

    def emit_(theta: Theta, x: Float[Array, " x_dim"]) -> tuple[Float[Array, " y_dim"], Float[Array, " y_dim"]]:
        """Mean and variance of the predictor with parameters θ at x."""
        return emit(theta, x, config.variance_floor)

    def update(
        params: Params, state: State, x: Float[Array, " x_dim"], y: Float[Array, " y_dim"], mask: Any = None
    ) -> State:
        """q(z_t | h_t) with h_t = GRU(h_{t−1}, e(x_t, y_t)); a masked y leaves h alone and the prior as the belief."""
        safe = y if mask is None else jnp.where(mask, y, 0)
        hidden = call("advance", params, state.summary, x, safe)
        mean, scale = call("posterior", params, hidden)
        seen = State(state.step + 1, jnp.zeros_like(state.missed), hidden, mean, jnp.diag(scale))
        if mask is None:
            return seen
        prior = predict(params, state)
        root = jnp.linalg.cholesky(prior.covariance)
        unseen = State(state.step + 1, state.missed + 1, state.summary, prior.mean, root)
        return jax.tree.map(lambda a, b: jnp.where(mask, a, b), seen, unseen)

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
    ) -> tuple[State, Outputs]:
        """Predict, score, then update, at each step of a stream, in one ``lax.scan``."""
        checks.stream(xs, ys, mask, x_dim, y_dim)
        checks.count("samples", samples, minimum=1)

        def body(state: State, inputs: tuple) -> tuple[State, Outputs]:
            x, y, seen = inputs
            z = draw(params, key, state, samples)
            mean, variance = call("emissions", params, z, state.summary, x)
            safe = y if seen is None else jnp.where(seen, y, 0)
            score = gaussian.mixture(gaussian.log_density(safe, mean, variance))
            score = score if seen is None else jnp.where(seen, score, 0)
            return update(params, state, x, y, seen), Outputs(mean, variance, score)

        state = initial_state(params) if state is None else state
        return jax.lax.scan(body, state, (xs, ys, mask))

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
    ) -> tuple[Float[Array, ""], Aux]:
        """(1 − p)(reconstruction + β KL) + p (−log mean of prior samples), a weighted mean over the observed steps."""
        checks.stream(xs, ys, mask, x_dim, y_dim)
        state = jax.lax.stop_gradient(state)
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
        density = gaussian.log_density(ys[:, None], *call("emissions", params, z, before, xs))
        posterior, prior = jnp.split(density, [count], axis=1)
        reconstruction = -jnp.sum(share * jnp.mean(posterior, axis=1))
        scored = -jnp.sum(share * gaussian.mixture(prior))
        total = jnp.asarray(1 - predictive) * (reconstruction + beta * kl) + predictive * scored
        last = _last(state, step, beliefs, hidden, mean, scale, mask)
        return total, Aux(reconstruction, kl, jax.lax.stop_gradient(last), scored)

    return Model(init, initial_state, predict, generate, emit_, update, rollout, loss)


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
    moved = step.matrix @ root
    return step.matrix @ mean + step.offset, jnp.linalg.cholesky(moved @ moved.T + jnp.diag(variance))


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
