"""What a method reaches with one choice of its hyperparameters, for all seeds in one compiled call."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from experiments.continual import learners, metrics
from experiments.continual.learners.interface import at, stacked
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
    """A function from hyperparameters to a report of each kind of the run's models, for all seeds.

    It is one compiled program where the network wants seeds side by side; else it goes through programs that the runs
    of other methods use too.
    """
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    start_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    rows = np.arange(tasks.test_x.shape[1]) if scored is None else np.asarray(scored)

    def one(start_key: Array, key: Array, data: Any, hyper: dict[str, Array]) -> dict[str, Report]:
        sequence = learners.Sequence(started(network, start_key), data.train_x, data.train_y, key)
        models = run(network, training, sequence, hyper)
        start = tested(network, sequence.start, data.test_x, data.test_y).accuracy
        after = next((models[kind].after for kind in which if models[kind].after is not None), None)
        whole = None if after is None else matrix(network, after, data.test_x, data.test_y)
        return {kind: report(models[kind], data, whole, start) for kind in which}

    def report(models: learners.Models, data: Any, whole: Scores | None, start: Array) -> Report:
        val = own(network, models.used, data.val_x, data.val_y, rows)
        if whole is None or models.chosen is None:
            test = own(network, models.used, data.test_x, data.test_y, rows)
        else:
            chosen = np.asarray(models.chosen)[rows]
            test = jax.tree.map(lambda score: score[chosen, rows], whole)
        return Report(val, test, None if whole is None or models.after is None else whole.accuracy, start)

    arrays = jax.tree.map(jnp.asarray, tasks._replace(names=None))  # type: ignore[arg-type]
    if network.side_by_side:
        compiled = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))
        return lambda hyper: compiled(start_keys, train_keys, arrays, hyper)

    def one_by_one(hyper: dict[str, Array]) -> dict[str, Report]:
        found = []
        for seed in range(len(seeds)):
            found.append(one(start_keys[seed], train_keys[seed], at(arrays, seed), hyper))
        return stacked(*found)

    return one_by_one


@functools.partial(jax.jit, static_argnums=0)
def started(network: Network, key: Key[Array, ""]) -> Any:
    """Parameters before training."""
    return network.init(key)


def tested(network: Network, params: Any, x: Float[Array, "T p d"], y: Int[Array, "T p"]) -> Scores:
    """Of one model on each task [T]."""
    return _over(network, lambda x, y: scores(network, params, x, y), x, y)


def own(
    network: Network, models: Any, x: Float[Array, "T p d"], y: Int[Array, "T p"], rows: Int[ArrayLike, " M"]
) -> Scores:
    """Of some tasks' own models on them [M]."""
    chosen = at((models, x, y), jnp.asarray(rows))
    return _over(network, lambda *row: scores(network, *row), *chosen)


def matrix(network: Network, models: Any, x: Float[Array, "T p d"], y: Int[Array, "T p"]) -> Scores:
    """Of each model on each task [T, T]."""
    return _over(network, lambda params: tested(network, params, x, y), models)


def _over(network: Network, function: Callable[..., Scores], *rows: Any) -> Scores:
    """A function of each row, one after the other: in one program, or in one that other methods use too."""
    if network.side_by_side:
        return jax.lax.map(lambda row: function(*row), rows)
    count = len(jax.tree.leaves(rows)[0])
    return stacked(*(function(*at(rows, number)) for number in range(count)))


@functools.partial(jax.jit, static_argnums=0)
def scores(network: Network, params: Any, x: Float[Array, "p d"], y: Array) -> Scores:
    """Of one model on one task's images."""
    logits = network.apply(params, x)
    return Scores(metrics.accuracy(logits, y), metrics.nll(logits, y), metrics.calibration_error(logits, y))
