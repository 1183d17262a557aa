"""Methods of a stream, tuned alike on other images, then scored: what streams of images share."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from rich.console import Console

from experiments.continual.online import covariance, filters, forgetting, optimizers
from experiments.continual.online.interface import Hyper, Method, Online, Problem
from experiments.continual.online.stream import Program, Steps, traced
from experiments.data.images import Images
from experiments.run import pictures, report, results, search
from experiments.run.experiment import Content, Experiment, Study
from experiments.run.labels import label
from experiments.run.options import Count
from experiments.run.report import Table

METHODS: dict[str, Method] = {**filters.METHODS, **covariance.METHODS, **optimizers.METHODS}
OURS = (
    *(name for name in (filters.METHODS | filters.REWARDS | forgetting.FILTERS) if name != "lofi_stream"),
    "kronecker_batches",
)
THOMPSON = "thompson"
"""The policy that a method without a posterior cannot follow; and the setting that says so to a step."""
# The first batch, without labels, by which a prior is scaled; points of a curve; the seed of the search, and the first
# of the scored passes: grids were chosen by passes with smaller ones.
_FIRST, _POINTS, _SEARCH, _SCORED = 100, 20, 1_000_000, 100

Step = Callable[[Online, Hyper, Any, dict[str, Array]], tuple[Any, dict[str, Array]]]


def _by_the_last_half(kept: Steps) -> float:
    value = kept["value"]
    return float(np.mean(value[len(value) // 2 :]))


class Case(NamedTuple):
    """What is done with each example.

    Attributes:
        problem: what is learned.
        seen: inputs and keys → what the first examples show, for a prior.
        step: (method, settings, state, item) → state, and what is kept: numbers, "value" what settings are chosen by.
        scores: of the steps kept, beside the curve.
        chosen_by: what the best settings have most of; the mean value over the last half.
        kept: what else is kept of each step.
    """

    problem: Problem
    seen: Callable[[Float[Array, "B d"]], Any]
    step: Step
    scores: Callable[[Steps], dict[str, float]]
    chosen_by: Callable[[Steps], float] = _by_the_last_half
    kept: tuple[str, ...] = ()


class Pool(NamedTuple):
    """Images that a stream is drawn from, one at a time."""

    x: Float[np.ndarray, "N d"]
    y: Int[np.ndarray, " N"]

    def stream(self, seed: int, count: int) -> dict[str, Array]:
        """The first of a shuffle, with a key for each step."""
        order = np.random.default_rng(seed).permutation(len(self.y))[:count]
        keys = jax.random.split(jax.random.key(seed), count)
        return {"x": jnp.asarray(self.x[order]), "y": jnp.asarray(self.y[order]), "key": keys}

    def first(self) -> Float[Array, "B d"]:
        """Images without labels, by which a prior is scaled."""
        return self.stream(_SEARCH, _FIRST)["x"]

    def shared(self, seed: int) -> dict[str, Array]:
        """What every step sees beside its item."""
        return {}


@dataclasses.dataclass(frozen=True)
class OnlineComparison(Experiment):
    """One pass over single images; settings are chosen on other images, by the first rank."""

    known: ClassVar[Mapping[str, Method]] = METHODS
    """Methods by name."""

    seeds: Count = 3
    """Number of shuffles, each with other starting weights."""
    steps: Count = 10_000
    """Images of each."""
    search: Count = 1_000
    """Other images, of one shuffle, on which each method chooses among its settings."""
    ranks: tuple[Count, ...] = (50,)
    """Directions kept by the filters."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Only these methods."""

    def compare(
        self,
        console: Console,
        name: str,
        title: str,
        introduction: str,
        case: Case,
        images: Images,
        policies: Sequence[str] = ("",),
    ) -> None:
        """Choose settings, score every shuffle, write after each method.

        Args:
            console: for progress and tables.
            name: of the folder; the preset follows it, where there is one.
            title: of the page.
            introduction: stands below the title.
            case: what is done with each example.
            images: those of the training set are scored, the settings are chosen on those of the test set.
            policies: how each method acts, by name, if it acts; settings are chosen under the first that it can follow.
        """
        if unknown := [one for one in self.methods if one not in self.known]:
            raise ValueError(
                f"methods: expected names of {', '.join(self.known)}, got {', '.join(unknown)}; correct it"
            )
        scored, other = (
            Pool(x.reshape(len(x), -1), y)
            for x, y in ((images.train_x, images.train_y), (images.test_x, images.test_y))
        )
        if self.steps > len(scored.y) or self.search > len(other.y):
            raise ValueError(
                f"steps, search: expected at most {len(scored.y)} and {len(other.y)}, got {self.steps} and "
                f"{self.search}; there are no more images"
            )
        sizes = {one: getattr(self, one) for one in ("seeds", "steps", "search", "ranks")}
        piece = math.gcd(self.steps, self.search)
        found: dict[str, Any] = {"scores": [], "chosen": {}, "curves": {}}
        with self.study(
            # Each value's own key says what it depends on: with more methods or seeds nothing is computed again.
            *(console, name if self.preset in ("default", "minutes") else f"{name}-{self.preset}", title),
            **{"introduction": introduction, "data": images, "depends": {"piece": piece}, **sizes},
        ) as study:
            for one in self.methods:
                method = self.known[one]
                able = [policy for policy in policies if policy != THOMPSON or method.draws]
                ranks = self.ranks if method.ranked else (0,)
                choice: dict[str, float] | None = None
                with study.part(one, len(ranks) * self.seeds * len(able)) as advance:
                    for rank in ranks:
                        runs = Runs(study, case, one, method, rank, piece, other)
                        choice = choice or runs.chosen(able[0], self.search)
                        for policy in able:
                            for seed in scored_seeds(self.seeds):
                                kept = runs.kept(choice, policy, scored, seed, self.steps)
                                note(found, policy, f"{one}_{rank}" if rank else one, kept, case)
                                advance()
                found["chosen"][one] = choice
                study.write(content_of(found))
            study.finish(content_of(found))


