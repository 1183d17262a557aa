"""Pictures of predictions of a stream, made of small arrays that a run keeps."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from experiments.run import pictures
from experiments.run.labels import label
from experiments.streaming import scores
from experiments.streaming.protocol import Stream
from experiments.streaming.training import Found

_QUANTILE90 = 1.6448536
_SPIKE = 10.0
"""The default of ``latenttrack.metrics.spikes``; in nats."""
_SHOWN = ("lt_structured", "lt_unstructured", "vrnn", "gru", "dssm", "mlp")
_BINS, _POINTS, _WEEKS = 20, 800, 24 * 14


def arrays(stream: Stream, models: Mapping[str, Found]) -> dict[str, np.ndarray]:
    """What the pictures of a stream need of its models, a few hundred numbers each."""
    chosen = [name for name in _SHOWN if name in models] or list(models)[:6]
    if not chosen:
        return {}
    first, count = models[chosen[0]], len(stream.test.time)
    start = max(0, min(24 * 190, count - _WEEKS))
    part = slice(start, start + _WEEKS)

    def unit(standard: np.ndarray) -> np.ndarray:
        return np.asarray(stream.centre + stream.unit * standard, np.float64)

    found = {
        "label": np.array([stream.label]),
        "names": np.array(chosen),
        "time": stream.test.time[part],
        "truth": unit(stream.last[part] + stream.scale * stream.test.ys[part, 0]),
        "middle": unit(stream.last[part] + stream.scale * first.mean[part]),
        "aleatoric": stream.unit * np.sqrt(first.steps.aleatoric[0, part]),
        "epistemic": stream.unit * np.sqrt(first.steps.epistemic[0, part]),
    }
    window = min(168, count)
    every = max(1, (count - window + 1) // _POINTS)
    found["window"], found["nll-time"] = np.array(window), stream.test.time[window - 1 :][::every]
    for name in chosen:
        steps = models[name].steps
        pit = steps.pit[np.isfinite(steps.pit)]
        found[f"pit {name}"] = np.histogram(pit, _BINS, (0, 1), density=True)[0]
        found[f"calibration {name}"] = np.stack(scores.calibration(steps.pit))
        values = np.nan_to_num(np.asarray(steps.nll[0], np.float64))
        found[f"nll {name}"] = np.convolve(values, np.full(window, 1 / window), "valid")[::every]
        found[f"spikes {name}"] = stream.test.time[np.flatnonzero(values > _SPIKE)]
    if first.latent is not None:
        found["latent"], found["latent-time"] = first.latent, stream.test.time[: len(first.latent)]
    return found


def pictures_of(content: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> dict[str, Callable[[], Figure]]:
    """The pictures of each variant whose arrays are there."""
    drawn: dict[str, Callable[[], Figure]] = {}
    for variant in content["variants"]:
        lead = f"{variant}-"
        part = {name.removeprefix(lead): array for name, array in kept.items() if name.startswith(lead)}
        if "names" in part:
            kinds = {"band": band, "pit": pit, "calibration": calibration, "nll": nll, "uncertainty": uncertainty}
            kinds |= {"latent": trajectory} if "latent" in part else {}
            drawn |= {f"{lead}{name}": lambda kind=kind, part=part: kind(part) for name, kind in kinds.items()}
    return drawn


Kept = Mapping[str, np.ndarray]


def band(kept: Kept) -> Figure:
    """Prediction and 90 % band (two moments of the mixture) over 336 steps, in the target's own unit."""
    name = str(kept["names"][0])
    figure, axes = pictures.figure("Each value predicted before it is seen", size=(11, 4.6))
    colour, deviation = pictures.styles([name])[name].colour, np.hypot(kept["aleatoric"], kept["epistemic"])
    low, high = (kept["middle"] + sign * _QUANTILE90 * deviation for sign in (-1, 1))
    axes.fill_between(kept["time"], low, high, color=colour, alpha=0.25, linewidth=0, label="90 % of the prediction")
    axes.plot(kept["time"], kept["middle"], color=colour, linewidth=1.1, label=f"{label(name)}: mean")
    axes.plot(kept["time"], kept["truth"], ".", color=pictures.INK, markersize=3, label="observed")
    axes.set(ylabel=str(kept["label"][0]), xlim=(kept["time"][0], kept["time"][-1]))
    _dates(axes)
    figure.legend(frameon=False, ncols=3, loc="outside lower center")
    return figure


