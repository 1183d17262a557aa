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
        if method["accuracy"]["matrix"] is not None and name != "filter"
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
            look = {"hatch": "///", "edgecolor": "#999999"} if never else {"edgecolor": pictures.INK, "linewidth": 1.8}
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
