"""Worlds of tokens with exact beliefs: is a transformer's hidden state one, is ψ a filter, what do its drafts save."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

import latenttrack as lt
from experiments.run import pictures, report, results, search
from experiments.run.experiment import Arrays, Content, Experiment, Study
from experiments.run.options import Count, NonNegative, Positive
from experiments.run.report import Table
from experiments.worlds import decoding, hidden_markov, measures, navigation, training, world
from experiments.worlds.methods import LABELS, METHODS
from experiments.worlds.world import Data, World

INTRODUCTION = """Transformers of {layers} layers, width {width}, trained on windows of {window} tokens by {steps}
steps of {batch} sequences, in the town by {walks} times as many, {seeds} seeds; made by
`python -m experiments worlds{given}`. Methods share the network, the budget and the choice of learning rate and λ
on validation sequences; "ψ afterwards" is ψ trained as long again on the finished, frozen network. *regimes*: four
regimes that last, six symbols of which 20 % are missing; *mess3*, *rrxor*: hidden Markov models of Shai et al.
(2405.15943); *a5*: generators of the alternating group on five letters, and now and then their product;
*navigation*: walks through a town of 4 × 4 crossings, five streets closed, from destination to destination. All laws
and beliefs are exact. KL in nats a token: from the exact law of the next token to the network's over one window, and
to ψ's, rolled out alone from the window's first token, over the last of 1, 2, 4 and 8 windows. Rank: effective rank of
the hidden states, exp of their spectrum's entropy. R²: of the exact belief by a linear
probe, and by the same probe on ψ's states at eight windows."""


