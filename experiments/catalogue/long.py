"""Permutations of full MNIST: accuracy, memory and time against the number of tasks, beside OSLA."""

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
from matplotlib.figure import Figure
from rich.console import Console

import lowrank_filter as lf
from experiments.continual import drawing, learners, summary
from experiments.continual.comparison import Comparison
from experiments.continual.evaluation import Scores, scores
from experiments.continual.learners import Hyper, Learner, Task, Training, filtering, fitted, osla, turned
from experiments.continual.learners.interface import Tree, view
from experiments.continual.networks import Network, mlp
from experiments.continual.structures import Structure
from experiments.continual.summary import MethodResult, Pair
from experiments.continual.tasks import pixel_orders
from experiments.data.images import Images
from experiments.data.mnist import mnist
from experiments.run import search
from experiments.run.cache import Cache
from experiments.run.experiment import Arrays, Content
from experiments.run.options import Count, Natural, Positive
from experiments.run.results import plain

_HELD_OUT = 10_000
INTRODUCTION = """MNIST through {tasks} permutations of the pixels, of which the first changes nothing, made by
`python -m experiments long`: {train:,} images a task, {epochs} epochs in batches of {batch_size}, 784-{layers}-10 with
one head for all tasks, {seeds} seeds of permutations and starting weights. Methods are told where a task ends and see
none of its images afterwards; joint training has all tasks at once, for as many steps. *Mean* is the accuracy of the
last model on the test images of every task. Settings are chosen for each method alike, by that mean over the first
{tuned_on} tasks of one seed, {tuned_train:,} images each, on {held_out:,} further training images; a rate falls
linearly to zero within each task."""
CHECKPOINTS = (1, 2, 5, 10, 20, 30, 40, 50)
"""After how many tasks all tasks so far are tested."""

Name = Literal["kronecker", "osla", "osla_sum", "ewc", "anchor", "filter", "unit", "sequential", "joint"]
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
class LongSequence(Comparison):
    """MNIST through as many shuffles of the pixels as asked for; permutations are drawn task by task."""

    presets: ClassVar = {
        "published": {"tasks": 50, "train": 60_000, "tuned_on": 5, "tuned_train": 50_000},
        "ten": {
            **{"tasks": 10, "seeds": 10, "train": 60_000, "epochs": 6, "tuned_on": 5, "tuned_train": 50_000},
            "methods": ("kronecker", "sequential", "anchor", "ewc", "filter", "joint"),
        },
    }

    seeds: Count = 1
    """Number of seeds: each has other shuffles and starting weights."""
    tasks: Count = 10
    """Number of tasks; the first is not shuffled."""
    train: Count = 20_000
    """Training images a task."""
    epochs: Count = 3
    """Passes over a task's images."""
    batch_size: Count = 250
    """Images a gradient step."""
    learning_rates: tuple[Positive, ...] = (1e-2,)
    """To choose from: at the start of a task; it falls linearly to zero within it."""
    curvature_examples: Count = 5000
    """Images of a task in its curvature."""
    tuned_on: Count = 3
    """Tasks of the runs that settings are chosen with, on images of the training set that these runs leave out."""
    tuned_train: Count = 20_000
    """Training images a task of those runs."""
    hidden: tuple[Count, ...] = (100, 100)
    """Units of the hidden layers."""
    rank: Natural = 20
    """Directions kept for the network, or for each unit."""
    methods: tuple[Name, ...] = ("kronecker", "osla", "ewc", "anchor", "joint")
    """Methods to run; osla_sum keeps the factors of every task."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        images = mnist()
        if self.tuned_train > (limit := len(images.train_x) - _HELD_OUT):
            raise ValueError(
                f"tuned_train: expected at most {limit}, since {_HELD_OUT} images choose the settings, "
                f"got {self.tuned_train}; take fewer"
            )
        whole = _rows(images, slice(self.train), (images.test_x, images.test_y))
        fewer = _rows(images, slice(self.tuned_train), (images.train_x[-_HELD_OUT:], images.train_y[-_HELD_OUT:]))
        checkpoints = (*(t for t in CHECKPOINTS if t < self.tasks), self.tasks)
        name = "long" + ("-ten" if self.preset == "ten" else "")
        name += "" if self.hidden == (100, 100) else "-" + "-".join(map(str, self.hidden))
        title = f"{self.tasks} permutations of MNIST"
        known = _learners(self.rank, self.tasks, self.learning_rates)
        chosen = {method: known[method] for method in known if method in self.methods}
        apart = ("methods", "seeds", "tasks")  # what is there with fewer of them is there with more
        depends = {name: value for name, value in self.depends().items() if name not in apart}
        settings = {"preset": self.preset, **self.depends(), "checkpoints": checkpoints}
        found: dict[str, MethodResult] = {}
        content: dict[str, Any] = {}
        text = introduction(self.depends())
        data = {"data": (whole, fewer), "depends": depends}
        with self.study(console, name, title, introduction=text, **data, **settings) as study:
            for method, (learner, grid) in chosen.items():
                choices = search.grid(grid)
                with study.part(method, len(choices) + self.seeds) as advance:
                    found[method] = self._one(study.cache, method, learner, choices, whole, fewer, checkpoints, advance)
                # After each method: what there is can be looked at, and a run that is stopped has not been in vain.
                others = [other for other in found if other not in ("kronecker", "joint")]
                grids = {name: dict(grid) for name, (_, grid) in chosen.items() if name in found}
                pairs = [Pair("kronecker", other) for other in others] if "kronecker" in found else ()
                content = summary.build(grids, [str(task + 1) for task in range(self.tasks)], found, pairs)
                study.write(content)
            study.finish(content)

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Accuracy and seconds against the number of tasks."""
        return {"long": lambda: drawing.curves(content, content["title"])}

    def _one(
        self,
        cache: Cache,
        name: str,
        learner: Learner | None,
        choices: list[search.Choice],
        whole: Rows,
        fewer: Rows,
        checkpoints: tuple[int, ...],
        advance: Callable[[], None],
    ) -> MethodResult:
        """Choose after a few tasks of the first seed, on images left out; then follow the whole sequence."""
        network = mlp(784, self.hidden, 10)
        kept = f"{name} {self.tasks}" if name == "osla_sum" else name  # its state has room for so many
        follower, trials = Follower(network, kept, learner, self._training(self.tuned_train), cache), []
        for hyper in choices:
            *_, last = follower.blocks(0, hyper, fewer, (self.tuned_on,))
            trials.append(search.Trial(hyper, float(np.mean(last.scores.accuracy))))
            advance()
        hyper, validation = search.best(trials, float)
        follower, runs = Follower(network, kept, learner, self._training(self.train), cache), []
        for seed in range(self.seeds):
            runs.append(list(follower.blocks(seed, hyper, whole, checkpoints)))
            advance()
        extra = {}
        if learner is not None:
            extra["update_seconds"] = follower.update_seconds(runs[0][-1].state, whole, hyper)
        return _result(runs, checkpoints, hyper, validation, extra)

    def _training(self, train: int) -> Training:
        steps = self.epochs * train // self.batch_size
        return Training(steps, self.batch_size, min(self.curvature_examples, train), decay=True, whitened=True)


