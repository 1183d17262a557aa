"""The MAP step, for those who have no training loop of their own."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Key

from lowrank_filter.algebra import widths
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled, described
from lowrank_filter.common.pieces import scan
from lowrank_filter.common.progress import Hook, reporting
from lowrank_filter.common.progress import check as check_progress
from lowrank_filter.kernels.belief import Belief, check_belief, check_frozen, learned, unchecked_penalty
from lowrank_filter.kernels.examples import Apply, Batch, Examples, check_examples, prepare
from lowrank_filter.kernels.expansion import losses
from lowrank_filter.kernels.likelihoods import Likelihood


@checks.all_given
def fit(
    belief: Belief,
    apply_fn: Apply,
    likelihood: Likelihood,
    x: Any,
    y: Any,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int | None = None,
    key: Key[Array, ""] | None = None,
    params: Tree | None = None,
    temperature: ArrayLike = 1.0,
    mask: Any = None,
    weights: Any = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
    progress: bool | Hook = False,
) -> tuple[Tree, Float[Array, " steps"]]:
    """θ* = argmin Σᵢ ℓᵢ(θ)/λ + ½(θ − m)ᵀP(θ − m), by an optax loop in one ``lax.scan``.

    The loop is compiled once for each apply_fn, optimizer, steps and shape (an optimizer made anew with equal numbers
    is the same); the belief, data and temperature are traced, so a sweep over them or over seeds is a ``vmap``.

    Args:
        belief: the predicted belief, which the penalty pulls towards.
        apply_fn: (params, x) → outputs [B, C].
        likelihood: of a target given the outputs of one example.
        x, y, mask, weights: the examples, as in :func:`update`.
        optimizer: any optax transformation; the objective is the summed loss, not its mean.
        steps: gradient steps, static.
        batch_size: examples per step, static, drawn without replacement within an epoch and scaled up to the whole
            sum; None takes all of them at every step.
        key: for the order of the mini-batches; needed with ``batch_size``.
        params: where to start; by default the belief's mean.
        temperature: λ > 0.
        checkpoint: a folder. Training then goes in pieces; parameters, optimiser, position and objective so far are
            saved there after each, in the background, and the same call goes on from there, bit for bit. Not within
            ``jax.jit``, nor with host callbacks in the network, which differ from process to process.
        checkpoint_every: steps in a piece.
        progress: a function called with the steps done and the objectives [n] of the last n, after each piece of
            ``checkpoint_every``; True shows a bar where rich is installed, otherwise a line every ten seconds, on
            standard error. Not within ``jax.jit`` either.

    Returns:
        θ*, and the objective before each step [steps].

    Raises:
        RuntimeError: another run is using the checkpoint folder.
        TypeError: apply_fn, likelihood, optimizer or labels are of the wrong kind; ``checkpoint`` or
            ``progress`` within a traced function.
        ValueError: shapes, options or visible values are wrong; the message says which. The folder holds another run,
            or no checkpoint that can be read; one that cannot is named in a warning and the one before it is used.

    Examples:
        >>> apply_fn = lambda weights, x: x @ weights[:, None]
        >>> belief, x, y = lf.init(jnp.zeros(2), rank=0), jnp.eye(2), jnp.array([2.0, 4.0])
        >>> params, objective = lf.fit(belief, apply_fn, lf.Gaussian(1.0), x, y, optimizer=optax.sgd(0.5), steps=3)
        >>> print(params.round(3), objective.shape)
        [1. 2.] (3,)
    """
    checks.count("steps", steps, minimum=0)
    checks.folder("checkpoint", checkpoint)
    checks.count("checkpoint_every", checkpoint_every, minimum=1)
    check_progress(progress)
    checks.scalar("temperature", temperature)
    check_optimizer(optimizer)
    check_belief(belief, needed=("quadratic",))
    start = belief.mean if params is None else params
    checks.same_shapes("params", start, belief.mean)
    checks.finite("params", start)
    check_frozen(belief, start)
    examples = check_examples(start, apply_fn, likelihood, x, y, mask, weights)
    size = len(examples.y)
    if batch_size is not None:
        checks.count("batch_size", batch_size, minimum=1)
        if batch_size > size:
            raise ValueError(
                f"batch_size: expected at most {checks.counted(size, 'example')}, all there are, got {batch_size}; "
                "lower it"
            )
        if key is None:
            raise ValueError(
                "key: expected a jax.random.key for the order of the mini-batches, got None; give one with batch_size="
            )
    if key is not None:
        key = checks.key("key", key)
    if steps == 0 or (checkpoint is None and progress is False):
        return compiled(
            *(_loop, belief, likelihood, examples, key, start, temperature),
            **{"apply_fn": apply_fn, "optimizer": optimizer, "steps": steps, "batch_size": batch_size},
        )
    start, batch = compiled(_start, belief, likelihood, examples, start, apply_fn=apply_fn)
    with reporting(progress, "fit", steps) as report:
        (params, _), values = scan(
            functools.partial(_advance, apply_fn, optimizer),
            (belief, likelihood, batch, temperature),
            (start, optimizer.init(start)),
            (jnp.arange(steps), _order(key, size, steps, batch_size)),
            every=checkpoint_every,
            folder=checkpoint,
            identity={
                **{"batch_size": batch_size, "steps": steps, "likelihood": type(likelihood).__name__},
                **{f"optimizer.{name}": value for name, value in described(optimizer.update).items()},
            },
            report=lambda done, values: report(done, values, values[-1]),
        )
    return _whole(belief, params), values


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError where it is none of optax."""
    if isinstance(optimizer, type) or not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer: expected an optax.GradientTransformation, got {type(optimizer).__name__}; for instance "
            "optax.adam(1e-2)"
        )


