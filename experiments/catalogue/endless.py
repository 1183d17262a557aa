"""Permuted MNIST without an end: one epoch of each permutation, and nobody tells where one ends."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from rich.console import Console

from experiments.continual.networks import mlp
from experiments.continual.online import comparison, forgetting
from experiments.continual.online.comparison import Case, Runs
from experiments.continual.online.interface import Hyper, Online, labels
from experiments.continual.online.stream import Steps
from experiments.continual.tasks import pixel_orders
from experiments.data.mnist import mnist
from experiments.run.experiment import Arrays, Content, Experiment
from experiments.run.labels import label
from experiments.run.options import Count
from experiments.run.report import Table

INTRODUCTION = """MNIST through {tasks} shuffles of the pixels, made by `python -m experiments endless`: one epoch of
{train:,} images each in batches of {batch}, 784-{hidden}-10, {seeds} seeds of shuffles, images and starting weights. No
method is told where a task ends, none sees an image again. *Last five* is the accuracy on {test:,} test images of each
of the last five tasks, after the last; *current* that on each task at its end; *before* that of the stream's images
before each batch was learned from. Settings are chosen for each method alike, by the last five of {tuned_on} other
shuffles, on training images that no stream has; with a *memory* of n, what a batch taught is 1/e of what it was after n
tasks' number of batches, and with 0 nothing is forgotten. Milliseconds are CPU time of a batch, its prediction
included."""
_LAST, _HELD_OUT, _FIRST = 5, 10_000, 100
_SMALL = tuple(name for name in forgetting.METHODS if name not in forgetting.BATCHES)


class Shuffles(NamedTuple):
    """Streams of batches through one permutation after another.

    Attributes:
        x, y: images that batches are drawn from.
        test_x, test_y: images that are scored on.
        tasks, train, batch: permutations, images of each and images of a batch.
    """

    x: Float[Array, "N d"]
    y: Int[Array, " N"]
    test_x: Float[Array, "p d"]
    test_y: Int[Array, " p"]
    tasks: int
    train: int
    batch: int

    def stream(self, seed: int, count: int) -> dict[str, Array]:
        """Which images each of so many batches has, of which task, and whether it is its last."""
        steps = self.train // self.batch
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(len(self.y))[: steps * self.batch] for _ in range(-(-count // steps))]
        task, place = np.divmod(np.arange(count), steps)
        batches = np.concatenate(rows).reshape(-1, self.batch)[:count]
        return {"rows": jnp.asarray(batches), "task": jnp.asarray(task), "end": jnp.asarray(place == steps - 1)}

    def first(self) -> Float[Array, "B d"]:
        """Images without labels, by which a prior is scaled."""
        return self.x[:_FIRST]

    def shared(self, seed: int) -> dict[str, Array]:
        """The images, the shuffles of the pixels, of which no task sees them as they are, and how many batches a task
        has, for settings to be counted in."""
        orders = jnp.asarray(np.stack(pixel_orders(seed, self.tasks + 1, self.x.shape[1])[1:]))
        images = {"x": self.x, "y": self.y, "test_x": self.test_x, "test_y": self.test_y}
        return images | {"orders": orders, "unit": jnp.asarray(self.train / self.batch)}


def step(online: Online, settings: Hyper, state: Any, item: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
    """Predict a batch, learn from it, and at the end of a task look at the last five."""
    order = settings["orders"][item["task"]]
    x, y = settings["x"][item["rows"]][:, order], settings["y"][item["rows"]]
    right = jnp.mean(jnp.argmax(online.outputs(state, x), axis=1) == y)
    state, diverged = online.update(state, x, y)

    def tested(task: Array) -> Array:
        outputs = online.outputs(state, settings["test_x"][:, settings["orders"][jnp.maximum(task, 0)]])
        return jnp.where(task < 0, 0.0, jnp.mean(jnp.argmax(outputs, axis=1) == settings["test_y"]))

    last = item["task"] - jnp.arange(_LAST)
    found = jax.lax.cond(item["end"], lambda: jax.lax.map(tested, last), lambda: jnp.zeros(_LAST))
    return state, {"value": right, "diverged": diverged, "tested": found, "end": item["end"]}


def last_five(kept: Steps) -> float:
    """Mean accuracy on the last five tasks after the last of them, or on as many as there were."""
    return float(np.mean(kept["tested"][-1][: min(_LAST, int(kept["end"].sum()))]))


def scores(kept: Steps) -> dict[str, float]:
    """Accuracy on the last five tasks, on each at its end, and before each batch."""
    ends = kept["end"].astype(bool)
    return {
        "accuracy": last_five(kept),
        "current": float(np.mean(kept["tested"][ends, 0])),
        "before": float(np.mean(kept["value"])),
    }


@dataclasses.dataclass(frozen=True)
class Endless(Experiment):
    """MNIST through ever other shuffles of the pixels, no boundary told: accuracy on the last five tasks."""

    known: ClassVar = forgetting.METHODS
    presets: ClassVar = {
        "published": {
            "tasks": 200,
            "train": 50_000,
            "test": 10_000,
            "tuned_on": 10,
            "seeds": 3,
            "methods": _SMALL,
        },
        "published-1000": {
            **{"tasks": 1_000, "hidden": 100, "train": 50_000, "test": 10_000, "tuned_on": 20},
            "methods": _SMALL,
        },
        "batches": {
            **{"tasks": 200, "train": 50_000, "test": 10_000, "batch": 10_000, "tuned_on": 10, "seeds": 1},
            "methods": tuple(forgetting.BATCHES),
        },
        "batches-1000": {
            **{"tasks": 1_000, "hidden": 100, "train": 50_000, "test": 10_000, "batch": 10_000, "tuned_on": 10},
            **{"seeds": 1, "methods": tuple(forgetting.BATCHES)},
        },
        "minutes": {},
        "small": {"tasks": 10, "train": 500, "test": 500, "seeds": 3},
    }

    seeds: Count = 2
    """Number of seeds: each has other shuffles, images and starting weights."""
    tasks: Count = 20
    """Number of shuffles."""
    train: Count = 1_000
    """Images of each, seen once; whole batches of them."""
    batch: Count = 10
    """Images that are learned from at once."""
    hidden: Count = 50
    """Units of the hidden layer."""
    rank: Count = 10
    """Directions kept by the filters."""
    test: Count = 1_000
    """Test images that each task is scored on."""
    tuned_on: Count = 10
    """Shuffles of the streams that settings are chosen with: on five alone, forgetting would have no use."""
    # At batches of ten: an eigendecomposition for each of 60 units, or two of 785 × 785, make hours of minutes.
    methods: tuple[str, ...] = tuple(name for name in _SMALL if name not in ("endless_unit", "endless_kronecker"))
    """Only these methods; endless_unit and endless_kronecker take long at small batches, NAME_batches are for large."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        if unknown := [one for one in self.methods if one not in self.known]:
            raise ValueError(
                f"methods: expected names of {', '.join(self.known)}, got {', '.join(unknown)}; correct it"
            )
        images = mnist()
        x, y = images.train_x.reshape(len(images.train_x), -1), images.train_y
        test_x = images.test_x.reshape(len(images.test_x), -1)
        held_out = min(_HELD_OUT, len(y) // 5)
        most = min(held_out, len(test_x))
        if self.batch > self.train or self.train > len(y) - held_out or self.test > most:
            raise ValueError(
                f"batch, train, test: expected at most train, {len(y) - held_out} and {most}, got {self.batch}, "
                f"{self.train} and {self.test}; there are no more images"
            )
        seen = jnp.asarray(x[:-held_out]), jnp.asarray(y[:-held_out])
        sizes = self.tasks, self.train, self.batch
        scored = Shuffles(*seen, jnp.asarray(test_x[: self.test]), jnp.asarray(images.test_y[: self.test]), *sizes)
        other = Shuffles(*seen, jnp.asarray(x[-self.test :]), jnp.asarray(y[-self.test :]), *sizes)
        per_task = self.train // self.batch
        problem = labels(mlp(x.shape[1], (self.hidden,), 10))
        case = Case(problem, lambda x: x, step, scores, last_five, ("tested", "end"))
        # What is there with fewer seeds or methods is there with more.
        depends = {key: value for key, value in self.depends().items() if key not in ("methods", "seeds")}
        settings = self.depends() | {"steps": self.tasks * self.train, "ranks": (self.rank,)}
        found: dict[str, Any] = {"scores": [], "chosen": {}, "curves": {}}
        with self.study(
            console,
            "endless" if self.preset in ("default", "minutes") else f"endless-{self.preset}",
            f"{self.tasks} permutations of MNIST, no boundaries",
            introduction=INTRODUCTION.format(**self.depends()),
            data=images,
            depends=depends,
            **settings,
        ) as study:
            for one in self.methods:
                method = self.known[one]
                rank = self.rank if method.ranked else 0
                with study.part(one, self.seeds) as advance:
                    runs = Runs(study, case, one, method, rank, per_task, other)
                    choice = runs.chosen("", min(self.tuned_on, self.tasks) * per_task)
                    for seed in comparison.scored_seeds(self.seeds):
                        kept = runs.kept(choice, "", scored, seed, self.tasks * per_task)
                        comparison.note(found, "", f"{one}_{rank}" if rank else one, kept, case)
                        advance()
                found["chosen"][one] = choice
                study.write(comparison.content_of(found))
            study.finish(comparison.content_of(found))

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Scores, whom our filters are ahead of, what was chosen, and what was published."""
        columns = {
            "accuracy": ("last five, %", 100, ".1f"),
            "current": ("current, %", 100, ".1f"),
            "before": ("before, %", 100, ".1f"),
            "milliseconds": ("ms a batch", 1, ".3g"),
            "diverged": ("batches diverged", 1, ".3g"),
        }
        return {
            "scores": comparison.score_table(content, columns),
            "verdicts": comparison.verdicts(content, "accuracy", 100, "points of accuracy on the last five tasks"),
            "chosen": comparison.chosen_table(content),
            "published": _published(content),
        }

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Every seed's accuracy on the last five tasks, and along the stream."""
        name = "accuracy on the last five tasks, %"
        return {"accuracy": lambda: comparison.drawn(content, "", "accuracy", 100, name)}


def _published(content: Content) -> str:
    """What others reached, and why this run is or is not to be set beside it."""
    settings = content["settings"]
    text = (
        "Published (arXiv 2504.13569, 2605.30198; one epoch of 60,000 images each, one at a time, no boundaries): MESU "
        "91.3 after 200 permutations (784-50-10) and 91.7 after 1,000 (784-100-10), online EWC 81.8."
    )
    if left := [label(name) for name in forgetting.METHODS if name not in content["chosen"]]:
        text = f"Not run here: {', '.join(left)}. {text}"
    if settings["tasks"] < 200 or settings["train"] < 50_000:
        text += (
            f" This run has {settings['tasks']} permutations of {settings['train']:,} images: it does not say whether "
            "those are reached."
        )
    return text