def pit(kept: Kept) -> Figure:
    """Histograms of the probability integral transform, all seeds; flat is calibrated."""
    names = list(map(str, kept["names"]))
    rows = -(-len(names) // 3)
    title = "Where the observed value falls in the prediction"
    figure, grid = pictures.figure(title, rows, 3, (11, 0.8 + 2.7 * rows), squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        edges = np.linspace(0, 1, _BINS + 1)
        axes.stairs(kept[f"pit {name}"], edges, fill=True, color=pictures.styles(names)[name].colour)
        axes.axhline(1, color=pictures.INK, linewidth=0.8, linestyle="--")
        axes.set(title=label(name), xlabel="predicted distribution function", ylabel="density")
        axes.label_outer()
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    return figure


def calibration(kept: Kept) -> Figure:
    """Share of targets in central intervals against their nominal level."""
    figure, axes = pictures.figure("Calibration of central intervals", size=(9, 5.6))
    axes.plot([0, 1], [0, 1], "--", color=pictures.INK, linewidth=0.8)
    parts = [
        pd.DataFrame(
            kept[f"calibration {name}"].T, columns=["nominal level of the interval", "share of targets inside"]
        )
        for name in map(str, kept["names"])
    ]
    frame = pd.concat(parts, keys=map(str, kept["names"]), names=["name"]).reset_index("name")
    pictures.lines(axes, frame, *frame.columns[1:], marks=False, named=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    pictures.legend(figure, list(map(str, kept["names"])))
    return figure


def nll(kept: Kept) -> Figure:
    """Moving mean of the NLL over the test span (first seed), and the steps above the spike level."""
    names = list(map(str, kept["names"][:4]))
    window = int(kept["window"])
    figure, (above, axes) = pictures.figure("", 2, 1, (11, 5), sharex=True, height_ratios=(len(names), 10))
    figure.suptitle(f"Loss along the test span, and steps above {_SPIKE:g} nats", x=0.01, ha="left", weight="bold")
    counts = [len(kept[f"spikes {name}"]) for name in names]
    for row, name in enumerate(names):
        colour = pictures.styles(names)[name].colour
        axes.plot(kept["nll-time"], kept[f"nll {name}"], color=colour, linewidth=1)
        above.plot(kept[f"spikes {name}"], np.full(counts[row], row), "|", color=colour, markersize=8)
    above.set_yticks(range(len(names)), [f"{label(n)}: {count}" for n, count in zip(names, counts, strict=True)])
    above.set_ylim(len(names) - 0.5, -0.5)
    above.grid(visible=False)
    axes.set(ylabel=f"NLL, mean over {window} steps, nats")
    _dates(axes)
    pictures.legend(figure, names)
    return figure


def uncertainty(kept: Kept) -> Figure:
    """Aleatoric and epistemic deviation of the first seed over 336 steps, in the target's own unit."""
    figure, axes = pictures.figure("What the deviation is made of", size=(11, 4))
    for colour, name in (("#0072b2", "aleatoric"), ("#009e73", "epistemic")):
        axes.plot(kept["time"], kept[name], color=colour, label=name, linewidth=1.2)
    axes.set(ylabel=f"deviation of {kept['label'][0]}", ylim=(0, None), xlim=(kept["time"][0], kept["time"][-1]))
    _dates(axes)
    figure.legend(frameon=False, ncols=2, loc="outside lower center")
    return figure


def trajectory(kept: Kept) -> Figure:
    """The belief's mean of each latent coordinate over the first weeks, and its two principal directions by hour."""
    figure, (left, right) = pictures.figure("The latent state", 1, 2, (11, 4.6), width_ratios=(3, 2))
    latent, time = kept["latent"], kept["latent-time"]
    left.plot(time, latent, linewidth=0.8)
    left.set(ylabel="mean of z, no unit", xlim=(time[0], time[-1]))
    _dates(left)
    centred = latent - latent.mean(0)
    if latent.shape[1] > 1:
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
        hour = (time - time.astype("datetime64[D]")) / np.timedelta64(1, "h")
        right.plot(*plane.T, color="#e6e6e6", linewidth=0.6, zorder=0)
        figure.colorbar(right.scatter(*plane.T, c=hour, cmap="twilight", s=7), ax=right, label="hour of day")
        right.set(xlabel="first principal direction", ylabel="second")
    return figure


def _dates(axes: Any) -> None:
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
