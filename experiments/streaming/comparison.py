"""Models on one stream or several variants of it: choose, run, write."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from experiments.run import cache, results
from experiments.run.experiment import Arrays, Content, Experiment, Study
from experiments.run.labels import label
from experiments.run.report import Table, brief
from experiments.run.search import Choice, Trial, beyond
from experiments.streaming import drawing, models, scores, training
from experiments.streaming.models.entry import Entry
from experiments.streaming.models.latent import LT
from experiments.streaming.protocol import Stream
from experiments.streaming.training import Budget, Found

OURS = ("lt_structured", "lt_unstructured", "lt_adapted")
THEIRS = ("vrnn", "dssm", "gru", "gru_mixture", "gru_32", "latent_input", "transformer", "nextlat", "gp")
PAIRS = (
    *((ours, theirs) for ours in OURS for theirs in THEIRS),
    *(("lt_adapted", theirs) for theirs in ("lt_structured", "gru_32_adapted")),
    ("lt_structured", "gru_32_adapted"),
    ("gru_32_adapted", "gru_32"),
    *((ours, "vrnn") for ours in ("gru_32", "latent_input", "transformer", "nextlat")),
)
"""Models compared seed by seed, where no others are named."""
Results = dict[str, dict[str, tuple[dict[str, Any], Found]]]


@dataclasses.dataclass(frozen=True)
class StreamComparison(Experiment):
    """An experiment that compares models on streams: its ``run`` calls ``compare``.

    ``looked_for`` are models that a page names where its run did not have them.
    """

    looked_for: ClassVar[tuple[str, ...]] = ("gru_32", "latent_input")

    def compare(
        self,
        console: Console,
        name: str,
        introduction: str,
        variants: Mapping[str, Stream],
        entries: Mapping[str, Entry],
        budget: Budget,
        *,
        budgets: Mapping[str, Budget] | None = None,
        pairs: Sequence[tuple[str, str]] = PAIRS,
        timed: bool = True,
    ) -> Path:
        """Run every model on every variant, and write ``output/name``; models of an earlier run stay in the table.

        Of a grid that was widened since, only what is new is tried, and models train again whose choice changes.

        Args:
            console: for progress and tables.
            name: of the folder.
            introduction: of the page.
            variants: the streams by name.
            entries: the models by name.
            budget: for all of them.
            budgets: for those that are given another one.
            pairs: models compared seed by seed.
            timed: whether all models are timed, side by side, at the end.

        Returns:
            The folder.
        """
        given = {model: (budgets or {}).get(model, budget) for model in {**models.known(), **entries}}
        grids = {name: getattr(budget, name) for name in ("learning_rates", "predictives")}
        settings = {"budget": budget.depends(), "latent": vars(LT), "grid": grids, "options": self.depends()}
        # Each value's key holds what it depends on: a wider grid, or a model more, leaves the others as they are.
        with self.study(console, name, name, introduction=introduction, depends={}, **settings) as study:
            hashes = {variant: cache.data(stream._asdict()) for variant, stream in variants.items()}
            found: Results = {variant: {} for variant in variants}

            def put(model: str, entry: Entry, variant: str, *, fresh: bool) -> None:
                key = {"stream": hashes[variant], "entry": entry.depends()}
                found[variant][model] = _one(study, key, entry, variants[variant], given[model], fresh=fresh)

            for model in [each for each in models.known() if each not in entries]:
                for variant in variants:
                    try:
                        put(model, models.known()[model], variant, fresh=False)
                    except LookupError:  # an earlier run did not get so far
                        continue
            for model, entry in entries.items():
                for variant in variants:
                    with study.part(f"{variant}, {label(model)}") as advance:
                        put(model, entry, variant, fresh=True)
                        jax.clear_caches()  # a process may map only so many programs
                        advance()
                    study.write(content_of(variants, found, pairs))
            times = {}
            for variant, stream in variants.items() if timed else ():
                there = {model: {**models.known(), **entries}[model] for model in found[variant]}
                samples = {model: given[model].samples for model in there}
                key = {"stream": hashes[variant], "timed": {m: entry.depends() for m, entry in there.items()}}
                times[variant] = study.cache.recall(
                    key | {"samples": samples},
                    lambda there=there, stream=stream, samples=samples: training.microseconds(there, stream, samples),
                    lambda samples=samples: dict.fromkeys(samples, 0.0),
                )
            arrays = {}
            for variant, stream in variants.items():
                drawn = {model: one for model, (_, one) in found[variant].items() if model in entries}
                arrays |= {f"{variant}-{name}": a for name, a in drawing.arrays(stream, drawn).items()}
            return study.finish(content_of(variants, found, pairs, times), arrays)

    def named(self, name: str, introduction: str) -> tuple[str, str]:
        """Folder and introduction: a preset of its own budget has its own, and says what it was given."""
        if self.preset == "default":
            return name, introduction
        given = ", ".join(f"{key} {getattr(self, key)}" for key in ("seeds", "updates", "batch", "window"))
        text = f"""{introduction}

