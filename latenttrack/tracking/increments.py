"""A latent filter of a series' increments, whose inputs are what the series was: for series with a level."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from latenttrack.interface import Aux, Outputs, Params
from latenttrack.tracking.config import Config
from latenttrack.tracking.model import build


class Level(NamedTuple):
    """What is carried: the last values beside the latent filter's own state.

    Attributes:
        step: steps so far.
        recent: y of the last steps [S, y_dim], the newest last; what was missing is carried forward.
        inner: the latent filter's state.
    """

    step: Int[Array, ""]
    recent: Float[Array, "S y_dim"]
    inner: Any


class Increments(NamedTuple):
    """The functions of a :class:`latenttrack.StreamModel`, of y itself."""

    init: Callable[..., Params]
    initial_state: Callable[..., Level]
    rollout: Callable[..., tuple[Level, Outputs]]
    loss: Callable[..., tuple[Array, Aux]]


@functools.lru_cache(maxsize=64)
def increments(
    config: Config | Callable[[int, int], Any],
    x_dim: int,
    lags: tuple[int, ...],
    spread: tuple[float, ...],
    complete: bool,
) -> Increments:
    """y_t − y_{t−1} by a latent filter, of inputs that are what the series was.

    Beside x_t it sees

        y_{t−1} / spread,   y_{t−L} − y_{t−L−1} and (y_{t−L} − y_{t−1}) / spread for each lag L.

    All of it follows from y, so that a sampled path feeds itself. Rows of ``xs`` are the known inputs, then 1 for each
    channel that was observed, then 1 if the step counts, else 0. A channel that was not observed is not scored, its
    value carried forward; a step with none is missing. The first max(L) + 1 steps have no such inputs: they are
    absorbed, not scored, and ``outputs.invalid``, like all that do not count.

    Args:
        config: of the latent filter; or a function of inputs and channels that builds another model of a stream.
        x_dim: known inputs.
        lags: L, for instance the length of a season.
        spread: standard deviation of each channel, where its increments have about 1.
        complete: whether every channel of every step was observed, whatever the rows say: then nothing is computed
            for those that were not.
    """
    y_dim, size = len(spread), max(lags, default=0) + 1
    wide = x_dim + y_dim * (1 + 2 * len(lags))
    model: Any = build(config, wide, y_dim) if isinstance(config, Config) else config(wide, y_dim)

    def initial_state(params: Params) -> Level:
        inner = model.initial_state(params)
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return Level(jnp.zeros((), jnp.int32), jnp.zeros((size, y_dim), dtype), inner)

    def look(xs: Array, ys: Array, state: Level, mask: Any) -> tuple:
        seen, scored = xs[:, x_dim:-1] > 0.5, xs[:, -1] > 0.5
        if complete:
            seen = jnp.ones_like(seen)
        if mask is not None:
            seen = seen & mask[:, None]

        def carry(last: Array, inputs: tuple) -> tuple[Array, Array]:
            last = jnp.where(inputs[1], inputs[0], last)
            return last, last

        _, filled = jax.lax.scan(carry, state.recent[-1], (ys, seen))
        history = jnp.concatenate([state.recent, filled])
        last = history[size - 1 : -1]

        def back(lag: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(history, size - lag, len(ys))

        unit = jnp.asarray(spread, ys.dtype)
        parts = [xs[:, :x_dim], last / unit]
        for lag in lags:
            parts += [back(lag) - back(lag + 1), (back(lag) - last) / unit]
        warm = state.step + jnp.arange(len(ys)) >= size
        moved = jnp.where(seen & warm[:, None], ys - last, 0)
        after = functools.partial(Level, state.step + len(ys), history[-size:])
        return jnp.concatenate(parts, axis=1), moved, last, seen, warm & scored, after

    def masks(seen: Bool[Array, "T y_dim"], mask: Any) -> dict[str, Any]:
        if complete:
            return {"mask": mask}
        return {"mask": jnp.any(seen, axis=1), "channels": seen}

    def rollout(
        params: Params, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 32, mask: Any = None
    ) -> tuple[Level, Outputs]:
        state = initial_state(params) if state is None else state
        inputs, moved, last, seen, counts, after = look(xs, ys, state, mask)
        inner, outputs = model.rollout(params, key, inputs, moved, state.inner, samples, **masks(seen, mask))
        invalid = ~counts if outputs.invalid is None else outputs.invalid | ~counts
        score = jnp.where(counts, outputs.log_prob, jnp.nan)
        return after(inner), outputs._replace(mean=outputs.mean + last[:, None], log_prob=score, invalid=invalid)

    def loss(
        params: Params, key: Array, xs: Array, ys: Array, state: Level, mask: Any = None, *, beta: Any = 1.0,
        weights: Any = None, predictive: Any = 0.5,
    ) -> tuple[Array, Aux]:  # fmt: skip
        inputs, moved, _, seen, counts, after = look(xs, ys, state, mask)
        weights = counts.astype(ys.dtype) * (1.0 if weights is None else weights)
        options = {"beta": beta, "weights": weights, "predictive": predictive, **masks(seen, mask)}
        total, aux = model.loss(params, key, inputs, moved, state.inner, **options)
        return total, aux._replace(state=after(aux.state))

    return Increments(model.init, initial_state, rollout, loss)


@functools.lru_cache(maxsize=64)
def side_by_side(model: Increments, lanes: int) -> Increments:
    """The same, where a rollout's rows are those of ``lanes`` series of one length, each from the initial state."""

    def rollout(
        params: Params, key: Array, xs: Array, ys: Array, state: Any = None, samples: int = 32, mask: Any = None
    ) -> tuple[Any, Outputs]:
        parts = [leaf.reshape(lanes, -1, leaf.shape[1]) for leaf in (xs, ys)]
        states, outputs = jax.vmap(lambda x, y: model.rollout(params, key, x, y, state, samples))(*parts)
        return states, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outputs)

    return model._replace(rollout=rollout)
