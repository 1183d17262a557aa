"""Run methods over their grids and choose on validation images."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments import methods, metrics
from experiments.networks import Network
from experiments.results import MethodResult
from experiments.tasks import Tasks
from experiments.unfinished import Unfinished


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


def configurations(method: methods.Method) -> Iterator[dict[str, float]]:
    """Every combination of the grid's values."""
    for values in itertools.product(*method.grid.values()):
        yield dict(zip(method.grid, values, strict=True))


def tune(
    method: methods.Method,
    network: Network,
    training: methods.Training,
    tasks: Tasks,
    seeds: Sequence[int],
    *,
    advance: Callable[[], None],
    unfinished: Unfinished,
    runners: dict[Any, Runner] | None = None,
) -> dict[str, MethodResult]:
    """The test scores of each report at the configuration with the best validation accuracy, mean over seeds.

    Test images never enter a choice; every configuration's test accuracies [S, M] are in ``extra["tried"]`` with its
    validation accuracy. ``advance`` is called after each configuration. Methods with the same run share its compiled
    form through ``runners``.
    """
    runners = {} if runners is None else runners
    which = tuple(sorted(set(method.reports.values())))
    place = method.run, which, method.scored
    if place not in runners:
        runners[place] = compile_runner(*place, network, training, tasks, seeds)
    runner = runners[place]
    best: dict[str, tuple[float, dict[str, float], Report]] = {}
    tried: dict[str, list[dict[str, Any]]] = {name: [] for name in method.reports}
    for hyper in configurations(method):
        traced = {name: jnp.asarray(value, float) for name, value in hyper.items()}
        reports = unfinished.recall(
            {"reports": dict(method.reports), "hyper": hyper},
            lambda traced=traced: runner(traced),
            lambda traced=traced: jax.eval_shape(runner, traced),
        )
        for name, report in ((name, reports[kind]) for name, kind in method.reports.items()):
            validation = float(report.val.accuracy.mean())
            tried[name].append({"hyper": hyper, "validation": validation, "accuracy": report.test.accuracy.tolist()})
            if name not in best or validation > best[name][0]:
                best[name] = validation, hyper, report
        advance()
    return {
        name: MethodResult(
            *(report.test.accuracy, report.test.nll, report.matrix, hyper, validation, method.scored),
            ece=report.test.ece,
            start=report.start,
            extra={"tried": tried[name]},
        )
        for name, (validation, hyper, report) in ((name, best[name]) for name in method.reports)
    }


def compile_runner(
    run: methods.Run,
    which: Sequence[str],
    scored: tuple[int, ...] | None,
    network: Network,
    training: methods.Training,
    tasks: Tasks,
    seeds: Sequence[int],
) -> Runner:
    """A compiled function from hyperparameters to a report of each kind of the run's models, for all seeds."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    start_keys, train_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    rows = None if scored is None else np.asarray(scored)

    def one(start_key: Array, key: Array, data: Any, hyper: dict[str, Array]) -> dict[str, Report]:
        sequence = methods.Sequence(network.init(start_key), data.train_x, data.train_y, key)
        models = run(network, training, sequence, hyper)
        start = tested(sequence.start, data).accuracy
        return {kind: report(models[kind], data, start) for kind in which}

    def tested(params: Any, data: Any) -> Scores:
        return jax.lax.map(lambda task: scores(network, params, *task), (data.test_x, data.test_y))

    def report(models: methods.Models, data: Any, start: Array) -> Report:
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
