"""Train, choose and score one model on one stream: the same protocol for all."""

import functools
import itertools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import latenttrack as lt
from experiments.baselines import parts
from experiments.streams import scores
from experiments.streams.models import Entry
from experiments.streams.protocol import Data, Stream
from experiments.streams.scores import Steps


class Budget(NamedTuple):
    """What each model is given; the same for all.

    Attributes:
        seeds: runs that are scored; run s trains with key s and predicts with it.
        tuning_seeds: runs per learning rate, with other keys.
        learning_rates: the grid; and predictives, for models that sample from a prior: the share of the objective that
            is the log mean density of prior samples. The rest is the evidence bound.
        updates, batch, window: gradient steps, windows in each, and their length.
        samples: K online.
        beta: weight of the divergence.
        evaluate_every: updates between two looks at the validation span.
    """

    seeds: int = 10
    tuning_seeds: int = 1
    learning_rates: tuple[float, ...] = (1e-2, 2e-2)
    predictives: tuple[float, ...] = (0.9, 1.0)
    updates: int = 600
    batch: int = 8
    window: int = 256
    samples: int = 32
    beta: float = 1.0
    evaluate_every: int = 200


class Found(NamedTuple):
    """One model's result.

    Attributes:
        steps: scores [S, T] of the test span.
        mean: the first seed's prediction of y [T].
        latent: mean of the first seed's belief about z at each of the first test steps, if it has one.
        chosen: hyperparameters; validation: the score of each choice on the validation span, in the series' units.
        info: parameters, microseconds per streamed step, seconds.
    """

    steps: Steps
    mean: np.ndarray
    latent: np.ndarray | None
    chosen: dict[str, Any]
    validation: list[dict[str, Any]]
    info: dict[str, Any]


LATENT_STEPS = 24 * 28
_WARM = 1024  # steps before the validation span's score counts, and before a timing


def run(entry: Entry, stream: Stream, budget: Budget) -> Found:
    """Choose on the validation span, train the seeds, and score one streaming pass over the test span."""
    began = time.perf_counter()
    model = entry.build(stream.train.xs.shape[1], 1, len(stream.train.xs))
    keys = jax.vmap(jax.random.key)(jnp.arange(budget.seeds))
    if entry.trained:
        params, chosen, validation = _train(model, stream, budget, keys, entry)
        lead_in = [stream.validation]
    else:
        params, chosen, validation = _choose(entry, model, stream, budget, keys)
        lead_in = [stream.train, stream.validation] if entry.grid else [stream.validation]
    skip = sum(len(part.xs) for part in lead_in)
    whole = _device(concatenate([*lead_in, stream.test]))
    found, mean = _evaluate(model, budget.samples, skip, params, keys, whole, stream.scale)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    info = {
        "parameters": parts.size(first),
        "microseconds_per_step": microseconds(model, first, keys[0], stream.test, budget.samples),
    }
    latent = _latent(model, first, keys[0], stream) if hasattr(model, "update") else None
    found, mean = jax.device_get((found, mean))
    info["seconds"] = time.perf_counter() - began
    return Found(found, mean, latent, chosen, validation, info)


def fit(
    model: Any,
    stream: Stream,
    budget: Budget,
    keys: Array,
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
    )


def _train(
    model: Any, stream: Stream, budget: Budget, keys: Array, entry: Entry
) -> tuple[Any, dict[str, float], list[dict[str, Any]]]:
    tuning = jax.vmap(jax.random.key)(1000 + jnp.arange(budget.tuning_seeds))
    shift = float(np.log(stream.scale))
    grid = {"learning_rate": budget.learning_rates} | (
        {"predictive": budget.predictives} if entry.samples_prior else {}
    )
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    tried = []
    best, chosen = np.inf, choices[0]
    for choice in choices if len(choices) > 1 else ():
        reached = np.asarray(fit(model, stream, budget, tuning, **choice, side_by_side=entry.side_by_side).best) + shift
        tried.append(choice | {"nll": [float(value) if np.isfinite(value) else None for value in reached]})
        if np.mean(reached) < best:
            best, chosen = np.mean(reached), choice
    return fit(model, stream, budget, keys, **chosen, side_by_side=entry.side_by_side).params, chosen, tried


def _choose(
    entry: Entry, model: Any, stream: Stream, budget: Budget, keys: Array
) -> tuple[Any, dict[str, Any], list[dict[str, Any]]]:
    """Of a model that learns by filtering: the grid's best on the validation span after the training span."""
    params = jax.vmap(model.init)(keys)
    choices = list(entry.choices()) if entry.grid else [{}]
    tried = []
    if len(choices) > 1:
        whole = _device(concatenate([stream.train, stream.validation]))
        first = jax.tree.map(lambda leaf: leaf[:1], params)
        for choice in choices:
            candidate = first | {name: jnp.full(1, value) for name, value in choice.items()}
            args = (model, budget.samples, len(stream.train.xs), candidate, keys[:1], whole, stream.scale)
            score = float(jnp.mean(_evaluate(*args)[0].nll))
            tried.append(choice | {"nll": score if np.isfinite(score) else None})
    ranked = [one for one in tried if one["nll"] is not None]
    best = min(ranked, key=lambda one: one["nll"]) if ranked else choices[0]
    chosen = {name: best[name] for name in entry.grid}
    return params | {name: jnp.full(len(keys), value) for name, value in chosen.items()}, chosen, tried


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


def microseconds(model: Any, params: Any, key: Array, data: Data, samples: int, steps: int = 2000) -> float:
    """Time of one streamed step: predictions and updates one after the other, the best of three passes."""
    steps = min(steps, len(data.xs))
    xs, ys = jnp.asarray(data.xs[:steps]), jnp.asarray(data.ys[:steps])

    @jax.jit
    def stream(params: Any, key: Array, xs: Array, ys: Array) -> Array:
        start, _ = model.rollout(params, key, xs[:1], ys[:1], samples=samples)

        def body(state: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            x, y = inputs
            state, outputs = model.rollout(params, key, x[None], y[None], state, samples)
            return state, outputs.log_prob[0]

        return jax.lax.scan(body, start, (xs, ys))[1]

    jax.block_until_ready(stream(params, key, xs, ys))
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(stream(params, key, xs, ys))
        taken.append(time.perf_counter() - began)
    return 1e6 * min(taken) / steps


def _latent(model: Any, params: Any, key: Array, stream: Stream) -> np.ndarray:
    held_out, test = _device(stream.validation), stream.test

    @jax.jit
    def trajectory(params: Any, xs: Array, ys: Array) -> Array:
        state, _ = model.rollout(params, key, held_out.xs, held_out.ys, samples=1, mask=held_out.mask)

        def body(state: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            state = model.update(params, state, *inputs)
            return state, state.mean

        return jax.lax.scan(body, state, (xs, ys))[1]

    return np.asarray(trajectory(params, jnp.asarray(test.xs[:LATENT_STEPS]), jnp.asarray(test.ys[:LATENT_STEPS])))
