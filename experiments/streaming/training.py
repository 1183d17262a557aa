"""Train and score one model on one stream with one choice of its hyperparameters: the same protocol for all."""

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import latenttrack as lt
from experiments.run.search import Choice, grid
from experiments.streaming import scores
from experiments.streaming.models import parts
from experiments.streaming.models.entry import Entry
from experiments.streaming.protocol import Data, Stream
from experiments.streaming.scores import Steps


class Budget(NamedTuple):
    """What each model is given; the same for all.

    Attributes:
        seeds: runs that are scored; run s trains with key s and predicts with it.
        tuning_seeds: runs per learning rate, with other keys.
        learning_rates: the first to try, in order; if the best is the first or last of them, the search goes on by the
            same factor until it is not. A single one is taken as it is.
        predictives: for models that sample from a prior: the shares to try of the objective that is the log mean
            density of prior samples; the rest is the evidence bound. The rate is searched with the first of them, the
            others are tried at that rate.
        updates, batch, window: gradient steps, windows in each, and their length.
        samples: K online.
        beta: weight of the divergence.
        evaluate_every: updates between two looks at the validation span.
    """

    seeds: int = 10
    tuning_seeds: int = 1
    learning_rates: tuple[float, ...] = (1e-2, 2e-2)
    predictives: tuple[float, ...] = (1.0, 0.9)
    updates: int = 600
    batch: int = 8
    window: int = 256
    samples: int = 32
    beta: float = 1.0
    evaluate_every: int = 200

    def choices(self, entry: Entry) -> list[Choice]:
        """Of a model's own numbers if it is not trained, else of learning rates and what its loss takes."""
        if not entry.trained:
            return grid(entry.grid)
        shares = {"predictive": self.predictives} if entry.samples_prior else {}
        return grid({"learning_rate": self.learning_rates} | shares)

    def depends(self) -> dict[str, Any]:
        """What one choice's result depends on."""
        return {name: value for name, value in self._asdict().items() if name not in ("learning_rates", "predictives")}


class Found(NamedTuple):
    """One model's result.

    Attributes:
        steps: scores [S, T] of the test span.
        mean: the first seed's prediction of y [T].
        latent: mean of the first seed's belief about z at each of the first test steps, if it has one.
        info: parameters, seconds, and the mean score of the validation span [S] in the same pass, once warm.
    """

    steps: Steps
    mean: np.ndarray
    latent: np.ndarray | None
    info: dict[str, Any]


LATENT_STEPS = 24 * 28
_WARM = 1024  # steps before the validation span's score counts


def like(entry: Entry, stream: Stream) -> Found:
    """The structure of what ``run`` returns."""
    latent = 0 if hasattr(_model(entry, stream), "update") else None
    return Found(Steps(*Steps._fields), 0, latent, {"parameters": 0, "seconds": 0.0, "held_out": 0})  # type: ignore[arg-type]


def attempt(entry: Entry, stream: Stream, budget: Budget, choice: Choice, folder: Path) -> np.ndarray:
    """The score on the validation span with one choice, in the series' units, of each tuning run.

    Training is kept in ``folder`` as it goes.
    """
    model = _model(entry, stream)
    keys = jax.vmap(jax.random.key)(1000 + jnp.arange(budget.tuning_seeds))
    if entry.trained:
        reached = fit(model, stream, budget, keys, folder, **choice, side_by_side=entry.side_by_side).best
    else:
        params, whole = _initial(model, keys, choice), _device(concatenate([stream.train, stream.validation]))
        found, _ = _evaluate(model, budget.samples, len(stream.train.xs), params, keys, whole, 1.0)
        seen = slice(None) if stream.validation.mask is None else stream.validation.mask
        reached = jnp.mean(found.nll[:, seen], axis=1)
    shift = float(np.log(stream.scale))
    return np.array([float(value) + shift for value in np.asarray(reached)])