def _start(
    belief: Belief, likelihood: Likelihood, examples: Examples, start: Tree, *, apply_fn: Apply
) -> tuple[Tree, Batch]:
    dtype = widths.common(belief, examples.x)
    start, examples = jax.tree.map(lambda p: jnp.asarray(p, dtype), start), widths.cast(examples, dtype)
    batch = prepare(start, widths.outputs_in(dtype, apply_fn), widths.cast(likelihood, dtype), examples)
    return learned(belief._replace(mean=start))[0].mean, batch


def _whole(belief: Belief, params: Tree) -> Tree:
    """In the belief's dtypes, with what is frozen."""
    some, _, whole = learned(belief)
    return whole(some._replace(mean=widths.like(params, some.mean))).mean


def _loop(
    belief: Belief,
    likelihood: Likelihood,
    examples: Examples,
    key: Key[Array, ""] | None,
    start: Tree,
    temperature: ArrayLike,
    *,
    apply_fn: Apply,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int | None,
) -> tuple[Tree, Float[Array, " steps"]]:
    start, batch = _start(belief, likelihood, examples, start, apply_fn=apply_fn)
    fixed = (belief, likelihood, batch, temperature)
    order = _order(key, len(batch.mask), steps, batch_size)
    part = (jnp.arange(steps), order)
    (params, _), values = _advance(apply_fn, optimizer, fixed, (start, optimizer.init(start)), part)
    return _whole(belief, params), values


def _advance(
    apply_fn: Apply, optimizer: optax.GradientTransformation, fixed: tuple, carry: tuple[Tree, Any], part: tuple
) -> tuple[tuple[Tree, Any], Array]:
    """As many steps as ``part`` has."""
    belief, likelihood, batch, temperature = fixed
    belief, apply_fn, _ = learned(belief, apply_fn)
    dtype = widths.common(belief, batch.x)
    likelihood, apply_fn = widths.cast(likelihood, dtype), widths.outputs_in(dtype, apply_fn)
    size = len(batch.mask)

    def objective(params: Tree, part: Batch) -> Float[Array, ""]:
        loss = jnp.sum(losses(likelihood, apply_fn(params, part.x), part, temperature).loss)
        return loss * (size / len(part.mask)) + unchecked_penalty(belief, params)

    def step(carry: tuple[Tree, Any], turn: tuple) -> tuple[tuple[Tree, Any], Array]:
        (params, state), (_, chosen) = carry, turn
        part = batch if chosen is None else jax.tree.map(lambda leaf: leaf[chosen], batch)
        value, gradient = jax.value_and_grad(objective)(params, part)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    return jax.lax.scan(step, carry, part)


def _order(key: Key[Array, ""] | None, size: int, steps: int, batch_size: int | None) -> Array | None:
    """Indices [steps, batch_size]: a fresh permutation each epoch, its incomplete last mini-batch dropped."""
    if batch_size is None or key is None:
        return None
    per_epoch = size // batch_size
    epochs = -(-steps // per_epoch)
    permutations = jax.vmap(lambda k: jax.random.permutation(k, size))(jax.random.split(key, epochs))
    return permutations[:, : per_epoch * batch_size].reshape(epochs * per_epoch, batch_size)[:steps]
