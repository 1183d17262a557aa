"""Fifty permutations of full MNIST: accuracy, memory and time against the number of tasks, beside OSLA."""

import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from rich.console import Console
from rich.table import Table

import lowrank_filter as lf
from experiments import methods, pages, pictures, results, tables
from experiments.claim import claimed
from experiments.continual.evaluation import Scores, scores
from experiments.continual.learners import Hyper, Learner, Task, Training, filtering, fitted, osla, turned
from experiments.continual.learners.interface import Tree, view
from experiments.continual.networks import Network, mlp
from experiments.continual.structures import Structure
from experiments.continual.tasks import pixel_orders
from experiments.data.images import Images
from experiments.data.mnist import mnist
from experiments.run.experiment import Experiment
from experiments.run.results import MethodResult, Pair, plain

_HELD_OUT = 10_000
CHECKPOINTS = (1, 2, 5, 10, 20, 30, 40, 50)
"""After how many tasks all tasks so far are tested."""

Name = Literal["kronecker", "osla", "osla_sum", "ewc", "anchor", "unit", "sequential", "joint"]
Grid = Mapping[str, tuple[float, ...]]


class Rows(NamedTuple):
    """Images as rows of pixels, to train and to score on."""

    train_x: Float[Array, "n d"]
    train_y: Int[Array, " n"]
    score_x: Float[Array, "p d"]
    score_y: Int[Array, " p"]


class Block(NamedTuple):
    """What there is after some tasks.

    Attributes:
        state: of the learner.
        scores: on each task so far [t].
        current: accuracy on each of this block's tasks right after it.
        seconds: of each of this block's tasks.
    """

    state: Any
    scores: Scores
    current: Any
    seconds: Any