class Runs:
    """The streams of one method at one rank; ``other`` is what settings are chosen on, any pool."""

    def __init__(self, study: Study, case: Case, name: str, method: Method, rank: int, piece: int, other: Any) -> None:
        """Nothing is computed yet."""
        self._study, self._case, self._name, self._rank, self._other = study, case, name, rank, other
        self._method = method

        def step(settings: Hyper, state: Any, item: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
            return case.step(method.build(case.problem, rank, settings), settings, state, item)

        self._program = Program(step, piece)

    def chosen(self, policy: str, count: int) -> dict[str, float]:
        """The settings by which the case has most on the search's stream."""
        choices = search.grid(self._method.grid)
        if len(choices) == 1:
            return choices[0]
        tried = [self.kept(choice, policy, self._other, _SEARCH, count) for choice in choices]
        return search.best(list(map(search.Trial, choices, tried)), self._case.chosen_by).choice

    def kept(self, choice: Hyper, policy: str, pool: Any, seed: int, count: int) -> Steps:
        """What is kept of one stream's steps."""
        key = {
            **{"method": self._name, "rank": self._rank, "choice": dict(choice), "policy": policy},
            **{"seed": seed, "count": count},
        }

        def compute() -> Steps:
            settings = traced({THOMPSON: policy == THOMPSON, **choice}) | pool.shared(seed)
            params = self._case.problem.network.init(jax.random.key(seed))
            seen = self._case.seen(self._other.first())
            state = self._method.build(self._case.problem, self._rank, settings).init(params, seen)
            return self._program.follow(settings, state, pool.stream(seed, count), self._study.cache.place(key), key)

        names = ("diverged", "seconds", "value", *self._case.kept)
        return self._study.cache.recall(key, compute, lambda: dict.fromkeys(names, 0.0))


def scored_seeds(count: int) -> range:
    """Of the scored passes: grids were chosen by others."""
    return range(_SCORED, _SCORED + count)


def note(found: dict[str, Any], policy: str, name: str, kept: Steps, case: Case) -> None:
    """Add a stream's scores and its curve."""
    scores = case.scores(kept) | {
        "milliseconds": 1e3 * float(kept["seconds"].sum()) / len(kept["value"]),
        "diverged": float(kept["diverged"].sum()),
    }
    found["scores"] += [(policy, name, metric, value) for metric, value in scores.items()]
    blocks = np.array_split(kept["value"].astype(float), min(_POINTS, len(kept["value"])))
    curve = [round(float(block.mean()), 4) for block in blocks]
    found["curves"].setdefault(policy, {}).setdefault(name, []).append(curve)


def content_of(found: dict[str, Any]) -> dict[str, Any]:
    """What is written of it."""
    return results.collect(found["scores"]) | {"chosen": found["chosen"], "curves": found["curves"]}


def named(method: str) -> tuple[str, str]:
    """A method's readable name, and its rank where it has one."""
    return label(_base(method)), method.removeprefix(_base(method)).removeprefix("_") or "–"


def score_table(content: Content, columns: Mapping[str, tuple[str, float, str]]) -> Table:
    """Mean ± standard error of some metrics, each with its head, factor and form, the best first."""
    frame = results.frame(content)
    variants = [variant for variant in frame["variant"].unique() if variant]
    first = next(iter(columns))
    means = frame[frame["metric"] == first].groupby(["variant", "method"], sort=False)["value"].mean()
    rows = []
    for variant in variants or [""]:
        for name in means[variant].sort_values(ascending=False, kind="stable").index:
            part = frame[(frame["variant"] == variant) & (frame["method"] == name)]
            cells = [
                report.shown(part[part["metric"] == metric]["value"].to_numpy(float), factor, form)
                for metric, (_, factor, form) in columns.items()
            ]
            rows.append([*([variant] if variants else []), *named(name), *cells])
    head = [*(["policy"] if variants else []), "method", "rank", *(head for head, _, _ in columns.values())]
    return Table(head, rows, "Mean ± standard error over shuffles.", 1 + bool(variants))


def chosen_table(content: Content) -> Table:
    """What each method chose."""
    rows = [[label(name), report.brief(choice)] for name, choice in content["chosen"].items()]
    return Table(("method", "chosen"), rows, "Settings, chosen at the first rank on the search's images.", 2)


def verdicts(content: Content, metric: str, factor: float, unit: str, variant: str = "") -> str:
    """For each of our filters, whom it is ahead of, level with or behind, by two errors of the paired difference."""
    frame = results.frame(content)
    frame = frame[(frame["variant"] == variant) & (frame["metric"] == metric)]
    lines = []
    for name in (names := list(frame["method"].unique())):
        base, rank = _base(name), named(name)[1]
        said: dict[str, list[str]] = {"ahead of": [], "level with": [], "behind": []}
        for other in names if base in OURS else ():
            stem, its = _base(other), named(other)[1]
            difference = np.asarray(results.difference(frame, name, other, metric), float)
            error = results.standard_error(difference)
            if stem in OURS or (its.isdigit() and rank.isdigit() and its != rank) or error is None:
                continue
            mean = difference.mean()
            kind = "level with" if abs(mean) <= 2 * error else "ahead of" if mean > 0 else "behind"
            spread = report.shown(difference, factor, "+.1f" if factor != 1 else "+.0f").replace("-", "−")
            said[kind].append(f"{named(other)[0]} ({spread})")
        if parts := [f"{kind} {', '.join(others)}" for kind, others in said.items() if others]:
            lines += [f"{named(name)[0]}{f', rank {rank}' if rank.isdigit() else ''}: {'; '.join(parts)}."]
    seeds = content["settings"]["seeds"]
    rough = ", of so few a rough measure" if seeds < 5 else ""
    head = f"By two errors of the difference over the same {seeds} shuffles{rough}; {unit}, ranks alike:"
    return "\n\n".join([head, *lines]) if lines else ""


def published(content: Content, known: Iterable[str], steps: int, figures: Mapping[str, float | str], what: str) -> str:
    """The published figures, which methods are missing, and whether this run may be set beside them."""
    said = ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in figures.items()
    )
    text = f"Published (arXiv 2506.11898, {steps:,} images, 10 shuffles, {what}): {said}."
    if left := [label(name) for name in known if name not in content["chosen"]]:
        text = f"Not run here: {', '.join(left)}. {text}"
    if content["settings"]["steps"] < steps:
        text += f" This run has {content['settings']['steps']:,} images: it does not say whether those are reached."
    return text


