"""Pictures of predictions of a stream: PNG files, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.results import written_whole
from experiments.streams.models import LABELS
from experiments.streams.protocol import Stream
from experiments.streams.scores import calibration
from experiments.streams.study import Found

_DPI = 150
_COLOURS = ("#d55e00", "#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#8c8c8c", "#7a5c3e", "#222222")
_QUANTILE90 = 1.6448536
_SPIKE = 10.0
"""The default of ``latenttrack.metrics.spikes``; in nats."""


def draw(folder: Path, variant: str, stream: Stream, models: Mapping[str, Found]) -> list[str]:
    """Draw all pictures of one variant into a folder; returns the names of the files."""
    chosen = [name for name in ("lt_structured", "lt_unstructured", "vrnn", "gru", "dssm", "mlp") if name in models]
    chosen = chosen or list(models)[:6]
    if not chosen:
        return []
    figures = {
        "band": band(stream, {name: models[name] for name in chosen[:1]}),
        "pit": pit({name: models[name] for name in chosen}),
        "calibration": calibration_curve({name: models[name] for name in chosen}),
        "nll": nll(stream, {name: models[name] for name in chosen[:4]}),
        "uncertainty": uncertainty(stream, models[chosen[0]]),
    }
    latent = models[chosen[0]].latent
    if latent is not None:
        figures["latent"] = trajectory(stream, latent)
    names = []
    for name, figure in figures.items():
        names.append(f"{variant}-{name}.png")
        with written_whole(folder / names[-1]) as file:
            figure.savefig(file, format="png", dpi=_DPI)
    return names


def band(stream: Stream, models: Mapping[str, Found], days: int = 14, start: int = 24 * 190) -> Figure:
    """Prediction and 90 % band (two moments of the mixture) over two weeks, in the target's own unit."""
    part = _days(stream, days, start)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.add_subplot()
    time = stream.test.time[part]
    truth = stream.last[part] + stream.scale * stream.test.ys[part, 0]
    for colour, (name, found) in zip(_COLOURS, models.items(), strict=False):
        middle = stream.last[part] + stream.scale * found.mean[part]
        deviation = np.sqrt(found.steps.aleatoric[0, part] + found.steps.epistemic[0, part])
        low, high = (_unit(stream, middle + sign * _QUANTILE90 * deviation) for sign in (-1, 1))
        axes.fill_between(time, low, high, color=colour, alpha=0.25, linewidth=0, label=f"{_label(name)}, 90 %")
        axes.plot(time, _unit(stream, middle), color=colour, linewidth=1.1)
    axes.plot(time, _unit(stream, truth), ".", color="#222222", markersize=2.5, label="observed")
    axes.set(ylabel=stream.target, title="Predictions before each value is seen")
    axes.legend(frameon=False, ncols=2)
    return figure


def pit(models: Mapping[str, Found], bins: int = 20) -> Figure:
    """Histograms of the probability integral transform, all seeds; flat is calibrated."""
    figure = Figure(figsize=(11, 2.6 * -(-len(models) // 3)), layout="constrained")
    all_axes = figure.subplots(-(-len(models) // 3), 3, squeeze=False, sharey=True).ravel()
    for axes in all_axes[len(models) :]:
        axes.set_visible(False)
    for axes, colour, (name, found) in zip(all_axes, _COLOURS, models.items(), strict=False):
        values = found.steps.pit[np.isfinite(found.steps.pit)]
        axes.hist(values, bins=bins, range=(0, 1), density=True, color=colour)
        axes.axhline(1, color="#222222", linewidth=0.8, linestyle="--")
        axes.set_title(_label(name), fontsize=10)
    return figure


def calibration_curve(models: Mapping[str, Found]) -> Figure:
    """Share of targets in central intervals against their nominal level."""
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "--", color="#222222", linewidth=0.8)
    for colour, (name, found) in zip(_COLOURS, models.items(), strict=False):
        nominal, inside = calibration(found.steps.pit)
        axes.plot(nominal, inside, color=colour, label=_label(name))
    axes.set(xlabel="nominal level of the interval", ylabel="share of targets inside", aspect="equal")
    axes.legend(frameon=False)
    return figure


def nll(stream: Stream, models: Mapping[str, Found], window: int = 168) -> Figure:
    """Moving mean of the NLL over the test span (first seed), and the steps above the spike level."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.add_subplot()
    window = min(window, len(stream.test.time))
    time = stream.test.time[window - 1 :]
    for row, (colour, (name, found)) in enumerate(zip(_COLOURS, models.items(), strict=False)):
        values = np.nan_to_num(np.asarray(found.steps.nll[0], np.float64))
        smooth = np.convolve(values, np.full(window, 1 / window), "valid")
        spikes = np.flatnonzero(values > _SPIKE)
        axes.plot(time, smooth, color=colour, linewidth=1, label=f"{_label(name)}: {len(spikes)} spikes > {_SPIKE:g}")
        # Spikes stand in rows above the curves, in fractions of the height.
        height = np.full(len(spikes), 1.03 + 0.04 * row)
        axes.plot(
            stream.test.time[spikes],
            height,
            "|",
            color=colour,
            markersize=8,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )
    axes.set(ylabel=f"NLL, mean over {window} steps [nats]")
    axes.legend(frameon=False, ncols=2)
    return figure


def uncertainty(stream: Stream, found: Found, days: int = 14, start: int = 24 * 190) -> Figure:
    """Aleatoric and epistemic deviation of the first seed over two weeks, in the target's own unit."""
    part = _days(stream, days, start)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.add_subplot()
    shares = (np.sqrt(found.steps.aleatoric[0, part]), np.sqrt(found.steps.epistemic[0, part]))
    for colour, name, value in zip(_COLOURS[2:], ("aleatoric", "epistemic"), shares, strict=False):
        axes.plot(stream.test.time[part], stream.unit * value, color=colour, label=name, linewidth=1.2)
    axes.set(ylabel=f"deviation, {stream.target}", ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def trajectory(stream: Stream, latent: np.ndarray) -> Figure:
    """The belief's mean of each latent coordinate over the first weeks, and its two principal directions by hour."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot(stream.test.time[: len(latent)], latent, linewidth=0.8)
    left.set(ylabel="mean of z")
    left.tick_params(axis="x", rotation=30)
    centred = latent - latent.mean(0)
    if latent.shape[1] > 1:
        directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
        plane = centred @ directions.T
        time = stream.test.time[: len(latent)]
        hour = (time - time.astype("datetime64[D]")) / np.timedelta64(1, "h")
        right.plot(*plane.T, color="#e6e6e6", linewidth=0.6, zorder=0)
        points = right.scatter(*plane.T, c=hour, cmap="twilight", s=7)
        figure.colorbar(points, ax=right, label="hour of day")
        right.set(xlabel="first principal direction", ylabel="second")
    return figure


def _days(stream: Stream, days: int, start: int) -> slice:
    start = max(0, min(start, len(stream.test.time) - days * 24))
    return slice(start, start + days * 24)


def _unit(stream: Stream, standard: np.ndarray) -> np.ndarray:
    return stream.centre + stream.unit * standard


def _label(name: str) -> str:
    return LABELS.get(name, name)
