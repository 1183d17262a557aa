"""Results as pictures for slides: PNG files, written whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle

from experiments.results import MethodResult, standard_error, written_whole
from experiments.tables import label

_DPI = 160
_INK, _GRID = "#222222", "#e6e6e6"
_TITLE, _TEXT, _SMALL = 17, 13, 11.5  # points


class _Style(NamedTuple):
    colour: str
    marker: str
    line: str = "-"


# Okabe and Ito's palette, without its yellow, which vanishes on white. The marker tells the methods apart a second
# time, for readers and projectors that show few colours. Baselines and references are dashed.
_STYLES = {
    "sequential": _Style("#8c8c8c", "s", "--"),
    "anchor": _Style("#cc79a7", "P", "--"),
    "ewc": _Style("#e69f00", "^", "--"),
    "filter_last": _Style("#56b4e9", "v"),
    "filter": _Style("#0072b2", "o"),
    "smoother": _Style("#d55e00", "D"),
    "forecast": _Style("#009e73", ">"),
    "interpolated": _Style("#7a5c3e", "X"),
    "layer": _Style("#009e73", "v"),
    "unit": _Style("#d55e00", "D"),
    "kronecker": _Style("#5e4fa2", "h"),
    "kronecker_filter_last": _Style("#9e97c8", "<"),
    "kronecker_filter": _Style("#5e4fa2", "p"),
    "kronecker_smoother": _Style("#7a5c3e", "h"),
    "osla": _Style("#009e73", "v", "--"),
    "osla_sum": _Style("#7a5c3e", "X", "--"),
    "kronecker_interpolated": _Style("#d55e00", "X"),
    "alone": _Style("#009e73", "X", "--"),
    "joint": _Style("#222222", "*", ":"),
}
_UNKNOWN = _Style("#5e4fa2", "h")


def accuracy_per_task(
    path: Path,
    tasks: Sequence[str],
    methods: Mapping[str, MethodResult],
    title: str,
    labels: Mapping[str, str] | None = None,
    examples: Float[np.ndarray, "T h w"] | None = None,
    *,
    x_label: str = "",
) -> None:
    """Draw each method's accuracy over the tasks, with one standard error over seeds shaded on both sides.

    Args:
        path: PNG file to write.
        tasks: names of the T tasks, along the x axis.
        methods: the result of each method.
        title: what the picture shows.
        labels: names to use instead of the usual ones of the methods.
        examples: one image in [0, 1] for each task, shown above its name.
        x_label: what the names of the tasks mean.
    """
    figure = Figure(figsize=(11, 6.6 if examples is None else 7.2))
    # Fixed margins, not a layout engine: the names of the methods stand in the right margin.
    figure.subplots_adjust(left=0.085, right=0.745, top=0.89, bottom=0.12 if examples is None else 0.235)
    axes = figure.add_subplot()
    ends: list[tuple[float, str, str]] = []
    for name, result in methods.items():
        style = _STYLES.get(name, _UNKNOWN)
        percent = 100 * np.asarray(result.accuracy)
        mean = percent.mean(axis=0)
        errors = [standard_error(column) for column in percent.T]
        error = np.array([0 if value is None else value for value in errors])
        positions = np.arange(len(tasks)) if result.scored is None else np.asarray(result.scored)
        axes.fill_between(positions, mean - error, mean + error, color=style.colour, alpha=0.16, linewidth=0)
        axes.plot(
            positions,
            mean,
            style.line,
            color=style.colour,
            marker=style.marker,
            markersize=11 if style.marker == "*" or result.scored is not None else 7.5,
            markeredgecolor="white",
            markeredgewidth=0.9,
            linewidth=2.4,
            zorder=3 if result.scored is None else 4,
        )
        if result.scored is None:
            ends.append((float(mean[-1]), _name(name, labels), style.colour))
        else:
            axes.annotate(
                _name(name, labels),
                (positions[-1], mean[-1]),
                xytext=(14, -34),
                textcoords="offset points",
                fontsize=_TEXT,
                color=_dark(style.colour),
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
                arrowprops={"arrowstyle": "-", "color": style.colour, "linewidth": 1.4, "shrinkB": 6},
                zorder=5,
            )
    axes.set_xlim(-0.25, len(tasks) - 0.75)
    axes.set_xticks(range(len(tasks)), list(tasks))
    axes.set_xlabel(x_label, fontsize=_TEXT, color=_INK, labelpad=8)
    axes.set_ylabel("test accuracy, %", fontsize=_TEXT, color=_INK)
    _plain_axes(axes, grid="y")
    _label_ends(figure, axes, ends)
    if examples is not None:
        _show_examples(axes, np.asarray(examples))
    _title(figure, title)
    _save(figure, path)


def accuracy_matrices(
    path: Path,
    tasks: Sequence[str],
    methods: Mapping[str, MethodResult],
    title: str = "Accuracy on each task after training on each task, %",
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw the matrix of each method that has one: rows the task just trained on, columns the task tested, in percent.

    The outlined diagonal is the task just learned; what lies left of it shows what is forgotten, right of it what is
    not seen yet.

    Raises:
        ValueError: no method has a matrix.
    """
    matrices = {
        name: 100 * np.asarray(result.matrix).mean(axis=0)
        for name, result in methods.items()
        if result.matrix is not None
    }
    if not matrices:
        raise ValueError(
            "expected at least one method with an accuracy matrix, but none has one; leave the picture out"
        )
    rows = -(-len(matrices) // 4)
    columns = -(-len(matrices) // rows)
    slanted = max(map(len, tasks)) > 4
    side, gap, between = max(0.58 * len(tasks), 2.3), 0.35, 1.15 if slanted else 0.9  # inches
    left, right, bottom, top = 1.35, 0.3, 1.1 if slanted else 0.85, 1.1
    width = left + columns * side + (columns - 1) * gap + right
    height = bottom + rows * side + (rows - 1) * between + top
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=gap / side,
        hspace=between / side,
    )
    lowest = min(matrix.min() for matrix in matrices.values())
    for cell, (name, matrix) in zip(grid.flat, matrices.items(), strict=False):
        # One scale for all methods, or their colours could not be compared; the numbers make a colour bar needless.
        cell.imshow(matrix, cmap="Blues", vmin=lowest - 5, vmax=105)
        for (row, column), value in np.ndenumerate(matrix):
            ink = "white" if value > (lowest + 110) / 2 else _INK  # the colour map is dark at high accuracies
            cell.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=_SMALL, color=ink)
        for task in range(len(tasks)):
            cell.axhline(task + 0.5, color="white", linewidth=1.5)
            cell.axvline(task + 0.5, color="white", linewidth=1.5)
            corner = (task - 0.5, task - 0.5)
            cell.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_INK, linewidth=1.8, clip_on=False, zorder=3))
        cell.set_title(_name(name, labels), fontsize=_TEXT, color=_INK, pad=10)
        cell.set_xticks(range(len(tasks)), list(tasks), rotation=35 if slanted else 0)
        cell.set_yticks(range(len(tasks)), list(tasks))
        cell.tick_params(length=0, labelsize=_SMALL, labelcolor=_INK)
        cell.spines[:].set_visible(False)
    for cell in grid.flat[len(matrices) :]:
        cell.set_visible(False)
    for cell in grid[:, 0]:
        cell.set_ylabel("after training on", fontsize=_TEXT, color=_INK, labelpad=8)
    for column in range(columns):
        lowest_cell = grid[(len(matrices) - 1 - column) // columns, column]
        lowest_cell.set_xlabel("accuracy on", fontsize=_TEXT, color=_INK, labelpad=6)
    _title(figure, title)
    _save(figure, path)


def means(
    path: Path,
    methods: Mapping[str, MethodResult],
    title: str,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw each method's accuracy averaged over tasks: every seed a small dot, their mean and standard error large.

    Methods that were scored on single tasks are left out.
    """
    methods = {name: result for name, result in methods.items() if result.scored is None}
    figure = Figure(figsize=(11, 1.6 + 0.54 * len(methods)), layout="constrained")
    axes = figure.add_subplot()
    percent = {name: 100 * np.asarray(result.accuracy).mean(axis=1) for name, result in methods.items()}
    ordered = sorted(percent, key=lambda name: percent[name].mean())
    for height, name in enumerate(ordered):
        style = _STYLES.get(name, _UNKNOWN)
        mean, error = percent[name].mean(), standard_error(percent[name])
        # Seeds below the mean's line: on it, its error bar would hide them.
        axes.plot(
            percent[name],
            np.full(len(percent[name]), height - 0.24),
            "o",
            color=style.colour,
            alpha=0.55,
            markersize=5,
            markeredgewidth=0,
        )
        axes.errorbar(
            mean,
            height,
            xerr=error,
            fmt=style.marker,
            color=style.colour,
            markersize=14 if style.marker == "*" else 10,
            elinewidth=3,
            markeredgecolor="white",
        )
        number = f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error:.1f}"
        axes.annotate(
            number,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=_TEXT,
            color=_dark(style.colour),
            annotation_clip=False,
        )
    axes.set_yticks(range(len(ordered)), [_name(name, labels) for name in ordered])
    axes.set_ylim(-0.6, len(ordered) - 0.5)
    axes.margins(x=0.04)
    axes.set_xlabel("mean test accuracy over all tasks, %", fontsize=_TEXT, color=_INK)
    _plain_axes(axes, grid="both")
    axes.spines["left"].set_visible(False)
    _title(figure, title)
    _save(figure, path)


def noise(
    path: Path,
    methods: Mapping[str, Mapping[float, Float[np.ndarray, " S"]]],
    title: str,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw accuracy against process noise, with one standard error over seeds."""
    figure = Figure(figsize=(11, 6))
    figure.subplots_adjust(left=0.085, right=0.745, top=0.89, bottom=0.13)
    axes = figure.add_subplot()
    ends, positions = [], []
    for name, per_noise in methods.items():
        style = _STYLES.get(name, _UNKNOWN)
        percent = [100 * np.asarray(values) for values in per_noise.values()]
        mean = np.array([values.mean() for values in percent])
        error = np.array([standard_error(values) or 0 for values in percent])
        positions = np.arange(len(mean))
        axes.fill_between(positions, mean - error, mean + error, color=style.colour, alpha=0.16, linewidth=0)
        axes.plot(positions, mean, style.line, color=style.colour, marker=style.marker, linewidth=2.4, markersize=7.5)
        axes.set_xticks(positions, [f"{value:g}" for value in per_noise])
        ends.append((float(mean[-1]), _name(name, labels), style.colour))
    axes.set_xlim(-0.25, len(positions) - 0.75)
    axes.set_xlabel("process noise q", fontsize=_TEXT, color=_INK)
    axes.set_ylabel("test accuracy, %", fontsize=_TEXT, color=_INK)
    _plain_axes(axes, grid="y")
    _label_ends(figure, axes, ends)
    _title(figure, title)
    _save(figure, path)


def against_cost(
    path: Path, methods: Mapping[str, MethodResult], cost: Mapping[str, Mapping[str, float]], title: str
) -> None:
    """Draw accuracy against the rank, the memory and the seconds of an update, with one standard error over seeds."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    percent = [100 * np.asarray(methods[name].accuracy).mean(axis=1) for name in cost]
    mean, error = [values.mean() for values in percent], [standard_error(values) or 0 for values in percent]
    quantities = {
        "directions kept": [cost[name]["rank"] for name in cost],
        "memory of a belief's precision, MB": [cost[name]["state_bytes"] / 1e6 for name in cost],
        "seconds of an update": [cost[name]["update_seconds"] for name in cost],
    }
    for axes, (meaning, values) in zip(figure.subplots(1, 3, sharey=True), quantities.items(), strict=True):
        axes.errorbar(values, mean, yerr=error, fmt="o-", color=_STYLES["filter"].colour, linewidth=2.4, markersize=7.5)
        axes.set_xscale("symlog" if min(values) == 0 else "log", **({"linthresh": 1} if min(values) == 0 else {}))
        axes.set_xlabel(meaning, fontsize=_TEXT, color=_INK)
        _plain_axes(axes, grid="both")
    figure.axes[0].set_ylabel("test accuracy, %", fontsize=_TEXT, color=_INK)
    _title(figure, title)
    _save(figure, path)


def curves(
    path: Path, methods: Mapping[str, MethodResult], title: str, labels: Mapping[str, str] | None = None
) -> None:
    """Draw accuracy averaged over the tasks so far, and seconds of each task, against the number of tasks.

    A result's ``extra`` has ``curve`` (tasks, mean) and ``seconds_per_task``; what learns all tasks at once is a point.
    """
    figure = Figure(figsize=(11, 8.4))
    figure.subplots_adjust(left=0.085, right=0.745, top=0.92, bottom=0.08, hspace=0.28)
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    ends: dict[Any, list[tuple[float, str, str]]] = {above: [], below: []}
    for name, result in methods.items():
        style, extra = _STYLES.get(name, _UNKNOWN), result.extra or {}
        tasks, mean = extra["curve"]["tasks"], 100 * np.asarray(extra["curve"]["mean"])
        look = {"color": style.colour, "linewidth": 2.4, "linestyle": style.line}
        above.plot(tasks, mean, marker=style.marker, markersize=7.5, markeredgecolor="white", **look)
        ends[above].append((float(mean[-1]), f"{_name(name, labels)}  {mean[-1]:.1f}", style.colour))
        seconds = np.mean(extra["seconds_per_task"], axis=0)
        if len(seconds) > 1:
            below.plot(np.arange(2, len(seconds) + 1), seconds[1:], **look)  # the first task is compiled
            ends[below].append((float(seconds[-1]), _name(name, labels), style.colour))
    # Pauses of the machine are no property of a method: what lies far above the median is cut off.
    median = max(float(np.median(result.extra["seconds_per_task"])) for result in methods.values() if result.extra)
    below.set_ylim(0, 3 * median)
    for axes, y_label in ((above, "mean test accuracy so far, %"), (below, "seconds a task")):
        axes.set_ylabel(y_label, fontsize=_TEXT, color=_INK)
        axes.set_xlim(0, max(max(result.extra["curve"]["tasks"]) for result in methods.values() if result.extra) + 1)
        _plain_axes(axes, grid="y")
        _label_ends(figure, axes, ends[axes])
    below.set_xlabel("tasks", fontsize=_TEXT, color=_INK)
    _title(figure, title)
    _save(figure, path)


def log_lines(path: Path, x: str, y: str, panels: Mapping[str, Mapping[str, tuple[Sequence[float], Any]]]) -> None:
    """Draw named lines on logarithmic axes, one panel beside the other; what is not finite is left out of a line."""
    figure = Figure(figsize=(6 * len(panels), 5), layout="constrained")
    for axes, (title, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        for name, (places, values) in lines.items():
            axes.plot(places, values, "o-", linewidth=2.4, markersize=7.5, label=name)
        axes.set(xscale="log", yscale="log", title=title)
        axes.set_xlabel(x, fontsize=_TEXT, color=_INK)
        _plain_axes(axes, grid="both")
    figure.axes[0].set_ylabel(y, fontsize=_TEXT, color=_INK)
    figure.axes[0].legend(frameon=False, fontsize=_TEXT)
    _save(figure, path)


def _name(method: str, labels: Mapping[str, str] | None) -> str:
    return (labels or {}).get(method, label(method))


def _dark(colour: str) -> tuple[float, ...]:
    """Return a darker shade: letters are thinner than lines, and light ones are hard to read on white."""
    return tuple(0.78 * channel for channel in to_rgb(colour))


def _plain_axes(axes: Axes, grid: Literal["y", "both"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.grid(axis=grid, color=_GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=_TEXT, labelcolor=_INK, pad=6)


def _label_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name and mean right of its end, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    inches = axes.get_position().height * figure.get_figheight()
    step = 1.45 * _TEXT / 72 * (high - low) / inches
    heights = _apart([value for value, _, _ in ends], step, low, high)
    for (value, text, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            text,
            (axes.get_xlim()[1] - 0.25, value),
            xytext=(1.035, height),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=_TEXT,
            color=_dark(colour),
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.6,
                "linewidth": 1,
                "shrinkA": 1,
                "shrinkB": 6,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def _apart(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Return heights near the wanted ones, in the same order, at least ``step`` apart and within [low, high]."""
    order = np.argsort(wanted)
    heights = np.array(wanted, float)[order]
    for _ in range(200):  # relaxation: neighbours that are too close share the push
        gaps = np.diff(heights)
        push = np.clip(step - gaps, 0, None) / 2
        if push.max(initial=0) < 0.01 * step:
            break
        heights[:-1] -= push
        heights[1:] += push
    if len(heights):
        heights += max(low - heights[0], 0) - max(heights[-1] - high, 0)
    placed = np.empty_like(heights)
    placed[order] = heights
    return placed.tolist()


def _show_examples(axes: Axes, examples: Float[np.ndarray, "T h w"]) -> None:
    """Show one image under each tick, between the axis and the task's name."""
    side = min(52.0, 400.0 / len(examples))  # points
    for position, image in enumerate(examples):
        thumbnail = OffsetImage(1 - image, zoom=side / image.shape[0], cmap="gray", interpolation="nearest")
        thumbnail.image.set_clim(0, 1)
        axes.add_artist(
            AnnotationBbox(
                thumbnail,
                (position, 0),
                xybox=(0, -10),
                xycoords=("data", "axes fraction"),
                boxcoords="offset points",
                box_alignment=(0.5, 1),
                frameon=False,
                annotation_clip=False,
            )
        )
    axes.tick_params(axis="x", pad=side + 16)


def _title(figure: Figure, title: str) -> None:
    """Write the title at the upper left, the same distance from both edges in every picture."""
    width, height = figure.get_size_inches()
    figure.text(0.22 / width, 1 - 0.22 / height, title, fontsize=_TITLE, color=_INK, weight="bold", va="top")
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        left, right, bottom, top = 0.15 / width, 0.15 / width, 0.1 / height, 0.7 / height
        engine.set(rect=(left, bottom, 1 - left - right, 1 - bottom - top))


def _save(figure: Figure, path: Path) -> None:
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=_DPI, facecolor="white")
