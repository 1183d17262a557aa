"""Training: truncated backpropagation over windows whose state is carried, for any model of a stream."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key

from latenttrack import stream_checks
from latenttrack.interface import Params, State, StreamModel
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled

Side = Literal["auto", "vmap", "map"]


class History(NamedTuple):
    """How training went.

    Attributes:
        loss, reconstruction, kl: of each update, the mean over its windows; reconstruction and kl in nats.
        validation: mean −log density of the validation stream after each round; NaN without one.
        skipped: updates that were left out because a gradient was not finite.
    """

    loss: Float[Array, " updates"]
    reconstruction: Float[Array, " updates"]
    kl: Float[Array, " updates"]
    validation: Float[Array, " rounds"]
    skipped: Int[Array, ""]


class Fit(NamedTuple):
    """``params`` with the lowest validation score ``best`` (without validation: the last), ``last`` ones, history."""

    params: Params
    best: Float[Array, ""]
    last: Params
    history: History


class Data(NamedTuple):
    """A stream: inputs [T, x_dim], targets [T, y_dim], which targets were observed [T] (None: all)."""

    xs: Float[Array, "T x_dim"]
    ys: Float[Array, "T y_dim"]
    mask: Bool[Array, " T"] | None = None


class _Knobs(NamedTuple):
    """Everything traced: a grid of these is a vmap."""

    learning_rate: ArrayLike
    clip: ArrayLike
    beta: ArrayLike
    warmup: ArrayLike
    recency: ArrayLike
    options: Mapping[str, ArrayLike]


class _Shape(NamedTuple):
    """Everything static."""

    updates: int
    window: int
    batch: int
    evaluate_every: int
    samples: int
    burn_in: int
    optimizer: optax.GradientTransformation | None
    windows: str


class _Training(NamedTuple):
    key: Key[Array, ""]
    step: Int[Array, ""]
    params: Params
    optimizer: Any
    states: State
    offset: Int[Array, ""]
    best: Float[Array, ""]
    best_params: Params


def fit(
    model: StreamModel,
    key: Key[Array, "*seeds"],
    xs: Float[Array, "T x_dim"],
    ys: Float[Array, "T y_dim"],
    mask: Bool[Array, " T"] | None = None,
    *,
    validation: tuple | None = None,
    updates: int = 600,
    window: int = 256,
    batch: int = 8,
    learning_rate: ArrayLike = 5e-3,
    clip: ArrayLike = 1.0,
    beta: ArrayLike = 1.0,
    warmup: ArrayLike = 100,
    recency: ArrayLike = 1.0,
    options: Mapping[str, ArrayLike] | None = None,
    evaluate_every: int = 100,
    samples: int = 32,
    burn_in: int = 0,
    optimizer: optax.GradientTransformation | None = None,
    seeds: Side = "auto",
    windows: Side = "auto",
    checkpoint: str | Path | None = None,
    progress: Callable[[int, Array], None] | None = None,
) -> Fit:
    """Minimise the model's loss by truncated backpropagation through time.

    The stream is cut into ``batch`` segments that are walked side by side, ``window`` steps an update, their states
    carried from window to window without gradient; each pass starts at another offset. All of it is compiled once for
    each model and shape: learning rate, clip, β, warm-up, recency and options are traced, so a grid over them is a
    ``vmap`` or ``lax.map`` of this function.

    Args:
        model: any object with ``init``, ``initial_state``, ``rollout`` and ``loss``; see :class:`StreamModel`.
        key: one key, or an array of keys [S] for S seeds; results then have that leading axis.
        xs, ys, mask: the training stream; a masked target is a missing observation.
        validation: (xs, ys) or (xs, ys, mask): scored every ``evaluate_every`` updates; the best parameters are kept.
        updates: gradient steps; a multiple of ``evaluate_every``.
        window: steps of backpropagation.
        batch: windows per update.
        learning_rate: the peak of a linear warm-up over a tenth of the updates and a cosine decay to a hundredth.
        clip: the largest global norm of a gradient.
        beta: the divergence's weight, reached linearly over the first ``warmup`` updates.
        recency: γ in (0, 1]; a window's step t of T weighs γ^{T−1−t}.
        options: further keyword arguments of the model's loss, for instance ``{"predictive": 0.5}``.
        samples: K of the validation's rollouts.
        burn_in: first steps of the validation stream that only warm the state up and are not scored.
        optimizer: any optax transformation in place of Adam, its schedule and clipping.
        seeds: "vmap", "map" (``lax.map``), or "auto": "map" on a CPU, where small recurrent networks run faster one
            after the other, "vmap" elsewhere.
        windows: the same choice for the windows of one update; "map" also holds one window's activations at a time.
        checkpoint: a folder; training is saved there after every round, in the background, and the same call goes on
            from there, bit for bit. Not with host callbacks in the model, which differ from process to process.
        progress: called after every round with the updates done and the validation scores. With this or a checkpoint
            the rounds are a loop of the host: not for use under ``jit`` or ``vmap``.

    Raises:
        RuntimeError: another run is using the checkpoint folder.
        TypeError: the key is not a typed one.
        ValueError: shapes or options are wrong; the message says which. The folder holds another run (the message shows
            what differs), or no checkpoint that can be read; one that cannot is named in a warning and the one before
            it is used.

    Examples:
        >>> model = lt.build(lt.Config(latent_dim=2, hidden_dim=3, prior_samples=2), x_dim=1, y_dim=1)
        >>> xs = jnp.sin(jnp.arange(32.0))[:, None]
        >>> found = lt.fit(model, jax.random.key(0), xs, xs, updates=2, window=8, batch=2, evaluate_every=1)
        >>> found.history.loss.shape
        (2,)
    """
    stream_checks.model(model)
    key = checks.key("key", key, many=True)
    stream_checks.training(model, learning_rate, clip, beta, warmup, recency, options, optimizer, progress)
    checks.folder("checkpoint", checkpoint)
    checks.count("burn_in", burn_in, minimum=0)
    for name, value in (("updates", updates), ("window", window), ("batch", batch), ("samples", samples)):
        checks.count(name, value, minimum=1)
    checks.count("evaluate_every", evaluate_every, minimum=1)
    for name, value in (("seeds", seeds), ("windows", windows)):
        checks.choice(name, value, ("auto", "vmap", "map"))
    xs, ys, mask = stream_checks.stream(xs, ys, mask)
    stream_checks.finite_stream(xs, ys, mask)
    if updates % evaluate_every:
        raise ValueError(
            f"updates: expected a multiple of evaluate_every = {evaluate_every}, got {updates}; change one"
        )
    if len(xs) < window * (batch + 1):
        raise ValueError(
            f"xs: expected at least window x (batch + 1) = {window * (batch + 1)} steps, got {len(xs)}; "
            "take a shorter window or a smaller batch"
        )
    held_out = None if validation is None else Data(*stream_checks.held_out(validation))
    if held_out is not None:
        held_out = Data(*stream_checks.stream(*held_out, x_dim=xs.shape[1], y_dim=ys.shape[1], where="validation "))
        stream_checks.finite_stream(*held_out, where="validation ")
        if burn_in >= len(held_out.xs):
            raise ValueError(
                f"burn_in: expected fewer than the {len(held_out.xs)} steps of the validation stream, got {burn_in}; "
                "lower it"
            )
    shape = _Shape(updates, window, batch, evaluate_every, samples, burn_in, optimizer, _side(windows))
    knobs = _Knobs(learning_rate, clip, beta, warmup, recency, dict(options or {}))
    over = _side(seeds) if key.ndim else None
    if checkpoint is not None or progress is not None:
        return _on_host(model, shape, over, key, Data(xs, ys, mask), held_out, knobs, checkpoint, progress)
    return compiled(_fit, key, Data(xs, ys, mask), held_out, knobs, model=model, shape=shape, over=over)


def _side(choice: Side) -> str:
    return choice if choice != "auto" else "map" if jax.default_backend() == "cpu" else "vmap"


def _fit(
    keys: Array,
    data: Data,
    held_out: Data | None,
    knobs: _Knobs,
    *,
    model: StreamModel,
    shape: _Shape,
    over: str | None,
) -> Fit:
    def one(key: Array) -> Fit:
        def body(training: _Training, _: None) -> tuple[_Training, tuple]:
            return _round(model, shape, training, data, held_out, knobs)

        rounds = shape.updates // shape.evaluate_every
        training, (traces, scores) = jax.lax.scan(body, _start(model, shape, key, knobs), length=rounds)
        return _finish(training, traces, scores, held_out)

    return _map(over, one)(keys)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _starts(model: StreamModel, shape: _Shape, over: str | None, keys: Array, knobs: _Knobs) -> _Training:
    return _map(over, lambda key: _start(model, shape, key, knobs))(keys)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _rounds(
    model: StreamModel, shape: _Shape, over: str | None, training: Any, data: Data, held_out: Any, knobs: _Knobs
) -> tuple[_Training, tuple]:
    return _map(over, lambda one: _round(model, shape, one, data, held_out, knobs))(training)


def _on_host(
    model: StreamModel,
    shape: _Shape,
    over: str | None,
    keys: Array,
    data: Data,
    held_out: Data | None,
    knobs: _Knobs,
    folder: str | Path | None,
    progress: Callable[[int, Array], None] | None,
) -> Fit:
    training = _starts(model, shape, over, keys, knobs)
    rounds, lead = shape.updates // shape.evaluate_every, keys.shape
    dtype = training.best.dtype
    traces = tuple(jnp.full((*lead, rounds, shape.evaluate_every), jnp.nan, dtype) for _ in range(3))
    state = (training, (traces, jnp.full((*lead, rounds), jnp.nan, dtype)))
    with contextlib.ExitStack() as stack:
        saved, done = None, 0
        if folder is not None:
            from lowrank_filter.common.checkpoint import Checkpoint  # noqa: PLC0415  orbax takes seconds to import

            program = _rounds.lower(model, shape, over, training, data, held_out, knobs).as_text()
            identity = {
                **shape._replace(optimizer=None)._asdict(),
                **knobs._replace(options={})._asdict(),
                **{f"options[{name!r}]": value for name, value in knobs.options.items()},
                **{"key": keys, "data": data, "validation": held_out, "program": program, "jax": jax.__version__},
            }
            saved = stack.enter_context(Checkpoint(folder, identity))
            done, state = saved.restore(state)
        for index in range(done, rounds):
            training, record = _rounds(model, shape, over, state[0], data, held_out, knobs)
            state = (training, _put(state[1], record, (*(slice(None) for _ in lead), index)))
            if saved is not None:
                saved.save(index + 1, state)
            if progress is not None:
                progress((index + 1) * shape.evaluate_every, record[1])
    training, (traces, scores) = state
    return _finish(training, traces, scores, held_out)


def _put(history: tuple, record: tuple, at: tuple) -> tuple:
    return jax.tree.map(lambda whole, part: whole.at[at].set(part), history, record)


def _map(over: str | None, function: Callable) -> Callable:
    if over is None:
        return function
    return jax.vmap(function) if over == "vmap" else lambda *args: jax.lax.map(lambda a: function(*a), args)


def _finish(training: _Training, traces: tuple, scores: Array, held_out: Data | None) -> Fit:
    params = training.params if held_out is None else training.best_params
    loss, reconstruction, kl = (trace.reshape(*trace.shape[:-2], -1) for trace in traces)
    history = History(loss, reconstruction, kl, scores, training.optimizer.total_notfinite)
    return Fit(params, training.best, training.params, history)


def _optimizer(shape: _Shape, knobs: _Knobs) -> optax.GradientTransformation:
    """Adam with clipping and a schedule; what is not finite is skipped and counted."""
    if shape.optimizer is None:
        warmup = max(1, shape.updates // 10)
        profile = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(shape.updates, warmup + 1), 0.01)
        inner = optax.chain(
            optax.clip_by_global_norm(knobs.clip),
            optax.scale_by_adam(),
            optax.scale_by_learning_rate(lambda count: knobs.learning_rate * profile(count)),
        )
    else:
        inner = shape.optimizer
    return optax.apply_if_finite(inner, max_consecutive_errors=shape.updates)


def _start(model: StreamModel, shape: _Shape, key: Array, knobs: _Knobs) -> _Training:
    first, key = jax.random.split(key)
    params = model.init(first)
    state = model.initial_state(params)
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (shape.batch, *leaf.shape)), state)
    zero = jnp.zeros((), jnp.int32)
    best = jnp.asarray(jnp.inf, jnp.result_type(float))
    return _Training(key, zero, params, _optimizer(shape, knobs).init(params), states, zero, best, params)


def _round(
    model: StreamModel, shape: _Shape, training: _Training, data: Data, held_out: Data | None, knobs: _Knobs
) -> tuple[_Training, tuple]:
    """``evaluate_every`` updates, then the validation score."""
    update = functools.partial(_update, model, shape, _optimizer(shape, knobs), data, knobs)
    training, traces = jax.lax.scan(lambda carry, _: update(carry), training, length=shape.evaluate_every)
    if held_out is None:
        return training, (traces, jnp.nan)
    score = _score(model, shape, training, held_out)
    better = score < training.best
    kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), training.params, training.best_params)
    return training._replace(best=jnp.where(better, score, training.best), best_params=kept), (traces, score)


def _score(model: StreamModel, shape: _Shape, training: _Training, held_out: Data) -> Float[Array, ""]:
    xs, ys, mask = held_out
    # One key for every round: differences between rounds are differences between parameters.
    _, outputs = model.rollout(training.params, training.key, xs, ys, samples=shape.samples, mask=mask)
    seen = jnp.ones(len(xs), bool) if mask is None else mask
    if outputs.invalid is not None:
        seen = seen & ~outputs.invalid
    seen = seen.at[: shape.burn_in].set(False)
    return -jnp.sum(jnp.where(seen, outputs.log_prob, 0)) / jnp.sum(seen)


def _update(
    model: StreamModel,
    shape: _Shape,
    optimizer: optax.GradientTransformation,
    data: Data,
    knobs: _Knobs,
    training: _Training,
) -> tuple[_Training, tuple]:
    window, batch = shape.window, shape.batch
    segment = (len(data.xs) - window) // batch
    walk, noise = jax.random.split(jax.random.fold_in(training.key, training.step))
    position = training.step % (segment // window)
    fresh = position == 0
    offset = jnp.where(fresh, jax.random.randint(walk, (), 0, window), training.offset)
    initial = model.initial_state(training.params)
    states = jax.tree.map(lambda start, state: jnp.where(fresh, start, state), initial, training.states)
    starts = offset + window * position + segment * jnp.arange(batch)
    part = jax.tree.map(
        lambda leaf: jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(leaf, start, window))(starts), data
    )
    beta = knobs.beta * jnp.clip((training.step + 1) / jnp.maximum(knobs.warmup, 1), 0, 1)
    weights = jnp.asarray(knobs.recency, data.xs.dtype) ** jnp.arange(window - 1, -1, -1)

    inputs = (jax.random.split(noise, batch), states, part)

    def lane(params: Params, key: Array, state: State, part: Data) -> tuple[Array, Any]:
        xs, ys, mask = part
        return model.loss(params, key, xs, ys, state, mask, beta=beta, weights=weights, **knobs.options)

    def objective(params: Params) -> tuple[Array, Any]:
        losses, aux = jax.vmap(functools.partial(lane, params))(*inputs)
        return jnp.mean(losses), (losses, aux)

    def accumulate(total: Params, inputs: tuple) -> tuple[Params, tuple]:
        (value, aux), gradient = jax.value_and_grad(lane, has_aux=True)(training.params, *inputs)
        return jax.tree.map(lambda a, b: a + b / batch, total, gradient), (value, aux)

    if shape.windows == "vmap":
        gradient, (losses, aux) = jax.grad(objective, has_aux=True)(training.params)
    else:
        zeros = jax.tree.map(jnp.zeros_like, training.params)
        gradient, (losses, aux) = jax.lax.scan(accumulate, zeros, inputs)
    change, state = optimizer.update(gradient, training.optimizer, training.params)
    params = optax.apply_updates(training.params, change)
    after = training._replace(
        step=training.step + 1,
        params=params,
        optimizer=state,
        states=jax.lax.stop_gradient(aux.state),
        offset=offset,
    )
    return after, (jnp.mean(losses), jnp.mean(aux.reconstruction), jnp.mean(aux.kl))
