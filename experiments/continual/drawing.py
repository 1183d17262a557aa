"""Pictures of methods on a sequence of tasks, made of results.json."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle

from experiments.run import pictures, results
from experiments.run.labels import label

_ACCURACY = "test accuracy, %"


def frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """Accuracy in percent by method, task and seed; without a task, the mean over tasks."""
    found = results.frame(content)
    found = found[found["metric"] == "accuracy"].dropna(subset="value")
    return found.rename(columns={"method": "name"}).assign(**{_ACCURACY: 100 * found["value"].astype(float)})


def pictures_of(content: Mapping[str, Any]) -> dict[str, Callable[[], Figure]]:
    """Means over tasks, and the matrices of accuracies."""
    return {"means": lambda: means(content), "matrices": lambda: matrices(content)}


def single(content: Mapping[str, Any]) -> dict[str, int]:
    """The methods that were scored on one task alone, and that task."""
    tasks = {name: found["accuracy"]["per_task"] for name, found in content["methods"].items()}
    return {
        name: next(place for place, value in enumerate(values) if value is not None)
        for name, values in tasks.items()
        if sum(value is not None for value in values) == 1 < len(values)
    }


def accuracy(
    content: Mapping[str, Any],
    title: str,
    examples: np.ndarray | None = None,
    leave_out: Sequence[str] = (),
) -> Figure:
    """Each method's accuracy over the tasks, with one standard error over seeds; single tasks are points.

    Args:
        content: of results.json.
        title: what the picture shows.
        examples: one image in [0, 1] for each task, shown above its name.
        leave_out: methods that are not shown.
    """
    found, alone = frame(content), single(content)
    found = found[found["task"].notna() & ~found["name"].isin(leave_out)]
    along = found[~found["name"].isin(alone)].assign(task=lambda rows: rows["task"].map(content["tasks"].index))
    figure = Figure(figsize=(11, 7.2))
    # Fixed margins, not a layout engine: the names of the methods stand in the right margin.
    figure.subplots_adjust(left=0.085, right=0.745, top=0.89, bottom=0.12 if examples is None else 0.235)
    figure.suptitle(title, x=0.02, ha="left", weight="bold", fontsize=16)
    axes = figure.add_subplot()
    axes.set_xlim(-0.25, len(content["tasks"]) - 0.75)
    pictures.lines(axes, along, "task", _ACCURACY)
    points = {}
    for name in found["name"].unique():
        if name in alone:
            values = found[found["name"] == name][_ACCURACY]
            look = pictures.styles([name])[name]
            error = values.sem() if len(values) > 1 else None
            axes.errorbar(
                alone[name],
                values.mean(),
                yerr=error,
                fmt=look.marker,
                color=look.colour,
                markersize=11,
                markeredgecolor="white",
                zorder=5,
            )
            points[name] = (alone[name], values.mean())
    axes.set_xticks(range(len(content["tasks"])), content["tasks"])
    axes.grid(visible=False, axis="x")
    if points:
        pictures.name_points(axes, points)
    if examples is not None:
        _show(axes, examples)
    return figure


def _show(axes: Axes, examples: np.ndarray) -> None:
    """Show one image under each tick, between the axis and the task's name."""
    side = min(52.0, 400.0 / len(examples))  # points
    for position, image in enumerate(examples):
        thumbnail = OffsetImage(1 - image, zoom=side / image.shape[0], cmap="gray", interpolation="nearest")
        thumbnail.image.set_clim(0, 1)
        place = {"xycoords": ("data", "axes fraction"), "boxcoords": "offset points", "box_alignment": (0.5, 1)}
        axes.add_artist(
            AnnotationBbox(thumbnail, (position, 0), xybox=(0, -10), frameon=False, annotation_clip=False, **place)
        )
    axes.tick_params(axis="x", pad=side + 16)