@dataclasses.dataclass(frozen=True)
class LongSequence(Experiment):
    """MNIST through as many shuffles of the pixels as asked for; permutations are drawn task by task."""

    published: ClassVar[Mapping[str, Any]] = {"tasks": 50, "train": 60_000, "tuned_on": 5, "tuned_train": 50_000}

    seeds: int = 1
    """Number of seeds: each has other shuffles and starting weights."""
    tasks: int = 10
    """Number of tasks; the first is not shuffled."""
    train: int = 20_000
    """Training images a task."""
    epochs: int = 3
    """Passes over a task's images."""
    batch_size: int = 250
    """Images a gradient step."""
    learning_rates: tuple[float, ...] = (1e-2,)
    """To choose from: at the start of a task; it falls linearly to zero within it."""
    curvature_examples: int = 5000
    """Images of a task in its curvature."""
    tuned_on: int = 3
    """Tasks of the runs that settings are chosen with, on images of the training set that these runs leave out."""
    tuned_train: int = 20_000
    """Training images a task of those runs."""
    hidden: tuple[int, ...] = (100, 100)
    """Units of the hidden layers."""
    rank: int = 20
    """Directions kept for each unit."""
    methods: tuple[Name, ...] = ("kronecker", "osla", "ewc", "anchor", "joint")
    """Methods to run; osla_sum keeps the factors of every task."""

    def run(self, console: Console) -> None:
        """Run, write and draw."""
        images = mnist()
        if self.tuned_train > len(images.train_x) - _HELD_OUT:
            limit = len(images.train_x) - _HELD_OUT
            raise ValueError(f"tuned_train: expected at most {limit}, since {_HELD_OUT} images choose the settings")
        whole = _rows(images, slice(self.train), (images.test_x, images.test_y))
        fewer = _rows(images, slice(self.tuned_train), (images.train_x[-_HELD_OUT:], images.train_y[-_HELD_OUT:]))
        checkpoints = (*(t for t in CHECKPOINTS if t < self.tasks), self.tasks)
        name_of_all = "long" + ("" if self.hidden == (100, 100) else "-" + "-".join(map(str, self.hidden)))
        chosen_alike = ("methods", "seeds", "tasks", "train", "hidden")
        network = mlp(784, self.hidden, 10)
        settings = {"preset": self.preset} | self.depends()
        depends = {name: value for name, value in self.depends().items() if name not in chosen_alike}
        kept = self.output / name_of_all / "unfinished"
        with claimed(kept, depends, resume=self.resume):
            self._run(console, name_of_all, network, settings, Unfinished(kept, depends), whole, fewer, checkpoints)

    def _run(
        self,
        console: Console,
        name_of_all: str,
        network: Network,
        settings: dict[str, Any],
        unfinished: Unfinished,
        whole: Rows,
        fewer: Rows,
        checkpoints: tuple[int, ...],
    ) -> None:
        found: dict[str, MethodResult] = {}
        learners = {n: v for n, v in _learners(self.rank, self.tasks, self.learning_rates).items() if n in self.methods}
        seconds: dict[str, float] = {}
        for name, (learner, grid) in learners.items():
            began = time.perf_counter()
            hyper, validation = self._chosen(network, name, learner, grid, fewer, unfinished, console)
            follower = Follower(network, name, learner, self._training(self.train), unfinished)
            runs = [list(follower.blocks(seed, hyper, whole, checkpoints)) for seed in range(self.seeds)]
            update = {}
            if learner is not None:
                update["update_seconds"] = follower.update_seconds(runs[0][-1].state, whole, hyper)
            found[name], curve = _result(runs, checkpoints, hyper, validation, update)
            seconds[name] = time.perf_counter() - began
            shown = ", ".join(f"{100 * mean:.2f}" for mean in curve)
            console.print(f"{tables.label(name)}: {shown} % after {checkpoints} tasks", highlight=False)
            # After each method: what there is can be looked at, and a run that is stopped has not been in vain.
            others = [other for other in found if other not in ("kronecker", "joint")]
            content = results.build(
                name_of_all,
                settings=settings | {"checkpoints": checkpoints},
                grid={name: dict(grid) for name, (_, grid) in learners.items() if name in found},
                seconds=seconds,
                tasks=[str(task + 1) for task in range(self.tasks)],
                methods=found,
                pairs=[Pair("kronecker", other) for other in others] if "kronecker" in found else (),
            )
            folder = results.write(content, self.output).parent
            pictures.curves(folder / "long.png", found, f"{self.tasks} permutations of MNIST")
            pages.write_page(folder, f"{self.tasks} permutations of MNIST")
        unfinished.clear()
        console.print(_table(found, self.tasks))

    def _training(self, train: int) -> Training:
        steps = self.epochs * train // self.batch_size
        return Training(steps, self.batch_size, min(self.curvature_examples, train), decay=True, whitened=True)

    def _chosen(
        self,
        network: Network,
        name: str,
        learner: Learner | None,
        grid: Grid,
        rows: Rows,
        unfinished: Unfinished,
        console: Console,
    ) -> tuple[dict[str, float], float]:
        """The values of the grid with the best validation accuracy after a few tasks of the first seed."""
        follower = Follower(network, name, learner, self._training(self.tuned_train), unfinished)
        scores: list[tuple[float, dict[str, float]]] = []
        for values in itertools.product(*grid.values()):
            hyper = dict(zip(grid, values, strict=True))
            *_, last = follower.blocks(0, hyper, rows, (self.tuned_on,))
            scores.append((float(np.mean(last.scores.accuracy)), hyper))
            shown = f"{tables.short(hyper)}: {100 * scores[-1][0]:.2f} on validation images"
            console.print(f"  {tables.label(name)} {shown}", highlight=False)
        validation, hyper = max(scores, key=lambda score: score[0])
        return hyper, validation


def _learners(rank: int, tasks: int, learning_rates: tuple[float, ...]) -> dict[str, tuple[Learner | None, Grid]]:
    """Each method and its grid; joint training is no learner."""
    rates = {"learning_rate": learning_rates}
    fixed = rates | {"prior": (1.0,)}
    scales = {"curvature": (1.0, 3.0, 10.0)}
    # In coordinates whitened by one strength, a rate is that strength's root times smaller.
    anchored = {"learning_rate": tuple(scale * rate for rate in learning_rates for scale in (1, 10)), "prior": (1.0,)}
    return {
        "kronecker": (filtering(Structure("kronecker"), fit=turned), fixed | scales),
        "osla": (osla(fit=turned), fixed | scales),
        "osla_sum": (osla(tasks), fixed | scales),
        "ewc": (filtering(Structure("network", 0)), fixed | {"curvature": (1.0, 10.0)}),
        "anchor": (methods.anchor, anchored | {"strength": (100.0, 300.0, 1000.0)}),
        "unit": (filtering(Structure("unit", rank)), fixed | {"curvature": (3.0, 10.0)}),
        "sequential": (methods.sequential, rates),
        "joint": (None, {"learning_rate": (3e-3,)}),
    }


