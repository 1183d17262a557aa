"""All models on one stream or several variants of it: run, save, compare, write."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from experiments import pages
from experiments.claim import claimed
from experiments.results import versions, write, written_whole
from experiments.streams import pictures, records, scores, study
from experiments.streams.models import LABELS, LT, MODELS, Entry
from experiments.streams.protocol import Stream
from experiments.streams.study import Budget, Choice, Found

PAIRS = tuple(
    (ours, theirs) for ours in ("lt_structured", "lt_unstructured") for theirs in ("vrnn", "dssm", "gru", "gru_mixture")
)
"""Models compared seed by seed, where no others are named."""
Results = dict[str, dict[str, Found]]


def report(
    name: str,
    introduction: str,
    variants: Mapping[str, Stream],
    entries: Mapping[str, Entry],
    budget: Budget,
    output: Path,
    console: Console,
    **options: Any,
) -> dict[str, Any]:
    """:func:`run`, then draw, and write and print the tables; returns what ``results.json`` holds."""
    content, found = run(name, variants, entries, budget, output, console, **options)
    folder, drawn = output / name, []
    for variant, models in found.items():
        drawn += pictures.draw(folder, variant, variants[variant], models)
    write_report(folder / "README.md", content, introduction, drawn)
    print_tables(console, content)
    console.print(f"Results and pictures are in [bold]{folder}[/bold].")
    return content


def run(
    name: str,
    variants: Mapping[str, Stream],
    entries: Mapping[str, Entry],
    budget: Budget,
    output: Path,
    console: Console,
    *,
    budgets: Mapping[str, Budget] | None = None,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    timed: bool = True,
    resume: bool = True,
) -> tuple[dict[str, Any], Results]:
    """Run what is not there yet, variant by variant for each model, and write ``output/NAME/results.json`` after each.

    Of a grid that was widened since, only what is new is tried, and models train again whose choice changes.
    ``budgets`` holds the models that are given another budget than the rest, ``pairs`` those compared seed by seed;
    ``timed`` is whether all models are timed, side by side, at the end; without ``resume`` what is there is removed.

    Raises:
        RuntimeError: another run is at work in the folder.
        SettingsChangedError: the folder holds results of other settings.
    """
    folder = output / name
    budgets = budgets or {}
    grid = ("learning_rates", "predictives")
    fixed = {"budget": {key: value for key, value in budget._asdict().items() if key not in grid}, "latent": vars(LT)}
    settings = fixed | {"grid": {key: getattr(budget, key) for key in grid}}
    with claimed(folder / "runs", fixed, resume=resume):
        return _run(name, variants, entries, budget, output, console, settings, budgets, pairs, timed)


def _run(
    name: str,
    variants: Mapping[str, Stream],
    entries: Mapping[str, Entry],
    budget: Budget,
    output: Path,
    console: Console,
    settings: Mapping[str, Any],
    budgets: Mapping[str, Budget],
    pairs: Sequence[tuple[str, str]],
    timed: bool,
) -> tuple[dict[str, Any], Results]:
    folder = output / name
    for model, entry in entries.items():
        for variant, stream in variants.items():
            place = folder / "runs" / variant
            with console.status(f"{variant}: {label(model)}"):
                found = _one(place, model, entry, stream, budgets.get(model, budget))
            if found is None:
                continue
            mean = _text(scores.summary(found.steps, stream.test.mask)["nll"]["mean"])
            console.print(f"{variant:>9}  {label(model):<30} {mean}   {found.info['seconds']:.0f} s", highlight=False)
            write(collect(name, variants, entries, folder, settings, pairs), output)
    for variant, stream in variants.items():
        place = folder / "runs" / variant
        if timed and set(entries) - set(records.noted(place, _TIMES, {})):
            there = {model: entry for model, entry in {**MODELS, **entries}.items() if records.exists(place, model)}
            samples = {model: budgets.get(model, budget).samples for model in there}
            records.note(place, _TIMES, study.microseconds(there, stream, samples))
    content = collect(name, variants, entries, folder, settings, pairs)
    write(content, output)
    return content, _load(variants, entries, folder)


_TIMES = "microseconds"


def _one(place: Path, model: str, entry: Entry, stream: Stream, budget: Budget) -> Found | None:
    """Choose and run one model; None if that is there already. Each trial is saved when it is done, and as it goes."""
    tried = records.noted(place, f"{model}.tried", [])
    training = place / f"{model}.training"

    def best(part: Budget) -> Choice:
        grid = study.choices(entry, part)
        for choice in grid if len(grid) > 1 else []:
            if not any(choice.items() <= one.items() for one in tried):
                nll = study.attempt(entry, stream, budget, choice, training / f"tried {_choice(choice)}")
                tried.append(choice | {"nll": nll})
                records.note(place, f"{model}.tried", tried)
                shutil.rmtree(training, ignore_errors=True)
        return study.best(tried, grid)

    search: Budget | None = budget._replace(predictives=budget.predictives[:1])
    chosen = best(search)
    while (search := study.wider(search, chosen)) is not None:
        chosen = best(search)
    if entry.trained:
        chosen = best(budget._replace(learning_rates=(chosen["learning_rate"],)))
    if records.exists(place, model) and records.noted(place, model, {})["chosen"] == chosen:
        return None
    found = study.run(entry, stream, budget, chosen, training / f"chosen {_choice(chosen)}")
    records.save(place, model, found)
    shutil.rmtree(training, ignore_errors=True)
    return found


def collect(
    name: str,
    variants: Mapping[str, Stream],
    entries: Mapping[str, Entry],
    folder: Path,
    settings: Mapping[str, Any],
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> dict[str, Any]:
    """What ``results.json`` holds: every model that is there, and the differences between them."""
    found: dict[str, Any] = {}
    for variant, stream in variants.items():
        place = folder / "runs" / variant
        # What an earlier call with other models left stays in the table.
        names = dict.fromkeys([*MODELS, *entries])
        loaded = {
            model: records.load(place, model, stream.test.mask) for model in names if records.exists(place, model)
        }
        share = scores.rank_one({model: one.steps.nll for model, (_, one) in loaded.items()}) if loaded else {}
        times = records.noted(place, _TIMES, {})
        found[variant] = {
            "models": {
                model: summary
                | {
                    "rank1": share[model],
                    "microseconds_per_step": times.get(model),
                    "validation": records.noted(place, f"{model}.tried", []),
                }
                for model, (summary, _) in loaded.items()
            },
            "paired": [
                {"better": ours, "worse": theirs}
                | scores.paired(*(loaded[model][0]["nll"]["per_seed"] for model in (ours, theirs)))
                for ours, theirs in pairs
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
        lines += [f"## {variant}: {found['target']}", "", pages.table(_COLUMNS, _rows(found)), ""]
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
                "–" if one["microseconds_per_step"] is None else _text(one["microseconds_per_step"], 1),
                f"{one['parameters']:,}",
                _choice(one["chosen"]) or "–",
            ]
        )
    return rows


def _choice(choice: Mapping[str, float]) -> str:
    return " ".join(f"{key}={value:g}" for key, value in choice.items())


def _pair(pair: Mapping[str, Any]) -> str:
    error = pair["standard_error"]
    spread = "" if error is None else f" ± {error:.4f}"
    won = sum(value is not None and value < 0 for value in pair["per_seed"])
    return (
        f"{label(pair['better'])} less {label(pair['worse'])}: {_text(pair['difference'], 4, '+')}{spread}, "
        f"{won} of {len(pair['per_seed'])} seeds"
    )


def _text(value: float | None, digits: int = 4, sign: str = "") -> str:
    return "not finite" if value is None else f"{value:{sign}.{digits}f}"


def _load(variants: Mapping[str, Stream], entries: Mapping[str, Entry], folder: Path) -> Results:
    return {
        variant: {
            model: records.load(folder / "runs" / variant, model, stream.test.mask)[1]
            for model in entries
            if records.exists(folder / "runs" / variant, model)
        }
        for variant, stream in variants.items()
    }


def pick(models: Sequence[str] | None) -> dict[str, Entry]:
    """Models by name; all of them if none is named.

    Raises:
        ValueError: an unknown name.
    """
    names = list(MODELS) if models is None else list(models)
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise ValueError(f"models: expected names of {', '.join(MODELS)}, got {', '.join(unknown)}")
    return {name: MODELS[name] for name in names}