def matrices(content: Mapping[str, Any]) -> Figure:
    """The accuracy on each task (columns) after training on each (rows), in percent, of each method that has them.

    The outlined diagonal is the task just learned; left of it stands what is forgotten, right of it what is not seen
    yet. A task that a method never trained on is hatched.
    """
    unseen = single(content)
    found = {
        name: 100 * np.asarray(method["accuracy"]["matrix"])
        for name, method in content["methods"].items()
        if method["accuracy"]["matrix"] is not None and f"{name}_last" not in content["methods"]
    }
    tasks, rows = content["tasks"], -(-len(found) // 4)
    columns, slanted = -(-len(found) // rows), max(map(len, tasks)) > 4
    side = max(0.58 * len(tasks), 2.3)  # inches
    title = "Accuracy on each task after training on each task, %"
    size = (1.6 + columns * (side + 0.35), 1.2 + rows * (side + 1.1))
    figure, grid = pictures.figure(title, rows, columns, size, squeeze=False, sharey=True)
    lowest = min(matrix.min() for matrix in found.values())
    for cell, (name, matrix) in zip(grid.flat, found.items(), strict=False):
        # One scale for all methods, or their colours could not be compared; the numbers make a colour bar needless.
        shades = {"cmap": "Blues", "vmin": lowest - 5, "vmax": 105, "cbar": False, "square": True}
        sns.heatmap(
            matrix, annot=len(tasks) <= 10, fmt=".0f", linewidths=1.5, annot_kws={"size": 11}, ax=cell, **shades
        )
        for task in range(len(tasks)):
            never = unseen.get(name) == task
            look: Any = (
                {"hatch": "///", "edgecolor": "#999999"} if never else {"edgecolor": pictures.INK, "linewidth": 1.8}
            )
            cell.add_patch(Rectangle((task, task), 1, 1, fill=False, clip_on=False, zorder=3, **look))
        cell.set_title(label(name) + (" (hatched)" if name in unseen else ""), loc="center", fontsize=13)
        cell.set_xticks(np.arange(len(tasks)) + 0.5, tasks, rotation=35 if slanted else 0)
        cell.set_yticks(np.arange(len(tasks)) + 0.5, tasks, rotation=0)
        cell.set_xlabel("accuracy on")
    for cell in grid.flat[len(found) :]:
        cell.set_visible(False)
    for cell in grid[:, 0]:
        cell.set_ylabel("after training on")
    return figure


def means(content: Mapping[str, Any]) -> Figure:
    """Each method's accuracy averaged over tasks; those scored on a single task are left out."""
    found = frame(content)
    found = found[found["task"].isna() & ~found["name"].isin(single(content))]
    count = found["name"].nunique()
    figure, axes = pictures.figure(content["title"], size=(11, 1.6 + 0.5 * count))
    pictures.dots(axes, found, _ACCURACY)
    axes.set_xlabel("mean test accuracy over all tasks, %")
    return figure


def noise(methods: Mapping[str, Mapping[float, np.ndarray]], title: str) -> Figure:
    """Accuracy in each seed against process noise, of each method."""
    x = "process noise q"
    rows = [(name, q, 100 * value) for name, found in methods.items() for q in found for value in found[q]]
    found = pd.DataFrame(rows, columns=["name", x, _ACCURACY]).sort_values(x, kind="stable")
    values = list(found[x].unique())
    figure = Figure(figsize=(11, 6))
    figure.subplots_adjust(left=0.085, right=0.745, top=0.89, bottom=0.13)
    figure.suptitle(title, x=0.02, ha="left", weight="bold", fontsize=16)
    axes = figure.add_subplot()
    pictures.lines(axes, found.assign(**{x: found[x].map(values.index)}), x, _ACCURACY)
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    return figure


def against_cost(content: Mapping[str, Any], title: str) -> Figure:
    """Accuracy against the rank, the memory and the seconds of an update, with one standard error over seeds."""
    found, cost = frame(content), content["cost"]
    found = found[found["task"].isna()]
    quantities = {
        "directions kept": "rank",
        "memory of the precision, MB": "state_bytes",
        "seconds of an update": "update_seconds",
    }
    figure, panels = pictures.figure(title, 1, 3, (13, 5), sharey=True)
    for axes, (meaning, name) in zip(panels, quantities.items(), strict=True):
        values = {method: one[name] / (1e6 if name == "state_bytes" else 1) for method, one in cost.items()}
        one = found.assign(**{meaning: found["name"].map(values)}).assign(name="filter")
        axes.set_xscale("symlog", linthresh=1) if min(values.values()) == 0 else axes.set_xscale("log")
        pictures.lines(axes, one, meaning, _ACCURACY, named=False)
    return figure


def curves(content: Mapping[str, Any], title: str) -> Figure:
    """Accuracy averaged over the tasks so far, and seconds of each task, against the number of tasks.

    What learns all tasks at once is a point.
    """
    accuracy, seconds = [], []
    for name, found in content["methods"].items():
        for row in found["curve"]["per_seed"]:
            accuracy += [(name, t, 100 * value) for t, value in zip(found["curve"]["tasks"], row, strict=True)]
        for row in found["seconds_per_task"]:
            seconds += [(name, t + 1, value) for t, value in enumerate(row) if t > 0]  # the first task is compiled
    figure = Figure(figsize=(11, 8.4))
    figure.subplots_adjust(left=0.085, right=0.72, top=0.92, bottom=0.08, hspace=0.28)
    figure.suptitle(title, x=0.02, ha="left", weight="bold", fontsize=16)
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    y = "mean test accuracy so far, %", "seconds a task"
    for axes, rows, name in ((above, accuracy, y[0]), (below, seconds, y[1])):
        if rows:
            one = pd.DataFrame(rows, columns=["name", "tasks", name])
            axes.set_xlim(0, max(row[1] for row in accuracy) + 1)
            # Pauses of the machine are no property of a method: what lies far above the median is cut off.
            if axes is below:
                axes.set_ylim(0, 3 * one.groupby("name")[name].median().max())
            pictures.lines(axes, one, "tasks", name, marks=axes is above)
    return figure