class Follower:
    """One method along a sequence whose tasks are made one at a time; what is done is kept."""

    def __init__(
        self, network: Network, name: str, learner: Learner | None, training: Training, unfinished: Unfinished
    ) -> None:
        """Nothing is compiled before it is needed. Without a learner, all tasks are learned at once."""
        self._network, self._name, self._learner = network, name, learner
        self._training, self._unfinished = training, unfinished
        self._step = jax.jit(lambda *arguments: self._one(training, *arguments))
        self._update = jax.jit(lambda *arguments: self._one(training._replace(steps=0, decay=False), *arguments))

    def blocks(self, seed: int, hyper: Hyper, rows: Rows, checkpoints: tuple[int, ...]) -> Iterator[Block]:
        """What there is after each of some numbers of tasks."""
        start_key, key = jax.random.split(jax.random.key(seed))
        start = self._network.init(start_key)
        orders = jnp.asarray(np.stack(pixel_orders(seed, checkpoints[-1], rows.train_x.shape[1])))
        traced = {name: jnp.asarray(value, float) for name, value in hyper.items()}
        settings = {"method": self._name, "seed": seed, "hyper": hyper, "training": self._training._asdict()}
        if self._learner is None:
            yield self._unfinished.recall(
                settings | {"tasks": len(orders)},
                lambda: _together(self._network, self._training, key, start, traced, rows, orders),
                lambda: Block(start, SCORES, 0, 0),
            )
            return
        _, viewed, _ = view(self._network, start, self._learner.per_layer)
        state = self._learner.init(viewed, traced)
        for first, last in itertools.pairwise((0, *checkpoints)):
            block = self._unfinished.recall(
                settings | {"from": first, "until": last},
                lambda state=state, first=first, last=last: self._along(
                    state, key, traced, rows, orders[:last], first, settings | {"from": first, "until": last}
                ),
                lambda state=state: Block(state, SCORES, 0, 0),
            )
            state = jax.tree.map(jnp.asarray, block.state)
            yield block

    def update_seconds(self, state: Any, rows: Rows, hyper: Hyper) -> float:
        """How long it takes to absorb one task's curvature."""
        traced = {name: jnp.asarray(value, float) for name, value in hyper.items()}
        task = Task(rows.train_x, rows.train_y, jax.random.key(0), jnp.asarray(True))
        state = jax.tree.map(jnp.asarray, state)
        return min(_timed(lambda: self._update(state, task, traced))[1] for _ in range(3))

    def _one(self, training: Training, state: Any, task: Task, hyper: Hyper) -> tuple[Any, Tree]:
        learner: Any = self._learner
        network, _, back = view(
            self._network, jax.tree.map(jnp.zeros_like, self._network.init(jax.random.key(0))), learner.per_layer
        )
        state, kept = learner.step(network, training, state, task, hyper)
        stack = back(jax.tree.map(lambda leaf: leaf[None], kept.params))
        return state, jax.tree.map(lambda leaf: leaf[0], stack)

    def _along(
        self,
        state: Any,
        key: Key[Array, ""],
        hyper: Hyper,
        rows: Rows,
        orders: Int[Array, "t d"],
        first: int,
        settings: Mapping[str, Any],
    ) -> Block:
        """Task by task; what there is after each is kept until the block is done."""
        from lowrank_filter.common.checkpoint import Checkpoint  # noqa: PLC0415  orbax takes seconds to import

        nothing = np.zeros(0)
        params = jax.eval_shape(self._network.init, key)
        with Checkpoint(self._unfinished.place(settings), {"settings": json.dumps(settings, default=plain)}) as saved:
            done, (state, params, current, seconds) = saved.restore((state, params, nothing, nothing))
            for number in range(first + done, len(orders)):
                task = Task(
                    rows.train_x[:, orders[number]], rows.train_y, jax.random.fold_in(key, number), jnp.asarray(True)
                )
                jax.block_until_ready(task.x)
                (state, params), took = _timed(lambda state=state, task=task: self._step(state, task, hyper))
                score = tested(self._network, params, rows.score_x, rows.score_y, orders[number][None]).accuracy
                current = np.concatenate([np.asarray(current, score.dtype), score])
                seconds = np.append(seconds, took)
                saved.save(number + 1 - first, (state, params, current, seconds))
        return Block(
            state, tested(self._network, params, rows.score_x, rows.score_y, orders), current, np.asarray(seconds)
        )


SCORES = Scores(0, 0, 0)


