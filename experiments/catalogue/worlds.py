"""Worlds of tokens with exact beliefs: is a transformer's hidden state one, is ψ a filter, what do its drafts save."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

import latenttrack as lt
from experiments.run import pictures, report, results, search
from experiments.run.experiment import Arrays, Content, Experiment, Study
from experiments.run.options import Count, Natural, NonNegative, Positive, Range
from experiments.run.report import Table
from experiments.worlds import (
    answers,
    countdown,
    decoding,
    hidden_markov,
    measures,
    navigation,
    path_star,
    problems,
    training,
    world,
)
from experiments.worlds.methods import LABELS, METHODS
from experiments.worlds.world import Data, World

INTRODUCTION = """Transformers of {layers} layers, width {width}, trained on windows of {window} tokens by {steps}
steps of {batch} sequences, in the town by {walks} times as many, {seeds} seeds; made by
`python -m experiments worlds{given}`. Methods share the network, the budget and the choice of learning rate ({rates})
and λ ({lambdas}), by one step in {tried} on the first seed's validation sequences; "ψ afterwards" is ψ trained as long
again on the finished, frozen network. *regimes*: four
regimes that last, six symbols of which 20 % are missing; *mess3*, *rrxor*: hidden Markov models of Shai et al.
(2405.15943); *a5*: generators of the alternating group on five letters, and now and then their product;
*navigation*: walks through a town of {side} × {side} crossings, {closed} streets closed, from destination to
destination. Two are problems, of a length of their own, of which the answer alone is predicted: *path-star*, the way
along one of {arms} arms of {nodes} nodes from the start they share to the goal (2403.06963); *countdown*, a number from
{numbers} others by arithmetic (2404.03683), one of all solutions. All laws and beliefs are exact. KL in nats a token:
from the exact law of the next token to the network's over one window, and to ψ's, rolled out alone from the window's
first token, over the last of 1, 2, 4 and 8 windows; of problems over the answer, ψ's from the prompt's end. Rank:
effective rank of the hidden states, exp of their spectrum's entropy, beside the belief's own and the directions in
which it moves. R²: of the exact belief by a linear probe, and by the same probe on ψ's states at eight windows, or over
the answer."""

Learned = tuple[lt.NextLatParams, dict[str, float]]
"""The parameters of all seeds, and the setting that was chosen."""

METRICS = {
    "stationary": ["kl", *(f"kl_{m}x" for m in measures.MULTIPLES), "rank", "dimension", "probe", "probe_8x"],
    "problems": [
        "kl",
        "kl_psi",
        "begun",
        "solved",
        "begun_psi",
        "solved_psi",
        "rank",
        "dimension",
        "probe",
        "probe_psi",
    ],
}
HEADS = {
    "stationary": ["KL", *(f"ψ, {m} ×" for m in measures.MULTIPLES), "rank", "directions", "R²", "R², ψ at 8 ×"],
    "problems": ["KL", "ψ", "begun, %", "solved, %", "begun, ψ", "solved, ψ", "rank", "directions", "R²", "R², ψ"],
}
EACH = {
    "kl_8x": "KL of ψ's law at 8 windows",
    "begun": "Problems that the network begins well, %",
    "solved": "Problems that the network solves, %",
    "solved_psi": "Problems that ψ solves alone, %",
}
"""What is shown of every seed."""


@dataclasses.dataclass(frozen=True)
class Worlds(Experiment):
    """A transformer with its next hidden state as a second target, on worlds whose beliefs are known."""

    presets: ClassVar = {
        "minutes": {},
        "published": {
            "seeds": 5,
            "steps": 5000,
            "batch": 32,
            "width": 128,
            "methods": tuple(METHODS),
            "learning_rates": (1e-3, 3e-3),
        },
    }

    worlds: tuple[str, ...] = ("regimes", "navigation", "mess3", "rrxor")
    """Which of regimes, navigation, mess3, rrxor, a5, path-star, countdown."""
    methods: tuple[str, ...] = tuple(name for name in METHODS if name != "gpt_detached_plain")
    """Which of gpt, gpt_detached, mtp, nextlat_1, _2, _4, and _plain of those with ψ."""
    seeds: Count = 3
    """Number of seeds: each has other sequences and starting weights."""
    steps: Count = 500
    """Gradient steps."""
    walks: Count = 3
    """In the town, so many times as many."""
    batch: Count = 16
    """Sequences in each."""
    train: Count = 8192
    """Sequences to train on."""
    held_out: Count = 256
    """Sequences to choose by, and as many to measure on."""
    width: Count = 32
    """Of the network."""
    layers: Count = 2
    """Of the network."""
    window: Count = 32
    """Tokens of a training sequence; problems are as long as they are."""
    side: Count = 4
    """Crossings on each side of the town."""
    closed: Natural = 5
    """Streets of the town that are closed."""
    arms: Count = 2
    """Of a path-star graph."""
    nodes: Annotated[int, Range(2)] = 4
    """Of each arm, the start among them."""
    numbers: Annotated[int, Range(2)] = 3
    """Of a countdown."""
    learning_rates: tuple[Positive, ...] = (3e-3, 1e-2)
    """Peaks to choose from."""
    weights: tuple[NonNegative, ...] = (0.3, 1.0)
    """λ_h = λ_KL to choose from."""
    tried: Count = 4
    """Of the steps, the share by which settings are tried: one in so many."""
    workers: Count = 2
    """Methods that are trained side by side."""
    drafted_by: str = "nextlat_2"
    """The method whose ψ drafts in the town, where it is among the methods."""
    drafts: tuple[Count, ...] = (2, 4, 6)
    """Draft lengths."""
    confidences: tuple[Positive, ...] = (0.3, 0.6)
    """Confidences of adaptive drafts of the longest length."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        for name, given, known in (
            ("worlds", self.worlds, (*hidden_markov.KINDS, "navigation", "path-star", "countdown")),
            ("methods", self.methods, METHODS),
            ("drafted_by", (self.drafted_by,), [name for name, method in METHODS.items() if method.rolls]),
        ):
            if unknown := [one for one in given if one not in known]:
                raise ValueError(f"{name}: expected names of {', '.join(known)}, got {', '.join(unknown)}; correct it")
        sizes = {
            name: getattr(self, name) for name in ("layers", "width", "window", "steps", "walks", "batch", "seeds")
        }
        searched = {
            "rates": ", ".join(f"{rate:g}" for rate in self.learning_rates),
            "lambdas": ", ".join(f"{weight:g}" for weight in self.weights),
            "tried": self.tried,
        }
        kinds = {name: getattr(self, name) for name in ("side", "closed", "arms", "nodes", "numbers")}
        depends = sizes | kinds | {"train": self.train, "held_out": self.held_out}
        introduction = INTRODUCTION.format(**sizes, **kinds, **searched, given=self._given())
        others = self.worlds if self.worlds != Worlds.worlds else ()
        title = ": ".join(("Belief states in a transformer", *([", ".join(others)] if others else [])))
        folder = "-".join(("worlds", *others))
        with self.study(
            *(console, folder, title), introduction=introduction, depends=depends, **self.depends()
        ) as study:
            began, found = time.process_time(), list[tuple[str, str, str, float]]()
            learned: dict[tuple[str, str], lt.NextLatParams] = {}
            with self._pool() as pool:
                drawn = {name: pool.submit(self._drawn, name) for name in self.worlds}  # before those that wait for it
                coming = {
                    name: [pool.submit(self._family, study, name, family, drawn[name]) for family in self._families()]
                    for name in self.worlds
                }
                for name, families in coming.items():
                    exact = [measures.reference(self._made(name), one) for one in drawn[name].result()]
                    found += self._rows(name, "exact", exact)
                    with study.part(name, len(self.methods)) as advance:
                        scores: dict[str, list[dict[str, float]]] = {}
                        for family in families:
                            for method, (params, each) in family.result().items():
                                learned[name, method], scores[method] = params, each
                                advance()
                    found += [row for method in self.methods for row in self._rows(name, method, scores[method])]
                    study.write(results.collect(found) | {"decoding": []})
            rows: list[dict[str, Any]] = []
            if params := learned.get(("navigation", self.drafted_by)):  # after all else: it is timed
                with study.part("decoding") as advance:
                    rows = self._decoded(self._made("navigation"), params, drawn["navigation"].result()[0])
                    advance()
            study.seconds["of the processor, all of this run"] = time.process_time() - began
            study.finish(results.collect(found) | {"decoding": rows})

    @contextlib.contextmanager
    def _pool(self) -> Iterator[concurrent.futures.Executor]:
        """Threads: compiling and computing leave the interpreter free. What waits is dropped when something fails."""
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _families(self) -> list[list[str]]:
        """Methods that share a network are trained one after the other, others side by side."""
        shared = [name for name in self.methods if name == "gpt" or METHODS[name].afterwards]
        return [*([shared] if shared else []), *([name] for name in self.methods if name not in shared)]

    def _family(
        self, study: Study, name: str, family: list[str], drawn: concurrent.futures.Future[list[Data]]
    ) -> dict[str, tuple[lt.NextLatParams, list[dict[str, float]]]]:
        """The parameters of all seeds, and their scores, of each method."""
        made, data, found = self._made(name), drawn.result(), {}
        shared = any(METHODS[method].afterwards for method in family)
        trunk = self._learned(study, made, "gpt", data) if shared else None
        for method in family:
            params, choice = self._learned(study, made, method, data, trunk if METHODS[method].afterwards else None)
            scores = [
                self._scores(made, method, self._of(params, seed), seed, data[seed]) for seed in range(self.seeds)
            ]
            found[method] = params, [one | choice for one in scores]
        return found

    def _drawn(self, name: str) -> list[Data]:
        return [world.draw(self._made(name), seed, self.train, self.held_out) for seed in range(self.seeds)]

    def _made(self, name: str) -> World:
        if name == "navigation":
            return navigation.world(self.window, self.side, self.closed)
        if name == "path-star":
            return problems.world(path_star.problem(self.arms, self.nodes))
        if name == "countdown":
            return problems.world(countdown.problem(self.numbers))
        return hidden_markov.world(name, self.window)

    def _given(self) -> str:
        """The options that differ from the preset's, as they are written."""
        usual, text = self.of(self.preset).depends(), ""
        for name, value in self.depends().items():
            if value != usual[name]:
                words = map(str, value) if isinstance(value, tuple) else [str(value)]
                text += f" --{name.replace('_', '-')} {' '.join(words)}"
        return text

    @staticmethod
    def _rows(name: str, method: str, scores: list[dict[str, float]]) -> list[tuple[str, str, str, float]]:
        return [(name, method, metric, value) for seed in scores for metric, value in seed.items()]

    def _learned(self, study: Study, made: World, name: str, data: list[Data], trunk: Learned | None = None) -> Learned:
        """The parameters of all seeds, and the setting: the best on the first seed's validation sequences, if several.

        Settings are tried with a share of the steps.
        """
        method, model = METHODS[name], self._model(made)
        steps = self.steps * (self.walks if made.name == "navigation" else 1)
        tokens = jnp.asarray(np.stack([one.train for one in data]))

        @functools.cache
        def start() -> training.Start:
            begin = training.start(model, method, self.seeds, tokens, steps, self.batch)
            return begin if trunk is None else begin._replace(params=begin.params._replace(model=trunk[0].model))

        def learn(seeds: int, steps: int, choice: dict[str, float]) -> lt.NextLatParams:
            def fit() -> Any:
                settings = choice["learning_rate"], choice["weight"]
                return training.fit(model, method, made.prompt, start().first(seeds), steps, *settings)

            key = {"world": made.name, "method": dataclasses.asdict(method), "of": seeds, "taken": steps, **choice}
            key |= {} if trunk is None else {"trunk": trunk[1]}
            params = jax.tree.map(jnp.asarray, study.cache.recall(key, fit, lambda: start().params))
            return lt.NextLatParams(params[0], {}) if method.heads > 1 else params

        weights = self.weights if method.weighs else self.weights[:1]
        choices = search.grid({"learning_rate": self.learning_rates, "weight": weights})
        trials = []
        for choice in choices if len(choices) > 1 else []:
            params = self._of(learn(1, max(steps // self.tried, 1), choice), 0)
            trials.append(search.Trial(choice, measures.held_out(model, method, params, data[0], made.prompt)))
        chosen = search.best(trials, lambda loss: -loss).choice if trials else choices[0]
        return learn(self.seeds, steps, chosen), chosen

    def _scores(self, made: World, name: str, params: lt.NextLatParams, seed: int, data: Data) -> dict[str, float]:
        method, model = METHODS[name], self._model(made)
        if made.solved:
            return answers.scores(model, method, params, made.solved, made.prompt, data)
        came = measures.scores(model, method, params, data)
        if made.name == "navigation":
            town = navigation.town(self.side, self.closed)
            came |= measures.walks(model, method, params, town, jax.random.key(seed))
        return came

    def _model(self, made: World) -> Any:
        config = lt.TransformerConfig(width=self.width, layers=self.layers, heads=4, window=made.window)
        return lt.transformer(config, made.vocabulary)

    def _decoded(self, made: World, params: lt.NextLatParams, data: Data) -> list[dict[str, Any]]:
        """With the first seed's network, from the first two tokens of test sequences to the window's end."""
        dynamics = lt.LatentDynamics(self.width, METHODS[self.drafted_by].normalize)
        prompts = jnp.asarray(data.test[:64, :2])
        rows = []
        for tours in (1, 64):
            rows += decoding.measure(
                *(self._model(made), dynamics, self._of(params, 0), prompts[:tours], jax.random.key(0)),
                drafts=self.drafts,
                confidences=self.confidences,
            )
        return rows

    @staticmethod
    def _of(params: Any, seed: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[seed], params)

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """Laws and states by world, walks, decoding."""
        frame = results.frame(content)
        made: dict[str, Table | str] = {}
        for name in frame["variant"].unique():
            part = frame[frame["variant"] == name]
            kind = "problems" if (part["metric"] == "solved").any() else "stationary"
            caption = f"*{name}*: mean ± standard error over seeds; KL in nats."
            if kind == "problems":
                caption += " Greedy answers: shares whose first token begins a solution, and that are solutions."
            if len(content["settings"]["learning_rates"]) > 1 or len(content["settings"]["weights"]) > 1:
                caption += _chosen(part)
            made[name] = Table(["", *HEADS[kind]], _lines(part, METRICS[kind]), caption)
        seeds = [f"seed {s}" for s in range(content["settings"]["seeds"])]
        for metric, what in EACH.items():
            part = frame[frame["metric"] == metric]
            rows = [
                [str(name), LABELS[str(method)], *_cells(one["value"], metric)]
                for (name, method), one in part.groupby(["variant", "method"], sort=False)
            ]
            if rows:
                made[f"seeds, {metric}"] = Table(["world", "method", *seeds], rows, f"{what}, each seed.", 2)
        walks = [f"{kind}_{by}" for by in ("model", "psi") for kind in ("valid", "detours", "compression")]
        part = frame[frame["metric"].isin(walks)]
        if len(part):
            heads = [f"{kind}{by}" for by in ("", ", ψ") for kind in ("valid, %", "detours, %", "compression")]
            caption = """Tours of one window: shares without an impossible turn, by the network and by ψ alone, left
alone, and with three tokens of ten replaced by any that is possible there; total variation between the laws after two
pasts that led to the same crossing and destination."""
            made["walks"] = Table(["", *heads], _lines(part, walks), caption)
        if rows := content["decoding"]:
            heads = (
                "tours",
                "rule",
                "draft",
                "confidence",
                "tokens a call",
                "accepted, %",
                "µs a token",
                "times as fast",
            )
            cells = [
                [
                    *(str(row["rows"]), row["rule"], str(row["draft"] or "–")),
                    f"{row['confidence']:g}" if row["confidence"] else "–",
                    *(f"{row['tokens_a_call']:.2f}", f"{100 * row['accepted']:.1f}" if row["draft"] else "–"),
                    *(f"{row['microseconds_a_token']:.1f}", f"{row['speedup']:.2f}"),
                ]
                for row in rows
            ]
            by = LABELS[content["settings"]["drafted_by"]]
            caption = f"Decoding one tour, and 64 at once, with {by}; times of the ways in turn, medians."
            made["decoding"] = Table(heads, cells, caption, 4)
            made["drafts"] = _fastest(rows)
        return made

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """ψ's divergence against how far it was rolled out."""
        frame = results.frame(content)
        part = frame[frame["metric"].str.fullmatch(r"kl_\dx")]
        if part.empty:
            return {}
        part = part.assign(
            name=part["method"].map(LABELS), windows=part["metric"].str.extract(r"(\d)", expand=False).astype(int)
        ).rename(columns={"value": "nats a token"})
        panels = {
            str(name): one[["name", "windows", "nats a token"]] for name, one in part.groupby("variant", sort=False)
        }
        title = "KL of the exact law to ψ's, rolled out alone past the training window"
        return {"rollouts": lambda: pictures.logarithmic(panels, title, "windows", "nats a token")}


def _lines(part: pd.DataFrame, metrics: list[str]) -> list[list[str]]:
    """A line for each method, a cell for each metric."""
    rows = []
    for method, found in part.groupby("method", sort=False):
        cells = []
        for metric in metrics:
            values = found[found["metric"] == metric]["value"].to_numpy(float)
            scale, form = _form(metric)
            cells.append(report.shown(values, scale, form))
        rows.append([LABELS.get(str(method), "exact; KL of a constant law"), *cells])
    return rows


def _chosen(part: pd.DataFrame) -> str:
    """The settings of each method, in words."""
    settings = part[part["metric"].isin(["learning_rate", "weight"])].groupby(["method", "metric"], sort=False)["value"]
    each = settings.first().unstack()
    if each.empty:
        return ""
    named = [
        f"{LABELS[str(method)]}: {one['learning_rate']:g}" + f", {one['weight']:g}" * METHODS[str(method)].weighs
        for method, one in each.iterrows()
    ]
    return f" Chosen learning rate, and λ: {'; '.join(named)}."


def _fastest(rows: list[dict[str, Any]]) -> str:
    """By time, of each number of tours: the fixed draft and the adaptive one that pay most."""
    sentences = []
    for tours, part in itertools.groupby(rows, lambda row: row["rows"]):
        drafted = [row for row in part if row["draft"]]
        named = []
        for kind in ("fixed", "adaptive"):
            best = max((row for row in drafted if bool(row["confidence"]) == (kind == "adaptive")), key=_speedup)
            how = f"{best['rule']}, {best['draft']} tokens" + f", confidence {best['confidence']:g}" * (
                kind == "adaptive"
            )
            named.append(f"the best {kind} draft ({how}) is {best['speedup']:.2f} times as fast as generation")
        sentences.append(f"Tours at once, {tours}: {', '.join(named)}.")
    return " ".join(sentences)


def _speedup(row: dict[str, Any]) -> float:
    return row["speedup"]


def _cells(values: Iterable[float], metric: str) -> list[str]:
    scale, form = _form(metric)
    return [f"{scale * value:{form}}" for value in values]


def _form(metric: str) -> tuple[int, str]:
    """What a value is multiplied by, and how it is written."""
    percent = metric.startswith(("valid", "detours", "begun", "solved"))
    forms = {"rank": ".1f", "dimension": ".0f"}
    return (100, ".1f") if percent else (1, forms.get(metric, ".4f"))