def run(entry: Entry, stream: Stream, budget: Budget, choice: Choice, folder: Path) -> Found:
    """Train the seeds with what was chosen, and score one streaming pass over the test span.

    Training is kept in ``folder`` as it goes.
    """
    began = time.perf_counter()
    model = _model(entry, stream)
    keys = jax.vmap(jax.random.key)(jnp.arange(budget.seeds))
    if entry.trained:
        params = fit(model, stream, budget, keys, folder, **choice, side_by_side=entry.side_by_side).params
    else:
        params = _initial(model, keys, choice)
    # A model that learns by filtering has all of the past to filter; the others only warm their state up.
    lead_in = [stream.train, stream.validation] if entry.grid else [stream.validation]
    skip = sum(len(part.xs) for part in lead_in)
    whole = _device(concatenate([*lead_in, stream.test]))
    held_out = len(stream.validation.xs)
    held_out -= 0 if entry.grid else min(_WARM, held_out // 4)
    found, mean = _evaluate(model, budget.samples, skip - held_out, params, keys, whole, stream.scale)
    validation = jnp.nanmean(found.nll[:, :held_out], axis=1)
    found, mean = jax.tree.map(lambda leaf: leaf[:, held_out:], found), mean[held_out:]
    first = jax.tree.map(lambda leaf: leaf[0], params)
    latent = _latent(model, first, keys[0], stream) if hasattr(model, "update") else None
    found, mean, validation = jax.device_get((found, mean, validation))
    info = {"parameters": parts.size(first), "seconds": time.perf_counter() - began, "held_out": validation}
    return Found(found, mean, latent, info)


def _model(entry: Entry, stream: Stream) -> Any:
    return entry.model(stream.train.xs.shape[1], len(stream.train.xs))


def _initial(model: Any, keys: Array, choice: Choice) -> Any:
    return jax.vmap(model.init)(keys) | {name: jnp.full(len(keys), value) for name, value in choice.items()}


def fit(
    model: Any,
    stream: Stream,
    budget: Budget,
    keys: Array,
    folder: Path,
    learning_rate: float,
    predictive: float = 0.0,
    side_by_side: bool = False,
) -> lt.Fit:
    """``lt.fit`` with a budget's numbers."""
    train, held_out = _device(stream.train), _device(stream.validation)
    return lt.fit(
        model,
        keys,
        train.xs,
        train.ys,
        train.mask,
        validation=(held_out.xs, held_out.ys, held_out.mask),
        updates=budget.updates,
        window=budget.window,
        batch=budget.batch,
        learning_rate=learning_rate,
        beta=budget.beta,
        options={"predictive": predictive},
        evaluate_every=min(budget.evaluate_every, budget.updates),
        samples=budget.samples,
        seeds="vmap" if side_by_side else "auto",
        windows="vmap" if side_by_side else "auto",
        burn_in=min(_WARM, len(stream.validation.xs) // 4),
        checkpoint=folder,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _evaluate(
    model: Any, samples: int, skip: int, params: Any, keys: Array, data: Data, scale: Array
) -> tuple[Steps, Array]:
    """Scores [S, T] after ``skip`` steps that only warm the state up, and the first seed's mean of y [T]."""

    def one(inputs: tuple[Any, Array]) -> tuple[Steps, Array]:
        xs, ys, mask, _ = data
        _, outputs = model.rollout(*inputs, xs, ys, samples=samples, mask=mask)
        kept = jax.tree.map(lambda leaf: leaf[skip:], outputs)
        return scores.steps(kept, ys[skip:], None if mask is None else mask[skip:], scale), jnp.mean(
            kept.mean[..., 0], 1
        )

    found, means = jax.lax.map(one, (params, keys))
    return found, means[0]


def concatenate(spans: list[Data]) -> Data:
    """Spans that follow each other as one."""
    xs, ys, masks, times = zip(*spans, strict=True)
    mask = None if masks[0] is None else np.concatenate(masks)
    return Data(np.concatenate(xs), np.concatenate(ys), mask, np.concatenate(times))


def _device(data: Data) -> Any:
    return Data(*(None if leaf is None else jnp.asarray(leaf) for leaf in data[:3]), time=None)  # type: ignore[arg-type]


def microseconds(
    entries: Mapping[str, Entry], stream: Stream, samples: Mapping[str, int], steps: int = 2000
) -> dict[str, float]:
    """Time of one streamed step of each model, the best of five passes that take turns.

    Predictions and updates follow one another, also where a model could predict a whole window at once.
    """
    steps = min(steps, len(stream.test.xs))
    xs, ys = jnp.asarray(stream.test.xs[:steps]), jnp.asarray(stream.test.ys[:steps])
    key = jax.random.key(0)
    models = {name: _model(entry, stream) for name, entry in entries.items()}
    params = {name: model.init(key) for name, model in models.items()}
    taken = dict.fromkeys(models, float("inf"))
    for turn in range(6):
        for name, model in models.items():
            began = time.perf_counter()
            jax.block_until_ready(_pass_over(model, samples[name], params[name], key, xs, ys))
            if turn > 0:  # the first one compiles
                taken[name] = min(taken[name], 1e6 * (time.perf_counter() - began) / steps)
    return taken


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pass_over(model: Any, samples: int, params: Any, key: Array, xs: Array, ys: Array) -> Array:
    start, _ = model.rollout(params, key, xs[:1], ys[:1], samples=samples)

    def body(state: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
        x, y = inputs
        state, outputs = model.rollout(params, key, x[None], y[None], state, samples)
        return state, outputs.log_prob[0]

    return jax.lax.scan(body, start, (xs, ys))[1]


def _latent(model: Any, params: Any, key: Array, stream: Stream) -> np.ndarray:
    held_out, test = _device(stream.validation), stream.test

    @jax.jit
    def trajectory(params: Any, xs: Array, ys: Array) -> Array:
        state, _ = model.rollout(params, key, held_out.xs, held_out.ys, samples=1, mask=held_out.mask)

        def body(state: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            state = model.update(params, state, *inputs)
            return state, (state.inner if isinstance(state, lt.AdaptedState) else state).mean

        return jax.lax.scan(body, state, (xs, ys))[1]

    return np.asarray(trajectory(params, jnp.asarray(test.xs[:LATENT_STEPS]), jnp.asarray(test.ys[:LATENT_STEPS])))
