"""Logistic weights that turn, and that drift and jump: a noise chosen before, a noise that adapts, changepoints."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Key
from matplotlib.figure import Figure
from rich.console import Console

import lowrank_filter as lf
from experiments.run import pictures, report, results, search
from experiments.run.experiment import Arrays, Content, Experiment
from experiments.run.labels import label
from experiments.run.options import Count
from experiments.run.report import Table

INTRODUCTION = """Two weights of a logistic regression that do not stay, made by `python -m experiments drift`: inputs
uniform on [−3, 3]², {streams} streams of {steps} steps, every label predicted before it is seen. *Rotation*: weights of
length 10 turn by 5 degrees a step. *Jumps*: they drift by .01 a step, and with probability .01 jump anywhere in [−2,
2]². Streams, keys and the prior N(0, 1) are those of the public notebooks of BONE (arXiv 2411.10153), whose best
figures are below; there settings are chosen by accuracy on one warm-up stream, here on {validation}. None of the
methods knows that the weights rotate."""

LIKELIHOOD = lf.Bernoulli()


def outputs(weights: Float[Array, " 2"], x: Float[Array, "B 2"]) -> Float[Array, "B 1"]:
    """The logit."""
    return x @ weights[:, None]


class Labelled(NamedTuple):
    """A stream, and the weights that made it."""

    x: Float[Array, "T 2"]
    y: Float[Array, " T"]
    weights: Float[Array, "T 2"]


def labelled(key_x: Key[Array, ""], key_y: Key[Array, ""], weights: Float[Array, "T 2"]) -> Labelled:
    """Inputs, and labels of these weights."""
    x = jax.random.uniform(key_x, weights.shape, minval=-3, maxval=3)
    y = jax.random.bernoulli(key_y, jax.nn.sigmoid(jnp.sum(weights * x, axis=1)))
    return Labelled(x, y.astype(x.dtype), weights)


def rotation(key: Key[Array, ""], steps: int) -> Labelled:
    """Weights of length 10 that turn by 5 degrees a step."""
    key_y, key_x = jax.random.split(key)
    angle = jnp.deg2rad(5.0) * jnp.arange(steps)
    return labelled(key_x, key_y, 10 * jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=1))


def jumps(key: Key[Array, ""], steps: int) -> Labelled:
    """Weights that drift by .01 a step, and jump once in a hundred."""
    key_weights, key_x, key_y = jax.random.split(key, 3)

    def anywhere(key: Key[Array, ""]) -> Float[Array, " 2"]:
        return jax.random.uniform(key, (2,), minval=-2, maxval=2)

    def move(weights: Float[Array, " 2"], key: Key[Array, ""]) -> tuple[Array, Array]:
        drift, place, whether = jax.random.split(key, 3)
        there = weights + 0.01 * jax.random.normal(drift, (2,))
        weights = jnp.where(jax.random.uniform(whether) < 0.01, anywhere(place), there)
        return weights, weights

    start = anywhere(jax.random.split(key_weights)[0])
    _, weights = jax.lax.scan(move, start, jax.random.split(key_weights, steps))
    return labelled(key_x, key_y, weights)


WORLDS = {"rotation": rotation, "jumps": jumps}
PUBLISHED = {"rotation": 0.854, "jumps": 0.765}
Hyper = Mapping[str, Any]


def moving(hyper: Hyper) -> lf.Filter:
    """The filter with a noise and a decay that are given."""
    given = {name: hyper[name] for name in ("precision", "process_noise", "transition")}
    return lf.extended_filter(outputs, LIKELIHOOD, rank=2, **given)


def adaptive(hyper: Hyper) -> lf.Filter:
    """With a noise that adapts."""
    inner = lf.extended_filter(outputs, LIKELIHOOD, rank=2)
    return lf.adaptive_filter(inner, learning_rate=hyper["learning_rate"], process_noise=hyper["process_noise"])


class Family(NamedTuple):
    """A filter built of settings, with what they are where nothing else is said."""

    build: Callable[[Hyper], lf.Filter]
    usual: Hyper


class Method(NamedTuple):
    """A family and the settings to choose from."""

    family: str
    grid: Mapping[str, tuple[float, ...]]


_MOVING = {"precision": 1.0, "process_noise": 0.0, "transition": 1.0}
_ADAPTIVE = {"learning_rate": 0.05, "process_noise": 1e-3}
_NOISES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def families(hypotheses: int) -> dict[str, Family]:
    """One program each."""

    def changing(inner: Callable[[Hyper], lf.Filter]) -> Callable[[Hyper], lf.Filter]:
        return lambda hyper: lf.changepoint_filter(inner(hyper), hyper["hazard"], hypotheses=hypotheses)

    return {
        "moving": Family(moving, _MOVING),
        "adaptive": Family(adaptive, _ADAPTIVE),
        "changing": Family(changing(moving), {"hazard": 0.01, **_MOVING}),
        "both": Family(changing(adaptive), {"hazard": 0.01, **_ADAPTIVE}),
    }


METHODS = {
    "static": Method("moving", {"precision": (0.01, 0.1, 1.0)}),
    "chosen_noise": Method("moving", {"process_noise": _NOISES}),
    "chosen_decay": Method("moving", {"process_noise": _NOISES[3:], "transition": (0.8, 0.9, 0.95, 0.98)}),
    "adaptive_default": Method("adaptive", {}),
    "adaptive_noise": Method("adaptive", {"learning_rate": (0.05, 0.1), "process_noise": (0.1, 1.0)}),
    "changepoints": Method("changing", {"hazard": (0.01, 0.03, 0.1, 0.3), "precision": (0.1, 1.0)}),
    "changepoints_noise": Method("changing", {"hazard": (0.003, 0.01, 0.03), "process_noise": (0.001, 0.01, 0.1)}),
    "changepoints_adaptive": Method("both", {"hazard": (0.003, 0.01, 0.03)}),
}


def scored(method: lf.Filter, stream: Labelled) -> dict[str, Float[Array, ""]]:
    """Accuracy and NLL of the labels, each predicted before it is seen, and the steps that diverged."""

    def body(state: Any, seen: tuple[Array, Array]) -> tuple[Any, Any]:
        x, y = seen[0][None], seen[1][None, None]
        chance = _chance(method.predict(state), x)
        state, info = method.step(state, x, y)
        return state, (chance, info.diverged)

    _, (chance, diverged) = jax.lax.scan(body, method.init(jnp.zeros(2)), (stream.x, stream.y))
    chance = jnp.clip(chance, 1e-6, 1 - 1e-6)
    nll = -jnp.mean(stream.y * jnp.log(chance) + (1 - stream.y) * jnp.log1p(-chance))
    right = (chance > 0.5) == (stream.y > 0.5)
    return {"accuracy": jnp.mean(right), "nll": nll, "diverged": jnp.sum(diverged)}


def _chance(state: Any, x: Float[Array, "1 2"]) -> Float[Array, ""]:
    """p(y = 1) of a belief, in the probit form (MacKay 1992), or of a mixture of them."""
    if isinstance(state, lf.ChangepointBelief):
        each = jax.vmap(lambda one: _chance(one, x))(state.hypotheses)
        return jnp.exp(state.log_weights) @ each
    logit = lf.predictive(state if isinstance(state, lf.Belief) else state.belief, outputs, x)
    return jax.nn.sigmoid(logit.mean[0, 0] / jnp.sqrt(1 + jnp.pi / 8 * logit.covariance[0, 0, 0]))


@dataclasses.dataclass(frozen=True)
class Drift(Experiment):
    """Rotating logistic weights, and drift with jumps: static, chosen noise, adaptive noise, changepoints, both."""

    presets: ClassVar = {}

    streams: Count = 100
    """Scored streams."""
    steps: Count = 720
    """Steps of each."""
    validation: Count = 20
    """Other streams, on which settings are chosen by accuracy."""
    hypotheses: Count = 4
    """Run lengths kept side by side."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Only these methods."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"methods: expected names of {', '.join(METHODS)}, got {', '.join(unknown)}; correct it")
        sizes = {name: getattr(self, name) for name in ("streams", "steps", "validation", "hypotheses")}
        scores: list[tuple[str, str, str, float]] = []
        chosen: dict[str, dict[str, Hyper]] = {}
        programs = {name: _program(family) for name, family in families(self.hypotheses).items()}
        with self.study(
            console, "drift", "Weights that do not stay", introduction=INTRODUCTION.format(**sizes), **sizes
        ) as study:
            for world, make in WORLDS.items():
                warm_up, test = (
                    jax.vmap(lambda key, make=make: make(key, self.steps))(jax.random.split(key, count))
                    for key, count in zip(
                        jax.random.split(jax.random.key(314)), (self.validation, self.streams), strict=True
                    )
                )
                right = jnp.mean((jnp.sum(test.weights * test.x, axis=2) > 0) == (test.y > 0.5), axis=1)
                scores += [(world, "known_weights", "accuracy", float(value)) for value in right]
                with study.part(world, len(self.methods)) as advance:
                    for name in self.methods:
                        method, choices = METHODS[name], search.grid(METHODS[name].grid)
                        recall = functools.partial(self._recalled, study.cache, world, name, programs[method.family])
                        tried = recall(choices, warm_up)["accuracy"].mean(axis=1) if len(choices) > 1 else [0.0]
                        choice = choices[int(np.argmax(tried))]
                        chosen.setdefault(world, {})[name] = choice
                        for metric, values in recall([choice], test).items():
                            scores += [(world, name, metric, float(value)) for value in values[0]]
                        study.write(results.collect(scores) | {"chosen": chosen})
                        advance()
            study.finish(results.collect(scores) | {"chosen": chosen})

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Scores, what they are above the published figure, and what was chosen."""
        frame = results.frame(content)
        accuracy = frame[frame["metric"] == "accuracy"]
        rows = []
        for world, settings in content["chosen"].items():
            for name, choice in settings.items():
                values = accuracy[(accuracy["variant"] == world) & (accuracy["method"] == name)]["value"].to_numpy(
                    float
                )
                above = report.shown(values - PUBLISHED[world], 100, "+.1f").replace("-", "−")
                rows.append([world, label(name), above, report.brief(choice)])
        head = ("variant", "method", "accuracy − published, points", "chosen")
        published = "Published accuracy: " + ", ".join(f"{name} {value}" for name, value in PUBLISHED.items()) + "."
        return {
            "scores": report.scores(content),
            "published": published,
            "chosen": Table(head, rows, "Against the published figure, and settings chosen on validation streams.", 2),
        }

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Every stream's accuracy."""
        frame = results.frame(content)
        frame = frame[frame["metric"] == "accuracy"].rename(columns={"method": "name"})
        return {"accuracy": lambda: _drawn(frame, content["title"])}

    def _recalled(
        self, cache: Any, world: str, name: str, program: Callable, choices: list[search.Choice], streams: Labelled
    ) -> dict[str, np.ndarray]:
        """Scores [choices, streams], as many streams at once as there are to choose by: the same program for both."""
        count = len(streams.x)

        def compute() -> dict[str, np.ndarray]:
            blocks = [
                jax.tree.map(lambda leaf, at=at: leaf[at : at + self.validation], streams)
                for at in range(0, count, self.validation)
            ]
            found = [[program(choice, block) for block in blocks] for choice in choices]
            rows = [jax.tree.map(lambda *parts: np.concatenate(parts), *row) for row in found]
            return jax.tree.map(lambda *parts: np.stack(parts), *rows)

        like = dict.fromkeys(("accuracy", "nll", "diverged"), np.zeros((len(choices), count)))
        key = {"world": world, "method": name, "choices": choices, "streams": count}
        return cache.recall(key, compute, lambda: like)


def _program(family: Family) -> Callable[[Hyper, Labelled], dict[str, Array]]:
    """Scores of a choice on each of some streams."""
    run = jax.jit(lambda hyper, streams: jax.vmap(lambda stream: scored(family.build(hyper), stream))(streams))
    return lambda choice, streams: run(
        {name: jnp.float32(v) for name, v in {**family.usual, **choice}.items()}, streams
    )


def _drawn(frame: pd.DataFrame, title: str) -> Figure:
    worlds = list(frame["variant"].unique())
    made, panels = pictures.figure(title, 1, len(worlds), (8 * len(worlds), 6), squeeze=False)
    for axes, world in zip(panels[0], worlds, strict=True):
        x = "accuracy before the update"
        pictures.dots(axes, frame[frame["variant"] == world].rename(columns={"value": x}), x)
        axes.axvline(PUBLISHED[world], color="#8c8c8c", linestyle="--")
        axes.set(title=f"{world}; dashed: published", ylabel="")
    return made
