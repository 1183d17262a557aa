"""One style for all pictures: seaborn's, names at the ends of lines, units on axes, no name over a line."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

import adjustText
import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from PIL import Image

from experiments.run.labels import label

INK = "#222222"
RC: Any = {
    **sns.axes_style("whitegrid"),
    **sns.plotting_context("notebook", font_scale=1.15),
    **{"axes.edgecolor": "#bbbbbb", "grid.color": "#e6e6e6", "axes.labelcolor": INK, "text.color": INK},
    **{"axes.titlelocation": "left", "figure.constrained_layout.use": False, "figure.facecolor": "white"},
    **{"axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.2, "lines.markersize": 7.5},
}


class Style(NamedTuple):
    """How one method is drawn; baselines and references are dashed."""

    colour: str
    marker: str
    dashes: Any = ""


_DASHED, _DOTTED = (4, 2), (1, 1.5)
# Okabe and Ito's palette, without its yellow, which vanishes on white. The marker tells the methods apart a second
# time, for readers and projectors that show few colours.
_GREY, _PINK, _AMBER, _SKY, _BLUE, _RED, _GREEN, _BROWN, _VIOLET, _LILAC = (
    *("#8c8c8c", "#cc79a7", "#e69f00", "#56b4e9", "#0072b2", "#d55e00", "#009e73", "#7a5c3e", "#5e4fa2", "#9e97c8"),
)
STYLES = {
    "sequential": Style(_GREY, "s", _DASHED),
    "anchor": Style(_PINK, "P", _DASHED),
    "ewc": Style(_AMBER, "^", _DASHED),
    "filter_last": Style(_SKY, "v"),
    "filter": Style(_BLUE, "o"),
    "smoother": Style(_RED, "D"),
    "forecast": Style(_GREEN, ">"),
    "interpolated": Style(_BROWN, "X"),
    "layer": Style(_GREEN, "v"),
    "unit": Style(_RED, "D"),
    "kronecker": Style(_VIOLET, "h"),
    "kronecker_filter_last": Style(_LILAC, "<"),
    "kronecker_filter": Style(_VIOLET, "p"),
    "kronecker_smoother": Style(_BROWN, "h"),
    "osla": Style(_GREEN, "v", _DASHED),
    "osla_sum": Style(_BROWN, "X", _DASHED),
    "kronecker_interpolated": Style(_RED, "X"),
    "alone": Style(_GREEN, "X", _DASHED),
    "joint": Style(INK, "*", _DOTTED),
    "lt_structured": Style(_RED, "o"),
    "lt_unstructured": Style(_AMBER, "s"),
    "lt_adapted": Style(_VIOLET, "D"),
    "latent_input": Style(_AMBER, "s", _DASHED),
    "gru_32": Style(_SKY, "v", _DASHED),
    "gru_32_adapted": Style(_SKY, "v"),
    "kalman": Style(_GREY, "X", _DOTTED),
    "vrnn": Style(_BLUE, "^", _DASHED),
    "gru": Style(_GREEN, "v", _DASHED),
    "dssm": Style(_PINK, "P", _DASHED),
    "mlp": Style(_GREY, "X", _DASHED),
    "bbb": Style(_BROWN, "D", _DOTTED),
    "filter_default": Style(_BLUE, "o"),
    "filter_chosen": Style(_RED, "D"),
    "filter_gaussian": Style(_SKY, "p"),
    "filter_dense_head": Style(_VIOLET, "h"),
    "filter_low_head": Style(_LILAC, "<"),
    "lofi_stream": Style(_PINK, "P", _DASHED),
    "lrkf": Style(_GREEN, "v", _DASHED),
    "hilofi": Style(_AMBER, "^", _DASHED),
    "lolofi": Style(_BROWN, "X", _DASHED),
    "adamw": Style(_GREY, "s", _DOTTED),
    "muon": Style(INK, "*", _DOTTED),
}
_OTHERS = (Style(_BLUE, "o"), Style(_AMBER, "s"), Style(_GREEN, "v"), Style(_PINK, "P"), Style(_VIOLET, "h"))


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name; those without one of their own take turns."""
    unknown = [name for name in names if name not in STYLES]
    return {name: STYLES.get(name) or _OTHERS[unknown.index(name) % len(_OTHERS)] for name in names}


def save(draw: Callable[[], Figure], file: IO[bytes]) -> None:
    """Draw in this style and write a PNG of 256 colours, a third of its size with all of them."""
    whole = io.BytesIO()
    with matplotlib.rc_context(RC):
        draw().savefig(whole, format="png", dpi=120)
    Image.open(whole).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)


def figure(title: str, rows: int = 1, columns: int = 1, size: tuple[float, float] = (11, 6), **options: Any) -> Any:
    """A figure with its title at the upper left, and its axes."""
    made = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    made.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=16)
    return made, made.subplots(rows, columns, **options)


def lines(axes: Axes, frame: pd.DataFrame, x: str, y: str, *, marks: bool = True, named: bool = True) -> None:
    """Draw one line for each ``name`` of a frame, the mean over its seeds with one standard error shaded.

    Args:
        axes: to draw into.
        frame: columns ``name`` and those of the axes; a row for each seed.
        x: the column along the x axis, whose name is the axis' label; where it is text, its values in order.
        y: the column along the y axis.
        marks: whether points are marked.
        named: whether the names stand at the lines' ends.
    """
    names = list(frame["name"].unique())
    look = styles(names)
    sns.lineplot(
        frame,
        x=x,
        y=y,
        hue="name",
        style="name",
        palette={name: look[name].colour for name in names},
        dashes={name: look[name].dashes for name in names},
        markers={name: look[name].marker for name in names} if marks else False,
        errorbar="se",
        err_kws={"linewidth": 0, "alpha": 0.16},
        legend=False,
        ax=axes,
    )
    if named:
        means = frame.groupby(["name", x], sort=False)[y].mean()
        name_ends(axes, {name: float(means[name].iloc[-1]) for name in names})


