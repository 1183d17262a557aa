"""Many steps ahead, by sampled paths whose own values are fed back."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Key

from latenttrack import stream_checks
from latenttrack.interface import Params, State, StreamModel
from lowrank_filter.common import checks


class Forecast(NamedTuple):
    """Paths of y over the steps ahead, equally likely: their joint distribution and not only that of each step.

    A leading axis of ``samples``, as a ``vmap`` gives it, leads every result.

    Attributes:
        samples: [K, h, y_dim], in units of y.
    """

    samples: Float[Array, "*batch K h y_dim"]

    def quantile(self, q: ArrayLike) -> Float[Array, "..."]:
        """Of each step and channel [h, y_dim], interpolated between paths; q [Q] gives [Q, h, y_dim].

        The k-th of K values in order is the quantile of k / (K + 1), so that a further draw of the same distribution
        lies below the quantile of q with probability q; beyond 1 / (K + 1) at either end it is the outermost value.
        """
        q, count = stream_checks.probabilities("q", q), self.samples.shape[-3]
        return jnp.quantile(self.samples, jnp.clip((q * (count + 1) - 1) / max(count - 1, 1), 0, 1), axis=-3)

    def interval(self, level: ArrayLike) -> tuple[Float[Array, "*batch h y_dim"], Float[Array, "*batch h y_dim"]]:
        """Lower and upper end of each step's central interval of probability ``level``."""
        checks.within("level", level, 0.0, 1.0, "values in [0, 1]")
        lower, upper = self.quantile(0.5 + 0.5 * jnp.asarray([-1.0, 1.0]) * level)
        return lower, upper

    def mean(self) -> Float[Array, "*batch h y_dim"]:
        """Of each step and channel."""
        return jnp.mean(self.samples, axis=-3)

    def crps(self, y: Float[Array, "*batch h y_dim"]) -> Float[Array, "*batch h y_dim"]:
        """Continuous ranked probability score of the paths' empirical distribution at each step, in units of y.

        (1/K) Σ_k |x_k − y| − 1/(2K²) Σ_kl |x_k − x_l| (Gneiting and Raftery 2007, eq. 21), the pairs by sorting.
        """
        y = checks.numbers("y", y, "the targets [h, y_dim] of the steps ahead")
        shape = self.samples.shape[:-3] + self.samples.shape[-2:]
        checks.shape("y", y, shape, "the targets of the steps ahead")
        count = self.samples.shape[-3]
        weight = (2 * jnp.arange(1, count + 1) - count - 1) / count**2
        spread = jnp.tensordot(weight.astype(y.dtype), jnp.sort(self.samples, axis=-3), axes=(0, -3))
        return jnp.mean(jnp.abs(self.samples - y[..., None, :, :]), axis=-3) - spread


def forecast(
    model: StreamModel,
    params: Params,
    key: Key[Array, ""],
    state: State,
    xs: Float[Array, "h x_dim"],
    *,
    samples: int = 128,
    components: int = 32,
    y_dim: int | None = None,
) -> Forecast:
    """Paths of the next h steps after ``state``, by ancestral sampling; no target is seen.

    At each step and for each path,

        y_t ~ (1/C) Σ_c N(mean_c, diag variance_c),   the mixture that a rollout gives for x_t in the path's state,
        state_t = update(state_{t−1}, x_t, y_t),

    so that a path's state is that of a stream in which its values were observed. A mixture for step t alone, with the
    summary h held fixed meanwhile, is not this distribution: training never visits such a state.

    Args:
        model: any object with ``rollout``; see :class:`StreamModel`.
        params, key: of the model.
        state: of a rollout's end.
        xs: the inputs of those steps; what is not known ahead must be left out of x, or filled by the caller.
        samples: K paths.
        components: C of the mixtures, as in the rollouts that the model is scored by.
        y_dim: channels of y; only for a model without ``predict``, ``generate`` and ``emit``, which tell it otherwise.

    Raises:
        TypeError: the key is not one.
        ValueError: no ``y_dim`` for such a model; shapes are wrong; an input that can be seen is not finite.

    Examples:
        >>> model = lt.build(lt.Config(latent_dim=2, hidden_dim=3, prior_samples=2), x_dim=1, y_dim=1)
        >>> params, xs = model.init(jax.random.key(0)), jnp.zeros((5, 1))
        >>> state, _ = lt.rollout(model, params, jax.random.key(1), xs, xs, samples=2)
        >>> ahead = lt.forecast(model, params, jax.random.key(2), state, jnp.zeros((3, 1)), samples=4, components=2)
        >>> ahead.samples.shape
        (4, 3, 1)
    """
    stream_checks.model(model)
    key = checks.key("key", key)
    if state is None:
        raise ValueError(
            "state: expected that of a rollout's end, got None; model.initial_state(params) has seen nothing"
        )
    xs = stream_checks.ahead(xs)
    checks.count("samples", samples, minimum=1)
    checks.count("components", components, minimum=1)
    if y_dim is None:
        y_dim = _width(model, params, state, xs)
    checks.count("y_dim", y_dim, minimum=1)
    return Forecast(_paths(model, samples, components, y_dim, params, key, state, xs))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _paths(
    model: Any, samples: int, components: int, y_dim: int, params: Params, key: Array, state: State, xs: Array
) -> Float[Array, "K h y_dim"]:
    def step(key: Array, state: State, x: Array) -> tuple[State, Array]:
        points, choice, noise = jax.random.split(key, 3)
        x, nothing = x[None], jnp.zeros((1, y_dim), xs.dtype)
        ahead = functools.partial(model.rollout, params, points, x, samples=components)
        _, outputs = ahead(nothing, state, mask=jnp.zeros(1, bool))
        mean, variance = (leaf[0] for leaf in (outputs.mean, outputs.variance))
        one = jax.random.randint(choice, (), 0, len(mean))
        y = mean[one] + jnp.sqrt(variance[one]) * jax.random.normal(noise, (y_dim,), mean.dtype)
        return ahead(y[None], state)[0], y

    def body(states: State, inputs: tuple[Array, Array]) -> tuple[State, Array]:
        keys, x = inputs
        return jax.vmap(step, (0, 0, None))(keys, states, x)

    keys = jax.random.split(key, (len(xs), samples))
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (samples, *jnp.shape(leaf))), state)
    return jnp.swapaxes(jax.lax.scan(body, states, (keys, xs))[1], 0, 1)


def _width(model: Any, params: Params, state: State, xs: Array) -> int:
    if not all(hasattr(model, name) for name in ("predict", "generate", "emit")):
        raise ValueError(
            "y_dim: expected the number of y's channels, got None, for a model without predict, generate and emit; "
            "say how many"
        )

    def mean() -> Array:
        return model.emit(model.generate(params, model.predict(params, state).mean, state), xs[0])[0]

    return jax.eval_shape(mean).shape[-1]