def _together(
    whole: Network,
    training: Training,
    key: Key[Array, ""],
    start: Tree,
    hyper: Hyper,
    rows: Rows,
    orders: Int[Array, "T d"],
) -> Block:
    """Train on all tasks at once, for as many steps as the sequence takes: an upper bound.

    In each pass over the images every one of them is of a random task, which its last column tells; it is permuted
    when its batch is made.
    """
    tasks, size = len(orders), len(rows.train_y)

    def seen(x: Float[Array, "B d+1"]) -> Float[Array, "B d"]:
        return jnp.take_along_axis(x[:, :-1], orders[x[:, -1].astype(int)], axis=1)

    network = whole._replace(apply=lambda params, x: whole.apply(params, seen(x)))

    def one(params: Tree, turn: tuple[Array, Array]) -> tuple[Tree, None]:
        key, left = turn
        chosen = jax.random.randint(key, (size, 1), 0, tasks).astype(float)
        task = Task(jnp.concatenate([rows.train_x, chosen], axis=1), rows.train_y, key, jnp.asarray(True))
        free = lf.init(params, rank=0)
        free = free._replace(precision=lf.zero_site(free))
        rates = {"learning_rate": hyper["learning_rate"] * left}
        return fitted(network, training._replace(decay=False, whitened=False), free, task, rates), None

    turns = jax.random.split(key, tasks), 1 - jnp.arange(tasks) / tasks
    (params, _), took = _timed(lambda: jax.jit(lambda start: jax.lax.scan(one, start, turns))(start))
    return Block(params, tested(whole, params, rows.score_x, rows.score_y, orders), np.zeros(0), np.asarray([took]))


@functools.partial(jax.jit, static_argnums=0)
def tested(
    network: Network, params: Tree, x: Float[Array, "n d"], y: Int[Array, " n"], orders: Int[Array, "t d"]
) -> Scores:
    """Scores on each task."""
    return jax.lax.map(lambda order: scores(network, params, x[:, order], y), orders)


def _rows(images: Images, train: slice, score: tuple[np.ndarray, np.ndarray]) -> Rows:
    x, y = score
    flat = images.train_x.reshape(len(images.train_x), -1)
    return Rows(*map(jnp.asarray, (flat[train], images.train_y[train], x.reshape(len(x), -1), y)))


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return jax.block_until_ready(call()), time.perf_counter() - began


def _result(
    runs: list[list[Block]],
    checkpoints: tuple[int, ...],
    hyper: Mapping[str, float],
    validation: float,
    extra: Mapping[str, Any],
) -> tuple[MethodResult, Float[np.ndarray, " K"]]:
    """Of the runs of all seeds, and the mean accuracy at each checkpoint."""
    last = [run[-1].scores for run in runs]
    means = [[float(np.mean(block.scores.accuracy)) for block in run] for run in runs]
    per_task = [np.concatenate([block.seconds for block in run]).tolist() for run in runs]
    mean = np.mean(means, axis=0)
    result = MethodResult(
        *(np.stack([score.accuracy for score in last]), np.stack([score.nll for score in last]), None),
        chosen=hyper,
        validation=validation,
        ece=np.stack([score.ece for score in last]),
        extra={
            "curve": {"tasks": checkpoints[-len(means[0]) :], "per_seed": means, "mean": mean},
            "current_per_task": [np.concatenate([block.current for block in run]).tolist() for run in runs],
            "seconds_per_task": per_task,
            "state_bytes": sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(runs[0][-1].state)),
            **extra,
        },
    )
    return result, mean


def _table(found: Mapping[str, MethodResult], tasks: int) -> Table:
    table = Table(title=f"{tasks} permutations of MNIST", title_justify="left", title_style="bold")
    for column in ("method", "10 tasks, %", f"{tasks} tasks, %", "MB", "update, s", "task, s"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, result in found.items():
        extra: Any = result.extra
        curve = dict(zip(extra["curve"]["tasks"], extra["curve"]["mean"], strict=True))
        table.add_row(
            tables.label(name),
            f"{100 * curve[10]:.2f}" if 10 in curve else "",
            f"{100 * float(np.mean(result.accuracy)):.2f}",
            f"{extra['state_bytes'] / 1e6:.1f}",
            f"{extra['update_seconds']:.2f}" if "update_seconds" in extra else "",
            f"{np.median(np.concatenate(extra['seconds_per_task'])):.1f}",
        )
    return table