def name_ends(axes: Axes, ends: Mapping[str, float]) -> None:
    """Write each line's name right of its end, apart from the others, with a thin line to the end."""
    look = styles(list(ends))
    # Apart in the picture, not in the data: an axis may be logarithmic.
    places = {
        name: float(axes.transAxes.inverted().transform(axes.transData.transform((1, y)))[1])
        for name, y in ends.items()
    }
    made: Any = axes.get_figure(root=True)
    step = 1.5 * 11.5 / 72 / (axes.get_position().height * made.get_figheight())
    heights = _apart(list(places.values()), step)
    for (name, end), height in zip(places.items(), heights, strict=True):
        axes.annotate(
            label(name),
            (1, end),
            xytext=(1.035, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=_dark(look[name].colour),
            arrowprops={"arrowstyle": "-", "color": look[name].colour, "alpha": 0.6, "relpos": (0, 0.5), "shrinkB": 2},
            annotation_clip=False,
        )


def _apart(wanted: Sequence[float], step: float) -> list[float]:
    """Heights near the wanted ones, in the same order, at least ``step`` apart."""
    order = np.argsort(wanted, kind="stable")
    heights = np.asarray(wanted, float)[order]
    for _ in range(200):  # relaxation: neighbours that are too close share the push
        push = np.clip(step - np.diff(heights), 0, None) / 2
        heights[:-1] -= push
        heights[1:] += push
    placed = np.empty_like(heights)
    placed[order] = heights
    return placed.tolist()


_APART: Mapping[str, Any] = {
    **{"expand": (1.05, 1.35), "force_static": (0.3, 0.8), "force_explode": (0.05, 0.2), "force_pull": (0.02, 0.02)},
    **{"max_move": 20, "iter_lim": 400},
}


def name_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write a name beside each point, where it hides neither lines nor points."""
    look = styles(list(points))
    dense = []
    for line in axes.lines:
        places = np.linspace(0, len(xy := np.asarray(line.get_xydata())) - 1, 60)
        dense += [[np.interp(places, np.arange(len(xy)), xy[:, side]) for side in (0, 1)]] if len(xy) else []
    texts = [axes.text(*point, label(name), color=_dark(look[name].colour), zorder=6) for name, point in points.items()]
    x, y = (np.concatenate([part[i] for part in dense]) for i in (0, 1))
    arrow = {"arrowstyle": "-", "color": "#888888", "shrinkB": 5}
    adjustText.adjust_text(texts, x=x, y=y, ax=axes, arrowprops=arrow, **_APART)


def dots(axes: Axes, frame: pd.DataFrame, x: str) -> None:
    """Draw every seed of each ``name`` as a small dot, their mean and standard error large, the best on top."""
    ordered = list(frame.groupby("name")[x].mean().sort_values(ascending=False).index)
    look = styles(ordered)
    palette = {name: look[name].colour for name in ordered}
    sns.stripplot(
        frame,
        x=x,
        y="name",
        order=ordered,
        hue="name",
        palette=palette,
        alpha=0.5,
        size=4.5,
        jitter=False,
        legend=False,
        ax=axes,
    )
    for height, name in enumerate(ordered):
        values = frame[frame["name"] == name][x]
        error = values.sem() if len(values) > 1 else None
        axes.errorbar(
            values.mean(),
            height,
            xerr=error,
            fmt=look[name].marker,
            color=palette[name],
            markersize=10,
            elinewidth=3,
            markeredgecolor="white",
        )
        text = f"{values.mean():.1f}" + ("" if error is None else f" ± {error:.1f}")
        axes.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            color=_dark(palette[name]),
        )
    axes.set_yticks(range(len(ordered)), [label(name) for name in ordered])
    axes.set_ylabel("")


def logarithmic(frames: Mapping[str, pd.DataFrame], title: str, x: str, y: str) -> Figure:
    """Lines on logarithmic axes, one panel beside the other; the names stand right of the last."""
    made, panels = figure(title, 1, len(frames), (6 * len(frames) + 2, 5), sharey=True, squeeze=False)
    for axes, (name, frame) in zip(panels[0], frames.items(), strict=True):
        axes.set(xscale="log", yscale="log", title=name)
        lines(axes, frame.dropna(), x, y, named=False)
        axes.set_xticks(sorted(frame[x].unique()), [f"{value:g}" for value in sorted(frame[x].unique())], minor=False)
        axes.minorticks_off()
    made.draw_without_rendering()
    last = list(frames.values())[-1].dropna().groupby("name", sort=False)[y].last()
    name_ends(panels[0][-1], {str(name): value for name, value in last.items()})
    return made


def _dark(colour: str) -> tuple[float, ...]:
    """A darker shade: letters are thinner than lines, and light ones are hard to read on white."""
    return tuple(0.78 * channel for channel in to_rgb(colour))


def legend(figure: Figure, names: Sequence[str]) -> None:
    """The names of lines below the picture, where they hide nothing."""
    look = styles(names)
    handles = [Line2D([], [], color=look[name].colour, dashes=look[name].dashes or (None, None)) for name in names]
    figure.legend(handles, [label(name) for name in names], frameon=False, ncols=3, loc="outside lower center")
