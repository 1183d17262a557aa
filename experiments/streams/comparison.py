"""All models on one stream or several variants of it: run, save, compare, write."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.results import versions, write, written_whole
from experiments.streams import records, scores, study
from experiments.streams.models import LABELS, LT, MODELS, Entry
from experiments.streams.protocol import Stream
from experiments.streams.study import Budget, Found

PAIRS = tuple(
    (ours, theirs) for ours in ("lt_structured", "lt_unstructured") for theirs in ("vrnn", "gru", "gru_mixture")
)
"""Models compared seed by seed."""
Results = dict[str, dict[str, Found]]


def run(
    name: str,
    variants: Mapping[str, Stream],
    entries: Mapping[str, Entry],
    budget: Budget,
    output: Path,
    console: Console,
    *,
    budgets: Mapping[str, Budget] | None = None,
) -> tuple[dict[str, Any], Results]:
    """Run what is not there yet, variant by variant for each model, and write ``output/NAME/results.json`` after each.

    ``budgets`` holds the models that are given another budget than the rest.

    Raises:
        SettingsChangedError: the folder holds results of other settings.
    """
    folder = output / name
    budgets = budgets or {}
    fixed = {"budget": budget._asdict(), "latent": vars(LT)}
    records.claim(folder / "runs", fixed)
    content: dict[str, Any] = {}
    for model, entry in entries.items():
        for variant, stream in variants.items():
            place = folder / "runs" / variant
            if records.exists(place, model):
                continue
            with console.status(f"{variant}: {label(model)}"):
                found = study.run(entry, stream, budgets.get(model, budget))
            records.save(place, model, found)
            summary = scores.summary(found.steps)
            console.print(
                f"{variant:>6}  {label(model):<30} NLL {_text(summary['nll']['mean'])}   {found.info['seconds']:.0f} s",
                highlight=False,
            )
            content = collect(name, variants, entries, folder, fixed)
            write(content, output)
    if not content:
        content = collect(name, variants, entries, folder, fixed)
        write(content, output)
    return content, _load(variants, entries, folder)


def collect(
    name: str, variants: Mapping[str, Stream], entries: Mapping[str, Entry], folder: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``results.json`` holds: every model that is there, and the differences between them."""
    found: dict[str, Any] = {}
    for variant, stream in variants.items():
        place = folder / "runs" / variant
        # What an earlier call with other models left stays in the table.
        names = dict.fromkeys([*MODELS, *entries])
        loaded = {model: records.load(place, model) for model in names if records.exists(place, model)}
        share = scores.rank_one({model: one.steps.nll for model, (_, one) in loaded.items()}) if loaded else {}
        found[variant] = {
            "models": {model: summary | {"rank1": share[model]} for model, (summary, _) in loaded.items()},
            "paired": [
                {"better": ours, "worse": theirs}
                | scores.paired(_per_seed(loaded[ours][1]), _per_seed(loaded[theirs][1]))
                for ours, theirs in PAIRS
                if ours in loaded and theirs in loaded
            ],
            "residual_scale": stream.scale,
            "unit": stream.unit,
            "target": stream.target,
            "inputs": list(stream.inputs),
            "steps": {span: len(getattr(stream, span).xs) for span in ("train", "validation", "test")},
        }
    return {
        "experiment": name,
        "settings": dict(settings),
        "versions": versions() | {"device": jax.devices()[0].device_kind},
        "variants": found,
    }


def label(model: str) -> str:
    """The readable name of a model."""
    return LABELS.get(model, model)


def print_tables(console: Console, content: Mapping[str, Any]) -> None:
    """Print a table for each variant; what does not fit a terminal is in the report."""
    for variant, found in content["variants"].items():
        table = Table(title=f"{content['experiment']}, {variant}: {found['target']}", title_justify="left")
        for column in _SHOWN:
            table.add_column(column, justify="left" if column == "model" else "right")
        for row in _rows(found):
            table.add_row(*(row[_COLUMNS.index(column)] for column in _SHOWN))
        console.print(table)
        for pair in found["paired"]:
            console.print(_pair(pair), highlight=False)


def write_report(path: Path, content: Mapping[str, Any], introduction: str, pictures: Sequence[str]) -> None:
    """Write the tables and pictures as markdown."""
    lines = [f"# {content['experiment']}", "", introduction, ""]
    for variant, found in content["variants"].items():
        lines += [f"## {variant}: {found['target']}", "", "| " + " | ".join(_COLUMNS) + " |"]
        lines += ["|---|" + "---:|" * (len(_COLUMNS) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in _rows(found)] + [""]
        if found["paired"]:
            lines += ["Paired differences of the mean NLL over seeds (negative: the first is better):", ""]
            lines += [f"- {_pair(pair)}" for pair in found["paired"]] + [""]
        lines += [f"![{picture}]({picture})" for picture in pictures if picture.startswith(f"{variant}-")] + [""]
    with written_whole(path) as file:
        file.write("\n".join(lines).encode())


_COLUMNS = (
    "model",
    "NLL",
    "median",
    "MSE",
    "CRPS",
    "coverage 90 %",
    "max NLL",
    "99.9 %",
    "spikes",
    "failed",
    "rank 1",
    "µs/step",
    "parameters",
    "chosen",
)
_SHOWN = ("model", "NLL", "MSE", "CRPS", "coverage 90 %", "max NLL", "rank 1", "µs/step")


def _rows(found: Mapping[str, Any]) -> list[list[str]]:
    models = found["models"]
    ordered = sorted(models, key=lambda name: (models[name]["nll"]["mean"] is None, models[name]["nll"]["mean"]))
    rows = []
    for name in ordered:
        one = models[name]
        error = one["nll"]["standard_error"]
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
                _text(one["microseconds_per_step"], 1),
                f"{one['parameters']:,}",
                " ".join(f"{key}={value:g}" for key, value in one["chosen"].items()) or "–",
            ]
        )
    return rows


def _pair(pair: Mapping[str, Any]) -> str:
    error = pair["standard_error"]
    spread = "" if error is None else f" ± {error:.4f}"
    won = sum(value < 0 for value in pair["per_seed"])
    return (
        f"{label(pair['better'])} less {label(pair['worse'])}: {_text(pair['difference'], 4, '+')}{spread}, "
        f"{won} of {len(pair['per_seed'])} seeds"
    )


def _text(value: float | None, digits: int = 4, sign: str = "") -> str:
    return "not finite" if value is None else f"{value:{sign}.{digits}f}"


def _per_seed(found: Found) -> np.ndarray:
    return np.nanmean(np.asarray(found.steps.nll, np.float64), axis=1)


def _load(variants: Mapping[str, Stream], entries: Mapping[str, Entry], folder: Path) -> Results:
    return {
        variant: {
            model: records.load(folder / "runs" / variant, model)[1]
            for model in entries
            if records.exists(folder / "runs" / variant, model)
        }
        for variant in variants
    }


def pick(models: Sequence[str] | None) -> dict[str, Entry]:
    """Models by name, in the order of the comparison.

    Raises:
        ValueError: an unknown name.
    """
    names = list(MODELS) if models is None else list(models)
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise ValueError(f"models: expected names of {', '.join(MODELS)}, got {', '.join(unknown)}")
    return {name: entry for name, entry in MODELS.items() if name in names}