Made with `--preset {self.preset}`, a budget of its own beside the one above: {given}."""
        return f"{name}-{self.preset}", text

    @classmethod
    def tables(cls, content: Content) -> dict[str, Table | str]:
        """A table of all models for each variant, and the paired differences."""
        parts: dict[str, Table | str] = {}
        for variant, found in content["variants"].items():
            parts[f"{variant}-title"] = f"## {variant}: {found['target']}"
            blocks = any("error" in one["nll"] for one in found["models"].values())
            parts[variant] = Table(_COLUMNS, _rows(found), _ERRORS if blocks else _SEEDS, narrow=_NARROW)
            if absent := [label(name) for name in cls.looked_for if name not in found["models"]]:
                parts[f"{variant}-absent"] = f"Not part of this run: {'; '.join(absent)}."
            if found["paired"]:
                lines = [f"- {_pair(pair)}" for pair in found["paired"]]
                over = "" if blocks else " over seeds"
                lead = f"Paired differences of the mean NLL{over} (negative: the first is better):"
                verdict = ["", *verdicts(found["paired"]), *_taken(found)] if blocks else []
                parts[f"{variant}-paired"] = "\n".join([lead, "", *lines, *verdict])
        return parts

    @classmethod
    def pictures(cls, content: Content, arrays: Arrays) -> dict[str, Callable[[], Figure]]:
        """Of each variant whose arrays are there."""
        return drawing.pictures_of(content, arrays)


def _one(
    study: Study, key: Mapping[str, Any], entry: Entry, stream: Stream, budget: Budget, *, fresh: bool
) -> tuple[dict[str, Any], Found]:
    """Choose and run one model, what is there already is not computed again.

    Raises:
        LookupError: something is not there, and not ``fresh``.
    """
    key = {**key, "budget": budget.depends()}

    def kept(what: str, choice: Choice, compute: Callable[..., Any], like: Callable[[], Any]) -> Any:
        place = {**key, what: choice}
        if not fresh and not study.cache.has(place):
            raise LookupError(what)
        folder = study.cache.place(place)  # training is saved there as it goes
        return study.cache.recall(place, lambda: compute(entry, stream, budget, choice, folder), like)

    tried: list[Trial] = []

    def best(part: Budget) -> Choice:
        choices = part.choices(entry)
        for choice in choices if len(choices) > 1 else []:
            if all(choice != one.choice for one in tried):
                tried.append(Trial(choice, kept("tried", choice, training.attempt, lambda: 0)))
        means = {tuple(one.choice.items()): _mean(one.value) for one in tried}
        return min(choices, key=lambda choice: means.get(tuple(choice.items()), np.inf))

    part = budget._replace(predictives=budget.predictives[:1])
    chosen = best(part)
    while (rate := beyond(part.learning_rates, chosen.get("learning_rate", np.nan))) is not None:
        first = chosen["learning_rate"] == part.learning_rates[0]
        part = part._replace(learning_rates=(rate, *part.learning_rates) if first else (*part.learning_rates, rate))
        chosen = best(part)
    if entry.trained:
        chosen = best(budget._replace(learning_rates=(chosen["learning_rate"],)))
    one = kept("chosen", chosen, training.run, lambda: training.like(entry, stream))
    info = {"parameters": int(one.info["parameters"]), "seconds": float(one.info["seconds"]), "chosen": chosen}
    info["held_out"] = results.over_seeds(np.asarray(one.info["held_out"], np.float64))
    validation = [trial.choice | {"nll": [results.number(value) for value in trial.value]} for trial in tried]
    return info | scores.summary(one.steps, stream.test.mask, week(stream)) | {"validation": validation}, one


def week(stream: Stream) -> int:
    """Steps of one week."""
    step = np.median(np.diff(stream.test.time[:1000]) / np.timedelta64(1, "s"))
    return max(1, round(7 * 24 * 3600 / float(step)))


def _mean(values: np.ndarray) -> float:
    """One that diverged comes last."""
    return float(np.mean(np.where(np.isfinite(values), values, np.inf)))


def content_of(
    variants: Mapping[str, Stream],
    found: Results,
    pairs: Sequence[tuple[str, str]],
    times: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """What ``results.json`` holds: every model that is there, and the differences between them."""
    content: dict[str, Any] = {}
    for variant, stream in variants.items():
        there = found[variant]
        share = scores.rank_one({model: one.steps.nll for model, (_, one) in there.items()}) if there else {}
        spent = (times or {}).get(variant, {})
        content[variant] = {
            "models": {
                model: summary | {"rank1": share[model], "microseconds_per_step": spent.get(model)}
                for model, (summary, _) in there.items()
            },
            "paired": [
                {"better": ours, "worse": theirs}
                | scores.paired(there[ours][1].steps.nll, there[theirs][1].steps.nll, week(stream))
                for ours, theirs in pairs
                if ours in there and theirs in there
            ],
            "residual_scale": stream.scale,
            "unit": stream.unit,
            "target": stream.target,
            "inputs": list(stream.inputs),
            "steps": {span: len(getattr(stream, span).xs) for span in ("train", "validation", "test")},
        }
    return {"device": jax.devices()[0].device_kind, "variants": content}


_COLUMNS = (
    *("model", "NLL", "median", "MSE", "CRPS", "coverage 90 %", "max NLL", "99.9 %", "spikes", "failed", "rank 1"),
    *("µs/step", "parameters", "chosen"),
)
_ERRORS = "NLL: mean ± standard error, over blocks of a week and over seeds, added in squares; so of differences."
_SEEDS = (
    "NLL: mean ± standard error over seeds alone; later runs have errors over blocks of a week too, which are larger."
)
_NARROW = ("NLL", "MSE", "CRPS", "coverage 90 %", "max NLL", "rank 1", "µs/step")


def _rows(found: Mapping[str, Any]) -> list[list[str]]:
    models = found["models"]
    ordered = sorted(models, key=lambda name: (models[name]["nll"]["mean"] is None, models[name]["nll"]["mean"]))
    rows = []
    for name in ordered:
        one = models[name]
        error = one["nll"].get("error", one["nll"]["standard_error"])
        rows.append(
            [
                label(name),
                _text(one["nll"]["mean"]) + ("" if error is None else f" ± {error:.4f}"),
                _text(one["nll"]["median"]),
                _text(one["mse"]["mean"], 5),
                _text(one["crps"]["mean"], 4),
                _text(one["coverage90"]["mean"], 3),
                _text(one["max_nll"], 1),
                _text(one["quantile999"], 2),
                _text(one["spikes"]["mean"], 1),
                f"{100 * one['failure_rate']:.0f} %",
                f"{100 * one['rank1']:.1f} %",
                "–" if one["microseconds_per_step"] is None else _text(float(one["microseconds_per_step"]), 1),
                f"{one['parameters']:,}",
                brief(one["chosen"]),
            ]
        )
    return rows


def _pair(pair: Mapping[str, Any]) -> str:
    error = pair.get("error", pair["standard_error"])
    spread = "" if error is None else f" ± {error:.4f}"
    won = sum(value is not None and value < 0 for value in pair["per_seed"])
    return (
        f"{label(pair['better'])} less {label(pair['worse'])}: {_text(pair['difference'], 4, '+')}{spread}, "
        f"{won} of {len(pair['per_seed'])} seeds"
    )


def verdicts(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each model that is compared: behind it, level or ahead, by two errors of the difference."""
    lines = []
    for name in dict.fromkeys(pair["better"] for pair in pairs):
        said: dict[str, list[str]] = {"ahead of": [], "level with": [], "behind": []}
        for pair in pairs:
            if pair["better"] == name and pair["difference"] is not None and pair["error"] is not None:
                far = abs(pair["difference"]) > 2 * pair["error"]
                kind = "level with" if not far else "ahead of" if pair["difference"] < 0 else "behind"
                said[kind].append(label(pair["worse"]))
        parts = [f"{kind} {'; '.join(others)}" for kind, others in said.items() if others]
        lines += [f"By two errors of the difference, {label(name)} is {' | '.join(parts)}.", ""] if parts else []
    return lines[:-1]


def _taken(found: Mapping[str, Any]) -> list[str]:
    """What is said of LatentTrack as the validation span takes it, with or without a filter that corrects it."""
    scores = {name: found["models"].get(name, {}).get("held_out", {}).get("mean") for name in (OURS[0], OURS[2])}
    if None in scores.values():
        return []
    name = min(scores, key=lambda name: scores[name])
    pairs = [pair for pair in found["paired"] if pair["better"] == name and pair["worse"] not in OURS]
    left = [
        label(pair["worse"])
        for pair in pairs
        if pair["difference"] is None or pair["error"] is None or not pair["difference"] < -2 * pair["error"]
    ]
    shown = ", ".join(f"{label(one)} {value:.4f}" for one, value in scores.items())
    said = f"not ahead of {'; '.join(left)} by two errors" if left else "first by more than two errors"
    return ["", f"The validation span ({shown}) takes {label(name)}: it is {said}."]


def _text(value: float | None, digits: int = 4, sign: str = "") -> str:
    return "not finite" if value is None else f"{value:{sign}.{digits}f}"
