"""A page for each experiment, made of its results.json alone: tables, choices, paired differences, pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import standard_error, written_whole
from experiments.tables import label, short

_PICTURE = ("accuracy.png", "noise.png", "long.png", "rank.png", "means.png", "matrices.png")


def write_page(folder: Path, title: str) -> None:
    """Write ``folder/README.md`` from ``folder/results.json``."""
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    parts = [f"# {title}", "Every number, setting and version is in results.json.", _accuracy(content)]
    if any("curve" in method for method in content["methods"].values()):
        parts.append(_curve(content))
    parts += [_measures(content), _pairs(content), _chosen(content)]
    parts += [f"![{name}]({name})" for name in _PICTURE if (folder / name).exists()]
    seconds = ", ".join(f"{_names(name)} {value:.0f}" for name, value in content["seconds"].items())
    parts.append(f"Seconds: {seconds}.")
    with written_whole(folder / "README.md") as file:
        file.write(("\n\n".join(part for part in parts if part) + "\n").encode())


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """Markdown; the first columns hold words, the others numbers, aligned to the right."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _accuracy(content: Mapping[str, Any]) -> str:
    tasks = content["tasks"] if len(content["tasks"]) <= 10 else []
    rows = [
        [label(name), _percent(method["accuracy"])]
        + ["" if value is None else f"{100 * value:.1f}" for value in method["accuracy"]["per_task"][: len(tasks)]]
        for name, method in content["methods"].items()
    ]
    seeds = len(next(iter(content["methods"].values()))["accuracy"]["per_seed"])
    return f"Test accuracy, %, mean ± standard error over {seeds} seeds.\n\n" + table(["method", "mean", *tasks], rows)


def _curve(content: Mapping[str, Any]) -> str:
    methods = {name: method for name, method in content["methods"].items() if len(method["curve"]["tasks"]) > 1}
    tasks = next(iter(methods.values()))["curve"]["tasks"]
    rows = []
    for name, method in methods.items():
        seconds = sorted(method["seconds_per_task"][0])
        accuracy = [f"{100 * mean:.2f}" for mean in method["curve"]["mean"]]
        cost = f"{method['state_bytes'] / 1e6:.1f}", f"{method.get('update_seconds', 0):.2f}"
        rows.append([label(name), *accuracy, *cost, f"{seconds[len(seconds) // 2]:.1f}"])
    head = ["method", *(f"{task} tasks" for task in tasks), "MB", "update, s", "task, s"]
    text = "Accuracy averaged over the tasks so far, %; memory of the state, median seconds.\n\n" + table(head, rows)
    differences = [
        [f"{label(pair['better'])} – {label(pair['worse'])}"]
        + [
            _with_error(column.mean(), standard_error(column), "+.2f")
            for column in np.subtract(*(methods[pair[side]]["curve"]["per_seed"] for side in ("better", "worse"))).T
        ]
        for pair in content["paired"]
        if {pair["better"], pair["worse"]} <= set(methods)
    ]
    if not differences:
        return text
    return f"{text}\n\nTheir paired differences, points.\n\n" + table(["methods", *head[1:-3]], differences)


def _measures(content: Mapping[str, Any]) -> str:
    columns = {
        "NLL": ("nll", 1, ".3f"),
        "ECE, %": ("ece", 100, ".1f"),
        "current, %": ("current", 100, ".1f"),
        "backward": ("backward_transfer", 100, "+.1f"),
        "forward": ("forward_transfer", 100, "+.1f"),
        "forgetting": ("forgetting", 100, ".1f"),
    }
    rows = [
        [label(name)]
        + [f"{scale * method[key]['mean']:{form}}" if key in method else "" for key, scale, form in columns.values()]
        for name, method in content["methods"].items()
    ]
    return table(["method", *columns], rows)


def _pairs(content: Mapping[str, Any]) -> str:
    rows = []
    for pair in content["paired"]:
        seeds = pair["per_seed"]
        tasks = "all" if pair["tasks"] is None else ", ".join(content["tasks"][task] for task in pair["tasks"])
        points = _with_error(pair["difference"], pair["standard_error"], "+.1f")
        won = f"{sum(value > 0 for value in seeds)} of {len(seeds)}"
        names = f"{label(pair['better'])} – {label(pair['worse'])}"
        rows.append([names, tasks, points, won, "  ".join(f"{100 * value:+.1f}" for value in seeds)])
    if not rows:
        return ""
    return "Paired differences, points.\n\n" + table(["methods", "tasks", "mean", "won", "each seed"], rows, words=2)


def _chosen(content: Mapping[str, Any]) -> str:
    lines = [f"- {label(name)}: {short(method['chosen'])}" for name, method in content["methods"].items()]
    return "\n".join(["Chosen on validation images:", "", *lines])


def _names(joined: str) -> str:
    return ", ".join(label(name) for name in joined.split(", "))


def _percent(accuracy: Mapping[str, Any]) -> str:
    return _with_error(accuracy["mean"], accuracy["standard_error"], ".1f")


def _with_error(mean: float, error: float | None, form: str) -> str:
    """Both in percent."""
    return f"{100 * mean:{form}}" + ("" if error is None else f" ± {100 * error:{form.removeprefix('+')}}")
