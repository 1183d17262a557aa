"""What a method reaches with one choice of its hyperparameters, for all seeds in one compiled call."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.continual import learners, metrics
from experiments.continual.networks import Network
from experiments.continual.tasks import Tasks


class Scores(NamedTuple):
    """Accuracy and calibration error in [0, 1], mean negative log likelihood in nats: scalars, or arrays of them."""

    accuracy: Any
    nll: Any
    ece: Any


class Report(NamedTuple):
    """One report of one configuration.

    Attributes:
        val, test: scores [S, M] over seeds and the tasks it is scored on.
        matrix: accuracy [S, T, T] on each task after each task, where there is an order.
        start: accuracy [S, T] of the untrained network.
    """

    val: Scores
    test: Scores
    matrix: Any
    start: Any


Runner = Callable[[dict[str, Array]], dict[str, Report]]


def compile_runner(
    run: learners.Run,
    which: Sequence[str],
    scored: tuple[int, ...] | None,
    network: Network,
    training: learners.Training,
    tasks: Tasks,
    seeds: Sequence[int],
) -> Runner:
    """A compiled function from hyperparameters to a report of each kind of the run's models, for all seeds."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    start_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    rows = None if scored is None else np.asarray(scored)

    def one(start_key: Array, key: Array, data: Any, hyper: dict[str, Array]) -> dict[str, Report]:
        sequence = learners.Sequence(network.init(start_key), data.train_x, data.train_y, key)
        models = run(network, training, sequence, hyper)
        start = tested(sequence.start, data).accuracy
        return {kind: report(models[kind], data, start) for kind in which}

    def tested(params: Any, data: Any) -> Scores:
        return jax.lax.map(lambda task: scores(network, params, *task), (data.test_x, data.test_y))

    def report(models: learners.Models, data: Any, start: Array) -> Report:
        def on(x: Array, y: Array) -> Scores:
            used, x, y = (_at(part, rows) for part in (models.used, x, y))
            return jax.lax.map(lambda task: scores(network, *task), (used, x, y))

        matrix = None
        if models.after is not None:
            matrix = jax.lax.map(lambda params: tested(params, data).accuracy, models.after)
        return Report(on(data.val_x, data.val_y), on(data.test_x, data.test_y), matrix, start)

    arrays = tasks._replace(names=None)  # type: ignore[arg-type]

    def one_by_one(start_keys: Array, keys: Array, data: Any, hyper: dict[str, Array]) -> dict[str, Report]:
        return jax.lax.map(lambda seed: one(seed[0], seed[1], seed[2], hyper), (start_keys, keys, data))

    compiled = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)) if network.side_by_side else one_by_one)
    on_device = jax.tree.map(jnp.asarray, arrays)
    return lambda hyper: compiled(start_keys, train_keys, on_device, hyper)


def scores(network: Network, params: Any, x: Float[Array, "p d"], y: Array) -> Scores:
    """Of one model on one task's images."""
    logits = network.apply(params, x)
    return Scores(metrics.accuracy(logits, y), metrics.nll(logits, y), metrics.calibration_error(logits, y))


def _at(tree: Any, tasks: np.ndarray | None) -> Any:
    return tree if tasks is None else jax.tree.map(lambda leaf: leaf[tasks], tree)