@dataclasses.dataclass(frozen=True)
class Worlds(Experiment):
    """A transformer with its next hidden state as a second target, on worlds whose beliefs are known."""

    presets: ClassVar = {
        "minutes": {},
        "published": {
            "seeds": 5,
            "steps": 5000,
            "width": 128,
            "worlds": ("regimes", "navigation", "mess3", "rrxor"),
            "methods": tuple(METHODS),
            "learning_rates": (1e-3, 3e-3),
            "weights": (0.3, 1.0),
        },
    }

    worlds: tuple[str, ...] = ("regimes", "navigation")
    """Which of regimes, navigation, mess3, rrxor, a5."""
    methods: tuple[str, ...] = ("nextlat_2", "nextlat_2_plain", "gpt_detached", "nextlat_1", "mtp")
    """Which of gpt, gpt_detached, mtp, nextlat_1, _2, _4, and _plain of those with ψ."""
    seeds: Count = 3
    """Number of seeds: each has other sequences and starting weights."""
    steps: Count = 500
    """Gradient steps."""
    walks: Count = 2
    """In the town, so many times as many."""
    batch: Count = 32
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
    """Tokens of a training sequence."""
    learning_rates: tuple[Positive, ...] = (3e-3,)
    """Peaks to choose from."""
    weights: tuple[NonNegative, ...] = (1.0,)
    """λ_h = λ_KL to choose from."""
    drafted_by: str = "nextlat_2"
    """The method whose ψ drafts in the town."""
    drafts: tuple[Count, ...] = (2, 4, 6)
    """Draft lengths."""
    confidences: tuple[Positive, ...] = (0.3, 0.6)
    """Confidences of adaptive drafts of the longest length."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        for name, given, known in (
            ("worlds", self.worlds, (*hidden_markov.KINDS, "navigation")),
            ("methods", (*self.methods, self.drafted_by), METHODS),
        ):
            if unknown := [one for one in given if one not in known]:
                raise ValueError(f"{name}: expected names of {', '.join(known)}, got {', '.join(unknown)}; correct it")
        sizes = {
            name: getattr(self, name) for name in ("layers", "width", "window", "steps", "walks", "batch", "seeds")
        }
        depends = sizes | {"train": self.train, "held_out": self.held_out}
        title, introduction = "Belief states in a transformer", INTRODUCTION.format(**sizes, given=self._given())
        folder = "-".join(("worlds", *(self.worlds if self.worlds != Worlds.worlds else ())))
        with self.study(
            *(console, folder, title), introduction=introduction, depends=depends, **self.depends()
        ) as study:
            found: list[tuple[str, str, str, float]] = []
            rows: list[dict[str, Any]] = []
            for name in self.worlds:
                made = navigation.world(self.window) if name == "navigation" else hidden_markov.world(name, self.window)
                data = [world.draw(made, seed, self.train, self.held_out) for seed in range(self.seeds)]
                with study.part(name, len(self.methods)) as advance:
                    found += self._rows(name, "exact", [measures.reference(made, one) for one in data])
                    for method in self.methods:
                        params, scores = self._learned(study, made, method, data)
                        found += self._rows(name, method, scores)
                        if name == "navigation" and method == self.drafted_by:
                            rows = self._decoded(study, made, method, params, data[0])
                        study.write(results.collect(found) | {"decoding": rows})
                        advance()
            study.finish(results.collect(found) | {"decoding": rows})

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

    def _learned(
        self, study: Study, made: World, name: str, data: list[Data]
    ) -> tuple[lt.NextLatParams, list[dict[str, float]]]:
        """The parameters of all seeds at the best setting on validation sequences, and their scores."""
        method, model = METHODS[name], self._model(made)
        keys = jax.vmap(jax.random.key)(jnp.arange(self.seeds))
        budget = training.Budget(self.steps * (self.walks if made.name == "navigation" else 1), self.batch)
        tokens = jnp.asarray(np.stack([one.train for one in data]))
        weights = self.weights if method.rolls else self.weights[:1]
        trials = []
        for choice in search.grid({"learning_rate": self.learning_rates, "weight": weights}):

            def fit(choice: dict[str, float] = choice) -> lt.NextLatParams:
                settings = jnp.asarray(choice["learning_rate"]), jnp.asarray(choice["weight"])
                return training.fit(model, method, budget, keys, tokens, *settings)

            key = {"world": made.name, "method": dataclasses.asdict(method), **choice}
            params = study.cache.recall(key, fit, lambda fit=fit: jax.eval_shape(fit))
            params = jax.tree.map(jnp.asarray, params)
            losses = [measures.held_out(model, method, self._of(params, s), data[s]) for s in range(self.seeds)]
            trials.append(search.Trial(choice, (float(np.mean(losses)), params)))
        chosen = search.best(trials, lambda value: -value[0])
        params, scores = chosen.value[1], []
        for seed in range(self.seeds):
            one = self._of(params, seed)
            came = measures.scores(model, method, one, data[seed])
            if made.name == "navigation":
                came |= measures.walks(model, method, one, jax.random.key(seed))
            scores.append(came | chosen.choice)
        return params, scores

    def _model(self, made: World) -> Any:
        config = lt.TransformerConfig(width=self.width, layers=self.layers, heads=4, window=self.window)
        return lt.transformer(config, made.vocabulary)

    def _decoded(
        self, study: Study, made: World, name: str, params: lt.NextLatParams, data: Data
    ) -> list[dict[str, Any]]:
        """With the first seed's network, from the first two tokens of test sequences to the window's end."""
        dynamics = lt.LatentDynamics(self.width, METHODS[name].normalize)
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
        laws = ["kl", *(f"kl_{m}x" for m in measures.MULTIPLES), "rank", "probe", "probe_8x"]
        heads = ["KL", *(f"ψ, {m} ×" for m in measures.MULTIPLES), "rank", "R²", "R², ψ at 8 ×"]
        made: dict[str, Table | str] = {}
        for name in frame["variant"].unique():
            part = frame[frame["variant"] == name]
            rows = _lines(part, laws)
            made[name] = Table(["", *heads], rows, f"*{name}*: mean ± standard error over seeds; KL in nats.")
        far = frame[frame["metric"] == "kl_8x"]
        rows = [
            [str(name), LABELS[str(method)], *(f"{value:.4f}" for value in part["value"])]
            for (name, method), part in far.groupby(["variant", "method"], sort=False)
        ]
        seeds = [f"seed {s}" for s in range(content["settings"]["seeds"])]
        made["seeds"] = Table(["world", "method", *seeds], rows, "KL of ψ's law at 8 windows, each seed.", 2)
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
        return made

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """ψ's divergence against how far it was rolled out."""
        frame = results.frame(content)
        part = frame[frame["metric"].str.fullmatch(r"kl_\dx")]
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
            percent = metric.startswith(("valid", "detours"))
            cells.append(report.shown(values, 100 if percent else 1, ".1f" if percent or metric == "rank" else ".4f"))
        rows.append([LABELS.get(str(method), "exact; KL of a constant law"), *cells])
    return rows