def drawn(content: Content, variant: str, metric: str, factor: float, name: str) -> Figure:
    """Every shuffle's score at the highest rank, and the share of right answers along the stream at that rank."""
    scores = results.frame(content)
    top = str(max(content["settings"]["ranks"]))
    shown = [one for one in scores[scores["variant"] == variant]["method"].unique() if named(one)[1] in (top, "–")]
    scores = scores[(scores["variant"] == variant) & (scores["metric"] == metric) & scores["method"].isin(shown)]
    scores = scores.assign(name=[_base(one) for one in scores["method"]], value=factor * scores["value"])
    steps = content["settings"]["steps"]
    rows = [
        (_base(one), (place + 1) * steps / len(curve), 100 * value)
        for one in shown
        for curve in content["curves"][variant][one]
        for place, value in enumerate(curve)
    ]
    made, (left, right) = pictures.figure(f"{content['title']}, rank {top}", 1, 2, (18, 7))
    pictures.dots(left, scores.rename(columns={"value": name}), name)
    along = pd.DataFrame(rows, columns=["name", "images", "right, %"])
    made.draw_without_rendering()
    pictures.lines(right, along, "images", "right, %", marks=False)
    return made


def _base(method: str) -> str:
    base, _, rank = method.rpartition("_")
    return base if rank.isdigit() else method