def introduction(options: Mapping[str, Any]) -> str:
    """What was done with some options."""
    return INTRODUCTION.format(**options, layers="-".join(map(str, options["hidden"])), held_out=_HELD_OUT)


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
        "anchor": (learners.anchor, anchored | {"strength": (100.0, 300.0, 1000.0)}),
        # Steps in θ itself: a low-rank precision has no basis in which it is diagonal.
        "filter": (
            filtering(Structure("network", rank)),
            {"learning_rate": tuple(scale * rate for rate in learning_rates for scale in (0.1, 0.3)), "prior": (1.0,)}
            | {"curvature": (3.0, 10.0)},
        ),
        "unit": (filtering(Structure("unit", rank)), fixed | {"curvature": (3.0, 10.0)}),
        "sequential": (learners.sequential, rates),
        "joint": (None, {"learning_rate": (3e-3,)}),
    }


class Follower:
    """One method along a sequence whose tasks are made one at a time; what is done is kept."""

    def __init__(self, network: Network, name: str, learner: Learner | None, training: Training, cache: Cache) -> None:
        """Nothing is compiled before it is needed. Without a learner, all tasks are learned at once."""
        self._network, self._name, self._learner = network, name, learner
        self._training, self._cache = training, cache
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
            yield self._cache.recall(
                settings | {"tasks": len(orders)},
                lambda: _together(self._network, self._training, key, start, traced, rows, orders),
                lambda: Block(start, SCORES, 0, 0),
            )
            return
        _, viewed, _ = view(self._network, start, self._learner.per_layer)
        state = self._learner.init(viewed, traced)
        for first, last in itertools.pairwise((0, *checkpoints)):
            block = self._cache.recall(
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
        with Checkpoint(self._cache.place(settings), {"settings": json.dumps(settings, default=plain)}) as saved:
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
) -> MethodResult:
    """Of the runs of all seeds."""
    last = [run[-1].scores for run in runs]
    means = [[float(np.mean(block.scores.accuracy)) for block in run] for run in runs]
    per_task = [np.concatenate([block.seconds for block in run]).tolist() for run in runs]
    mean = np.mean(means, axis=0)
    return MethodResult(
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
