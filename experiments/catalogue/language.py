"""Gaussian-process latents as language models on WikiText-2: bounds, prequential scores, the price of parallelism."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from experiments.language import counts, scores, text, training
from experiments.language.models import AUTOREGRESSIVE, ENTRIES, make
from experiments.language.models import Language as Network
from experiments.run import pictures, report, results
from experiments.run.experiment import Arrays, Content, Experiment, Study
from experiments.run.options import Count, Positive
from experiments.run.report import Table

INTRODUCTION = """WikiText-2 in {vocabulary:,} byte-pair tokens, windows of {window}, made by `python -m experiments
language`: {steps} steps of {batch} windows, {search}, {seeds} seeds, scored on {windows}
windows of the test part. Nats per token unless said otherwise. A likelihood, a prequential score and a bound speak of
text that was not seen; a reconstruction has seen the token that it scores. Time and memory against T of the dense and
of the state-space form: `python -m benchmarks gaussian_process`."""
PROTOTYPE = (
    *("tcn", "ou", "switching", "ou mean field", "paper form", "hybrid prequential", "rbf mean field", "prequential"),
    *("matern 3/2", "hybrid", "prequential switching", "coupled", "transformer", "ou short", "ou free bits"),
)
QUICK = ("tcn", "ou", "switching", "hybrid prequential", "ou mean field", "paper form")
_AHEAD = [f"horizon {horizon}" for horizon in scores.HORIZONS[1:]]


@dataclasses.dataclass(frozen=True)
class Language(Experiment):
    """WikiText-2: Gaussian-process latents beside counts, a TCN and a transformer of one search."""

    presets: ClassVar = {
        "minutes": {"steps": 400, "rates": (1e-2,), "characters": 3_000_000, "models": QUICK},
        "prototype": {"rates": (1e-2, 2e-2), "windows": 64, "timed": False, "models": PROTOTYPE},
        "published": {"steps": 800, "rates": (1e-3, 3e-3, 1e-2), "windows": 256},
    }

    models: tuple[str, ...] = (*AUTOREGRESSIVE, *ENTRIES)
    """Which of tcn, transformer and the latent models."""
    seeds: Count = 3
    """Number of seeds."""
    steps: Count = 800
    """Gradient steps."""
    batch: Count = 16
    """Windows in each."""
    window: Count = 64
    """Tokens of a window."""
    vocabulary: Count = 1024
    """Tokens of the byte-pair encoding."""
    characters: Count | None = None
    """So many characters of each part; None: all."""
    width: Count = 64
    """Of embeddings and layers."""
    channels: Count = 16
    """Of the latent."""
    rates: tuple[Positive, ...] = (3e-3, 1e-2)
    """Learning rates of the search."""
    windows: Count = 32
    """Windows scored."""
    samples: Count = 32
    """Draws of bounds and prequential scores."""
    long: Count = 1024
    """The longer of the two lengths at which generation is timed."""
    timed: bool = True
    """Whether generation is timed."""

    def run(self, console: Console) -> None:
        """Compute and write."""
        if unknown := sorted(set(self.models) - {*AUTOREGRESSIVE, *ENTRIES}):
            known = ", ".join((*AUTOREGRESSIVE, *ENTRIES))
            raise ValueError(f"models: expected names of {known}, got {', '.join(unknown)}; correct them")
        corpus, _ = text.load(self.vocabulary, self.characters)
        depends = {name: value for name, value in self.depends().items() if name not in ("models", "seeds", "timed")}
        several = f"learning rates of {self.rates} chosen by the same search for all models"
        search = several if len(self.rates) > 1 else f"a learning rate of {max(self.rates)} for all models"
        introduction = INTRODUCTION.format(**self.depends(), search=search)
        head: Any = {"introduction": introduction, "depends": depends, "data": corpus[:3]}
        settings: Any = self.depends() | {"bytes_per_token": corpus.bytes_per_token}
        folder = "language-prototype" if self.preset == "prototype" else "language"
        with self.study(console, folder, "Gaussian-process language models", **head, **settings) as study:
            test = text.windows(corpus.test, self.window, self.windows)
            first = counts.unigram(corpus.train, self.vocabulary)
            following = counts.bigram(corpus.train, self.vocabulary)
            found: list[tuple] = [("", "unigram", "nll", counts.score(test, first, None))]
            found += [("", "bigram", "nll", counts.score(test, first, following))]
            facts: dict[str, Any] = {"speed": {}, "channels": {}, "rates": {}}
            # The judge of samples comes first.
            judges: list[Any] = []
            for name in dict.fromkeys(("tcn", *self.models)):
                with study.part(name, self.seeds) as advance:
                    model = make(name, self.vocabulary, self.window, self.width, self.channels)
                    trained = self._trained(study, name, model, corpus, facts, advance)
                if name == "tcn":
                    judges = [model, trained[0]]
                for seed, params in enumerate(trained):
                    each = study.cache.recall(
                        {"scores": name, "seed": seed, "rate": facts["rates"][name]},
                        functools.partial(scores.all_of, model, params, test, judges, self.samples),
                        lambda model=model: dict.fromkeys(sorted(scores.names(model, self.window)), 0.0),
                    )
                    found += [("", name, metric, float(value)) for metric, value in each.items()]
                if "log_lengthscale" in trained[0].get("process", ()):
                    none = np.zeros(self.channels, np.float32)
                    facts["channels"][name] = study.cache.recall(
                        {"channels": name, "rate": facts["rates"][name]},
                        functools.partial(scores.channels, model, trained[0], test, self.samples),
                        lambda none=none: {"length scale": none, "KL": none},
                    )
                study.write(results.collect(found) | facts)
            for name in {"tcn", "ou", "hybrid"} & {"tcn", *self.models} if self.timed else ():
                facts["speed"][name] = self._speeds(name)
            study.finish(results.collect(found) | facts)

    def _trained(
        self, study: Study, name: str, model: Network, corpus: text.Corpus, facts: dict, advance: Callable
    ) -> list[Any]:
        """Parameters of each seed, at the rate that the search found."""
        tokens = jnp.asarray(corpus.train)
        held_out = jnp.asarray(text.windows(corpus.valid, self.window, self.windows))
        budget = training.Budget(self.steps, self.batch, self.window)
        short = budget._replace(steps=max(1, self.steps // 4))
        rate = study.cache.recall(
            {"search": name}, lambda: training.search(model, short, tokens, held_out, self.rates), float
        )
        facts["rates"][name] = rate = float(rate)
        trained = []
        for seed in range(self.seeds):
            key = jax.random.key(seed)
            trained.append(
                study.cache.recall(
                    {"train": name, "seed": seed, "rate": rate},
                    lambda key=key: training.train(model, budget, key, tokens, rate),
                    lambda key=key: jax.eval_shape(model.init, key),
                )
            )
            advance()
        return trained

    def _speeds(self, name: str) -> dict[str, float]:
        """Tokens per second by length and batch, of parameters that are not trained."""
        found = {}
        for steps in (self.window, self.long):
            model = make(name, self.vocabulary, steps, self.width, self.channels)
            params = jax.jit(model.init)(jax.random.key(0))
            for batch in (1, 16):
                # One by one, each token costs a pass over the window.
                if name == "tcn" and steps > self.window and batch > 1:
                    continue
                found[f"{steps} × {batch}"] = scores.speed(model, params, steps, batch)
        return found

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """What is honest; reconstructions; horizons; channels; speeds."""
        settings, methods = content["settings"], content["methods"]
        bits = 1 / (math.log(2) * settings["bytes_per_token"])

        def cells(found: dict, metrics: list[str]) -> list[str]:
            return [report.shown(found[name]["per_seed"], 1, ".3f") if name in found else "–" for name in metrics]

        honest = []
        for name, found in methods.items():
            best = [found[m]["mean"] for m in ("nll", "prequential", "IWAE", "negative ELBO") if m in found]
            best = [value for value in best if value is not None]
            per_byte = f"{bits * min(best):.2f}" if best else "–"
            honest.append([name, *cells(found, ["nll", "prequential", "IWAE", "negative ELBO", "KL"]), per_byte])
        head = ("model", "−log p", "prequential", "−IWAE", "−ELBO", "KL", "bits per byte")
        ahead = [
            [name, *cells(found, ["prequential", *_AHEAD])] for name, found in methods.items() if _AHEAD[0] in found
        ]
        seen = ["reconstruction, real text", "reconstruction, own text"]
        others = [
            [
                *(name, *cells(found, [*seen, "judged samples"])),
                *(f"{math.exp(found[metric]['mean']):.4g}" for metric in seen),
            ]
            for name, found in methods.items()
            if seen[0] in found
        ]
        parts: dict[str, Table | str] = {
            "scores": Table(head, honest, "Scores and bounds of unseen text; mean ± standard error over seeds."),
            "reconstruction": Table(
                ("model", "real text", "own text", "own text judged by the TCN", "exp, real text", "exp, own text"),
                others,
                "Reconstruction has seen the token it scores and predicts nothing; what a TCN thinks of samples.",
            ),
        }
        if ahead:
            parts["horizons"] = Table(
                ("model", *(f"h = {h}" for h in scores.HORIZONS)),
                ahead,
                "The price of parallelism: −log p of the h-th of the tokens that are made at once after the past.",
            )
        if content["channels"]:
            rows = [
                [name, quantity, *(f"{value:.2g}" for value in values)]
                for name, both in content["channels"].items()
                for quantity, values in both.items()
            ]
            parts["channels"] = Table(
                ("model", "", *(str(1 + index) for index in range(settings["channels"]))),
                rows,
                "What the channels hold: KL in nats per token beside the length scale in tokens; the first seed.",
                words=2,
            )
        if content["speed"]:
            sizes = sorted({size for each in content["speed"].values() for size in each}, key=lambda s: (len(s), s))
            rows = [
                [name, *(f"{each[size]:,.0f}" if size in each else "–" for size in sizes)]
                for name, each in sorted(content["speed"].items())
            ]
            parts["speed"] = Table(("model", *sizes), rows, "Tokens per second of generation, length × batch.")
        return parts

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """The score against the horizon."""
        y = "nats per token"
        rows = [
            (name, horizon, value)
            for name, found in content["methods"].items()
            for horizon in scores.HORIZONS
            if "horizon 2" in found
            for value in found["prequential" if horizon == 1 else f"horizon {horizon}"]["per_seed"]
        ]
        frame = pd.DataFrame(rows, columns=["name", "tokens ahead", y])
        drawn: dict[str, Callable[[], Figure]] = {}
        if len(frame):
            title = "What a token costs that is made so many tokens ahead"
            drawn["horizons"] = lambda: pictures.logarithmic({"": frame}, title, "tokens ahead", y)
        return drawn
