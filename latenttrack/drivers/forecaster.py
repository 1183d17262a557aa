"""A frame in, a frame out: training, forecasts, a stream of rows, replayed forecasts, one file."""

import dataclasses
import functools
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from latenttrack import metrics
from latenttrack.drivers import calendar, calibration, frames, saved
from latenttrack.drivers import fit as training
from latenttrack.drivers import forecast as paths_ahead
from latenttrack.drivers.calibration import Calibration
from latenttrack.drivers.forecast import Forecast
from latenttrack.drivers.frames import Columns, Kind, Rows
from latenttrack.tracking.config import Adapt, Config
from latenttrack.tracking.increments import Increments, increments, side_by_side
from lowrank_filter.common import checks

SMALLEST = 48
"""Rows that a training needs."""
PATHS, FORECASTS = 64, 96
"""Of the validation rows, of which spreads are learned; the forecasts are of all series together."""


class Shape(NamedTuple):
    """What is known of the frames after a fit, and builds the model; all static.

    Attributes:
        kind, frequency: how time is told.
        cycles: of the calendar, that are inputs.
        lags: of the model of increments.
        spread: standard deviation of each channel over that of its increments.
        ids: the series, in the order of their states; (None,) without an id column.
    """

    kind: Kind
    frequency: calendar.Frequency
    cycles: tuple[str, ...]
    lags: tuple[int, ...]
    spread: tuple[float, ...]
    ids: tuple[Any, ...]


class _Origins(NamedTuple):
    """Forecasts of the last rows, ``every`` so many: a season's phases all come to each step ahead."""

    rows: int
    steps: int
    every: int
    forecasts: int


class Values(NamedTuple):
    """What a fit has found, and what moves on with each row.

    Attributes:
        params: of the model.
        centre, unit: of each series' channels: y = (value − centre) / unit, the unit that of its increments [N, C].
        known_centre, known_unit: of the known inputs [N, F].
        states: of each series, after its last row [N, ...].
        last: stamps of the last rows [N].
        recent: the last values of the targets [N, R, targets], for pictures; NaN where missing.
        pits: probability integral transforms of the validation span's targets, for pictures.
        calibrations: of each series' spreads by step ahead.
    """

    params: Any
    centre: np.ndarray
    unit: np.ndarray
    known_centre: np.ndarray
    known_unit: np.ndarray
    states: Any
    last: np.ndarray
    recent: np.ndarray
    pits: np.ndarray
    calibrations: tuple[Calibration, ...]


class Forecaster:
    """Probabilistic forecasts of the columns of a pandas or polars frame.

    A latent filter (:func:`latenttrack.build`) of the series' increments, with the calendar, the last value and the
    last season as inputs; forecasts are sampled paths (:func:`latenttrack.forecast`), whose spread about their median
    at each step ahead is calibrated: :meth:`fit` learns a factor from forecasts of the validation rows, and factors
    move on whenever a row comes that a forecast was made for. Rows that are missing are put on the grid of the
    frequency, and a value that is missing masks its channel alone. The object holds values only: all that is computed
    are the package's pure functions.

    Args:
        config: sizes and choices of the latent filter.
        target: the column, or columns, to forecast.
        past: columns known up to now only, absorbed with the targets and forecast along inside each path.
        future: columns known ahead too, such as holidays; :meth:`predict` asks for all of their values ahead. One that
            is missing in a row that came, or whose row is missing, stands at the column's mean over the training rows.
        id: the column that tells series apart. They share parameters, and each has its own scale and state.
        time: the column of times; by default the only one of dates, or pandas' index.
        freq: "30min", "1h", "1d", "1w", "1mo" …; by default inferred from the most common step.
        adapt: "filter" lets a low-rank filter correct each prediction by the rows that came since the fit, as
            ``Config(adapt="filter")`` does (:func:`latenttrack.adapted`).

    Raises:
        ImportError: narwhals is not installed.
        TypeError: ``config`` is not a :class:`Config`; a column's name is not a string.
        ValueError: no target; a column in two roles; a frequency that is not one.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        target: str | Sequence[str],
        past: str | Sequence[str] = (),
        future: str | Sequence[str] = (),
        id: str | None = None,
        time: str | None = None,
        freq: str | None = None,
        adapt: Adapt | None = None,
    ) -> None:
        """Keep the roles of the columns."""
        self.config = Config() if config is None else config
        checks.instance("config", self.config, Config, "write latenttrack.Config(...)")
        if adapt is not None:
            self.config = dataclasses.replace(self.config, adapt=adapt)
        self.target, self.past, self.future = (
            _names(name, value) for name, value in (("target", target), ("past", past), ("future", future))
        )
        if not self.target:
            raise ValueError("target: expected at least one column, got none; name what to forecast")
        self.id, self.time = (_name(name, value) for name, value in (("id", id), ("time", time)))
        used = [*self.target, *self.past, *self.future, *(one for one in (self.id, self.time) if one is not None)]
        twice = sorted({column for column in used if used.count(column) > 1})
        if twice:
            raise ValueError(
                f"target, past, future, id, time: expected each column in one role, got {', '.join(map(repr, twice))} "
                "in several; leave it in one"
            )
        if freq is not None and not isinstance(freq, str):
            raise TypeError(f"freq: expected a text such as '1h', got {type(freq).__name__}; or None to infer it")
        self.freq = None if freq is None else calendar.parse(freq)
        self.shape: Shape | None = None
        self.values: Values | None = None

    def fit(
        self,
        frame: Any,
        *,
        updates: int = 600,
        validation: float = 0.2,
        learning_rate: float = 5e-3,
        seeds: int = 1,
        seed: int = 0,
        horizon: int = 48,
        progress: bool | Callable[[int, Array], None] = False,
    ) -> "Forecaster":
        """Train, keep the parameters that score best on each series' last rows, and absorb all rows.

        Args:
            frame: rows in order of time, of each series; from 48 rows on, about 200 for a forecast worth the name.
            updates: gradient steps.
            validation: share of each series' rows, the last ones, that only choose: the updates, the seed, and how far
                paths spread.
            learning_rate: its peak.
            seeds: trainings from different starts, of which the best is kept.
            seed: of all that is random.
            horizon: steps ahead, each with a spread of its own; further ones have that of the last. 0: paths stay as
                the model draws them.
            progress: print the validation score now and then, or a function of updates done and scores.

        Raises:
            TypeError: not a frame; columns of other types.
            ValueError: a frame that does not hold what was asked for; the message says what. Too few rows.

        Warns:
            UserWarning: the windows of training are shorter than usual, since the series are.
        """
        for name, value in (("updates", updates), ("seeds", seeds)):
            checks.count(name, value, minimum=1)
        for name, value in (("seed", seed), ("horizon", horizon)):
            checks.count(name, value, minimum=0)
        checks.within("validation", validation, 0.0, 0.5, "a share in [0, 0.5]")
        series, frequency, kind = frames.read(frame, self._columns(), self.freq)
        lengths = {key: len(rows.values) for key, rows in series.items()}
        shortest = min(lengths, key=lambda key: lengths[key])
        if lengths[shortest] < SMALLEST:
            whose = "" if shortest is None else f" for {shortest!r}"
            raise ValueError(f"frame: expected at least {SMALLEST} rows{whose}, got {lengths[shortest]}; give more")
        held = {key: int(validation * length) for key, length in lengths.items()}
        train = {key: rows.values[: lengths[key] - held[key]] for key, rows in series.items()}
        channels = len(self.target) + len(self.past)
        for key, rows in train.items():
            empty = np.isnan(rows).all(axis=0)
            if empty.any():
                whose = "" if key is None else f" of {key!r}"
                raise ValueError(
                    f"frame: expected numbers in {self._columns().values[int(empty.argmax())]!r}{whose}, got none "
                    "before the validation span; fill or drop the column"
                )
        scales = [_scale(rows[:, :channels]) for rows in train.values()]
        centre, unit, spread = (np.stack(leaf) for leaf in zip(*scales, strict=True))
        known = [rows[:, channels:] for rows in train.values()]
        known_centre = np.stack([np.nanmean(rows, axis=0) for rows in known])
        known_unit = np.stack([_positive(np.nanstd(rows, axis=0)) for rows in known])
        longest = max(series.values(), key=lambda rows: len(rows.values))
        ends = calendar.stamps(longest.start, np.array([0, len(longest.values)]), frequency)
        season = frequency.season
        lags = () if season is None or season > min(len(rows) for rows in train.values()) // 4 else (season,)
        self.shape = Shape(
            kind,
            frequency,
            calendar.cycles(frequency, int(ends[1] - ends[0])),
            lags,
            tuple(float(f"{value:.6g}") for value in np.median(spread, axis=0)),
            tuple(series),
        )
        none = np.zeros(0)
        self.values = Values(None, centre, unit, known_centre, known_unit, None, none, none, none, ())
        parts = [self._pack(index, rows) for index, rows in enumerate(series.values())]
        complete = not any(np.isnan(rows.values[:, :channels]).any() for rows in series.values())
        model = self._model(complete)
        result = _train(model, parts, held, updates, learning_rate, seeds, seed, progress)
        past = _origins(min(held.values()), horizon, len(parts), season)
        raw = [rows.values[:, : len(self.target)] for rows in series.values()]
        states, pits, factors = self._settled(model, result, parts, raw, past, horizon, seed)
        recent = [_tail(values) for values in raw]
        last = [calendar.stamps(rows.start, np.array([len(rows.values) - 1]), frequency)[0] for rows in series.values()]
        self.values = self.values._replace(
            params=result,
            states=states,
            last=np.asarray(last, np.int64),
            recent=np.stack(recent),
            pits=pits[np.isfinite(pits)],
            calibrations=(calibration.start(factors),) * len(parts),
        )
        return self

    def predict(
        self,
        h: int,
        *,
        level: float | Sequence[float] = (80, 95),
        future: Any = None,
        paths: int = 256,
        seed: int = 0,
    ) -> Any:
        """The next h rows of each series: a frame of the library that :meth:`fit` got.

        Columns: the id (if any), the time, ``mean``, and ``lo-80``, ``hi-80`` … for each level in percent; with several
        targets ``TARGET-mean``, ``TARGET-lo-80`` ….

        Args:
            h: rows ahead.
            level: probabilities of central intervals, in percent; 0 is the median.
            future: a frame with the columns known ahead, for each of those rows.
            paths: sampled ones, of which mean and intervals are taken.
            seed: of the paths.

        Raises:
            RuntimeError: nothing was fitted.
            TypeError, ValueError: as in :meth:`fit`, of ``future`` too.
        """
        levels = _levels(level)
        ahead = self.sample(h, future=future, paths=paths, seed=seed)
        shape, values = self._fitted()
        content = _summarised(ahead, levels, self.target)
        rows = np.arange(1, h + 1)
        seconds = np.concatenate([calendar.stamps(int(last), rows, shape.frequency) for last in values.last])
        ids = {} if self.id is None else {self.id: [key for key in shape.ids for _ in range(h)]}
        return frames.made(shape.kind, ids, {shape.kind.time: seconds}, content)

    def sample(self, h: int, *, future: Any = None, paths: int = 256, seed: int = 0) -> Forecast:
        """The paths themselves, in the targets' units: ``samples`` [N, K, h, targets], N series in the order of ids.

        They are the calibrated ones, of which :meth:`predict` gives mean and intervals: at each step their values are
        moved away from or towards the median, their order kept. Of a forecast, the intervals alone are remembered,
        until :meth:`observe` has seen their rows. Args and raises: as :meth:`predict`.
        """
        for name, value in (("h", h), ("paths", paths)):
            checks.count(name, value, minimum=1)
        checks.count("seed", seed, minimum=0)
        shape, values = self._fitted()
        known = self._known_ahead(future, h)
        xs = np.stack([
            self._inputs(index, calendar.stamps(int(last), np.arange(1, h + 1), shape.frequency), known[index])
            for index, last in enumerate(values.last)
        ])  # fmt: skip
        keys = jax.random.split(jax.random.key(seed), len(xs))
        drawn = _sample(
            self._model(True), paths, len(shape.spread), values.params, keys, values.states, jnp.asarray(xs)
        )
        count = len(self.target)
        scaled = np.asarray(drawn)[..., :count].astype(float)
        raw = scaled * values.unit[:, None, None, :count] + values.centre[:, None, None, :count]
        pairs = [calibration.served(*pair) for pair in zip(values.calibrations, raw, strict=True)]
        self.values = values._replace(calibrations=tuple(state for state, _ in pairs))
        return Forecast(jnp.asarray(np.stack([samples for _, samples in pairs])))

    def observe(self, rows: Any) -> "Forecaster":
        """Move on by a row, as a mapping of columns to values (a dict, a pandas row), or by a frame of several.

        Nothing is trained: the state absorbs what came, in the same time at every row, and the spreads of the steps
        ahead move by whether forecasts that were made for this row held it (adaptive conformal inference, Gibbs and
        Candès 2021). Rows that were left out in between are missing. Intervals widen after a level that stays shifted;
        with ``adapt="filter"`` the mean follows it as well.

        Raises:
            RuntimeError: nothing was fitted.
            TypeError, ValueError: columns are missing or not numbers; an unknown series; a time that is not after the
                last one, or off the grid.
        """
        shape, _ = self._fitted()
        if isinstance(rows, Mapping) or (hasattr(rows, "keys") and getattr(rows, "ndim", 0) == 1):
            key, seconds, row = frames.row(rows, self._columns(), shape.kind)
            index = self._position(key, "row")
            self._absorb(index, self._gap(index, seconds, "row"), np.asarray([seconds]), row[None])
            return self
        series, _, kind = frames.read(rows, self._columns(), shape.frequency)
        if (kind.zone, kind.date) != (shape.kind.zone, shape.kind.date):
            raise ValueError(
                f"frame: expected times of the kind that was fitted, zone {shape.kind.zone}, got zone {kind.zone}; "
                "convert them"
            )
        positions = {key: self._position(key, "frame") for key in series}
        gaps = {key: self._gap(positions[key], found.start, "frame") for key, found in series.items()}
        for key, found in series.items():
            stamps = calendar.stamps(found.start, np.arange(len(found.values)), shape.frequency)
            self._absorb(positions[key], gaps[key], stamps, found.values)
        return self

    def backtest(
        self,
        frame: Any,
        h: int,
        *,
        every: int | None = None,
        start: int | None = None,
        level: float | Sequence[float] = (80, 95),
        paths: int = 256,
        seed: int = 0,
    ) -> Any:
        """Forecasts as they would have been made along a frame, beside what came: nothing is trained, nothing kept.

        Their spreads move along, each forecast by those before it alone.

        Args:
            frame: rows that were not trained on. Where it begins right after the last row seen, its first forecast
                starts from there; else states start anew with its first rows.
            h: rows ahead, of each forecast.
            every: rows between forecasts; by default h.
            start: the row of the first forecast; by default 0 where the frame goes on, else a quarter of the rows (at
                most 256) from its beginning.
            level, paths, seed: as in :meth:`predict`.

        Returns:
            A frame with the id (if any), the time, ``cutoff`` (the last time seen), the columns of :meth:`predict`, and
            ``actual`` (``TARGET-actual`` with several targets), NaN where missing.

        Raises:
            RuntimeError: nothing was fitted.
            TypeError, ValueError: as in :meth:`fit`; fewer rows than one forecast takes.
        """
        checks.count("h", h, minimum=1)
        every = h if every is None else every
        checks.count("every", every, minimum=1)
        if start is not None:
            checks.count("start", start, minimum=0)
        checks.count("paths", paths, minimum=1)
        checks.count("seed", seed, minimum=0)
        levels = _levels(level)
        shape, values = self._fitted()
        series, _, _ = frames.read(frame, self._columns(), shape.frequency)
        parts = []
        for key, rows in series.items():
            index = self._position(key, "frame")
            follows = calendar.stamps(int(values.last[index]), np.array([1]), shape.frequency)[0] == rows.start
            begin = start if start is not None else 0 if follows else min(256, len(rows.values) // 4)
            count = (len(rows.values) - begin - h) // every + 1
            if count < 1:
                whose = "" if key is None else f" for {key!r}"
                raise ValueError(
                    f"frame: expected at least {begin + h} rows{whose}, to start at row {begin} and see {h} ahead, got "
                    f"{len(rows.values)}; give more, or a smaller h"
                )
            complete = not np.isnan(rows.values[:, : len(shape.spread)]).any()
            model, (xs, ys) = self._model(bool(complete)), self._pack(index, rows)
            key_of = jax.random.fold_in(jax.random.key(seed), index)
            state = jax.tree.map(lambda leaf: leaf[index], values.states)  # noqa: B023
            state = state if follows else model.initial_state(values.params)
            if begin:
                state, _ = _rollout(model, values.params, key_of, xs[:begin], ys[:begin])
            steps = begin + every * np.arange(count)
            ahead = steps[:, None] + np.arange(h)
            drawn = self._along(model, values.params, (paths, every), key_of, state, xs, ys, ahead)
            parts.append(self._replayed(index, key, rows, ahead, drawn, levels))
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        keys = columns.pop("id").tolist()
        stamps = {shape.kind.time: columns.pop("time"), "cutoff": columns.pop("cutoff")}
        return frames.made(shape.kind, {} if self.id is None else {self.id: keys}, stamps, columns)

    def save(self, path: str | Path) -> None:
        """All of it in one file, which is there whole or not at all.

        Raises:
            RuntimeError: nothing was fitted.
            FileNotFoundError: the folder does not exist.
        """
        shape, values = self._fitted()
        roles = {"target": self.target, "past": self.past, "future": self.future, "id": self.id, "time": self.time}
        saved.write(Path(path), self.config, roles, shape, values._asdict())

    @classmethod
    def load(cls, path: str | Path) -> "Forecaster":
        """What :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file of something else, of a later version, or a damaged one; the message names it.

        Warns:
            UserWarning: the installed SciPy draws other points than those that were saved.
        """
        config, roles, shape, values = saved.read(Path(path), _restored)
        made = cls(config, **roles)
        made.freq, made.shape, made.values = shape.frequency, shape, values
        return made

    def plot(self, h: int, *, level: float | Sequence[float] = (80, 95), future: Any = None, series: Any = None) -> Any:
        """The last rows, the forecast's bands, and how evenly past targets fell into their distributions.

        Args:
            h, level, future: as in :meth:`predict`.
            series: which, where there are several; by default the first.

        Returns:
            A matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from latenttrack.drivers import pictures  # noqa: PLC0415  an extra

        levels = _levels(level)
        shape, values = self._fitted()
        index = 0 if series is None else self._position(series, "series")
        ahead = self.sample(h, future=future).samples[index]
        stamps = calendar.stamps(int(values.last[index]), np.arange(1 - values.recent.shape[1], h + 1), shape.frequency)
        local = frames.wall(stamps, shape.kind).astype("datetime64[s]")
        return pictures.forecast(local, values.recent[index], Forecast(ahead), levels, self.target, values.pits)

    def _columns(self) -> Columns:
        return Columns(self.time, self.id, (*self.target, *self.past, *self.future))

    def _fitted(self) -> tuple[Shape, Values]:
        if self.shape is None or self.values is None or self.values.params is None:
            raise RuntimeError("Forecaster: expected a fitted one, got one without parameters; call fit or load first")
        return self.shape, self.values

    def _position(self, key: Any, name: str) -> int:
        shape, _ = self._fitted()
        try:
            return shape.ids.index(key)
        except ValueError:
            raise ValueError(
                f"{name}: expected one of the fitted series {', '.join(map(repr, shape.ids[:9]))}, got {key!r}; fit "
                "with its rows too"
            ) from None

    def _model(self, complete: bool) -> Increments:
        if self.shape is None:
            raise AssertionError
        known = len(self.shape.cycles) * 2 * calendar.HARMONICS + len(self.future)
        return increments(self.config, known, self.shape.lags, self.shape.spread, complete)

    def _inputs(self, index: int, stamps: np.ndarray, known: np.ndarray) -> Float[np.ndarray, "T X"]:
        """Rows of inputs, of which everything is observed and counts."""
        if self.shape is None or self.values is None:
            raise AssertionError
        phases = calendar.features(frames.wall(stamps, self.shape.kind), self.shape.cycles)
        scaled = (known - self.values.known_centre[index]) / self.values.known_unit[index]
        ones = np.ones((len(stamps), len(self.shape.spread) + 1))
        return np.concatenate([phases, np.nan_to_num(scaled), ones], axis=1).astype(np.float32)

    def _pack(self, index: int, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and scaled targets of a series' rows."""
        if self.shape is None:
            raise AssertionError
        stamps = calendar.stamps(rows.start, np.arange(len(rows.values)), self.shape.frequency)
        return self._rows(index, stamps, rows.values)

    def _rows(self, index: int, stamps: np.ndarray, values: np.ndarray) -> tuple[Any, Any]:
        if self.shape is None or self.values is None:
            raise AssertionError
        channels = len(self.shape.spread)
        xs = self._inputs(index, stamps, values[:, channels:])
        ys = (values[:, :channels] - self.values.centre[index]) / self.values.unit[index]
        xs[:, -1 - channels : -1] = ~np.isnan(ys)
        return xs, np.nan_to_num(ys).astype(np.float32)

    def _settled(
        self, model: Increments, params: Any, parts: Sequence[tuple[np.ndarray, np.ndarray]],
        raw: Sequence[np.ndarray], past: _Origins, horizon: int, seed: int,
    ) -> tuple[Any, np.ndarray, Float[np.ndarray, "L H targets"]]:  # fmt: skip
        """With parameters found: states after all rows, transforms of the last ones, and how far paths spread there."""
        if self.values is None:
            raise AssertionError
        count = len(self.target)
        states, pits, drawn, came = [], [], [], []
        for index, ((xs, ys), targets) in enumerate(zip(parts, raw, strict=True)):
            begin = len(ys) - past.rows if past.rows else min(len(ys) // 2, 2 * SMALLEST)
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), 2)
            state, _ = _rollout(model, params, keys[0], xs[:begin], ys[:begin])
            if past.steps:
                at = begin + past.every * np.arange(past.forecasts)[:, None] + np.arange(past.steps)
                paths = self._along(model, params, (PATHS, past.every), keys[1], state, xs, ys, at)
                drawn.append(paths * self.values.unit[index, :count] + self.values.centre[index, :count])
                came.append(targets[at])
            state, outputs = _rollout(model, params, keys[0], xs[begin:], ys[begin:], state)
            states.append(state)
            shares = metrics.pit(jnp.asarray(ys[begin:]), outputs.mean, outputs.variance)[:, :count]
            pits.append(np.where(np.isnan(targets[begin:]), np.nan, np.asarray(shares)).ravel())
        factors = np.zeros((len(calibration.LEVELS), horizon, count))
        if past.steps:
            found = calibration.learned(np.concatenate(drawn), np.concatenate(came), past.rows * len(parts))
            factors[:] = found[:, np.minimum(np.arange(horizon), past.steps - 1)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), np.concatenate(pits), factors

    def _along(
        self, model: Increments, params: Any, sizes: tuple[int, int], key: Array, state: Any, xs: np.ndarray,
        ys: np.ndarray, at: np.ndarray,
    ) -> Float[np.ndarray, "N K h targets"]:  # fmt: skip
        """Paths for the rows ``at`` [N, h], the state being that before the first of them."""
        (paths, every), begin = sizes, at[0, 0]
        drawn = _replay(
            (model, self._model(True)), (paths, every, ys.shape[1]), params, key, state,
            jnp.asarray(self._seen(xs[at])), xs[begin:], ys[begin:],
        )  # fmt: skip
        return np.asarray(drawn)[..., : len(self.target)].astype(float)

    def _seen(self, xs: np.ndarray) -> np.ndarray:
        """The same inputs with everything observed, as on a path."""
        if self.shape is None:
            raise AssertionError
        xs = np.array(xs)
        xs[..., -1 - len(self.shape.spread) :] = 1
        return xs

    def _gap(self, index: int, stamp: int, name: str) -> int:
        """Rows from the last one to that of a stamp."""
        shape, values = self._fitted()
        last = int(values.last[index])
        ahead, on = calendar.positions(np.asarray([stamp]), last, shape.frequency)
        at = int(ahead[0])
        if not on[0] or at < 1:
            raise ValueError(
                f"{name}: expected a time every {shape.frequency.text} after {frames.shown(last, shape.kind)}, got "
                f"{frames.shown(stamp, shape.kind)}; rows come in order, each once"
            )
        if at > 10_000:
            raise ValueError(
                f"{name}: expected a time soon after {frames.shown(last, shape.kind)}, got "
                f"{frames.shown(stamp, shape.kind)}, {at} rows later; fit again"
            )
        return at

    def _absorb(self, index: int, at: int, stamps: np.ndarray, rows: np.ndarray) -> None:
        """Rows of which the first is ``at`` rows after the last one seen."""
        shape, values = self._fitted()
        if at > 1:
            last = int(values.last[index])
            missed = np.full((at - 1, rows.shape[1]), np.nan)
            stamps = np.concatenate([calendar.stamps(last, np.arange(1, at), shape.frequency), stamps])
            rows = np.concatenate([missed, rows])
        xs, ys = self._rows(index, stamps, rows)
        model, states = self._model(False), values.states
        calibrated = values.calibrations[index]
        for x, y, row in zip(xs, ys, rows, strict=True):
            states = _observe(model, values.params, states, index, x, y)
            calibrated = calibration.observed(calibrated, row[: len(self.target)])
        values.last[index] = stamps[-1]
        recent = values.recent[index]
        values.recent[index] = np.concatenate([recent, rows[:, : recent.shape[1]]])[-len(recent) :]
        calibrations = (*values.calibrations[:index], calibrated, *values.calibrations[index + 1 :])
        self.values = values._replace(states=states, calibrations=calibrations)

    def _known_ahead(self, future: Any, h: int) -> Float[np.ndarray, "N h F"]:
        shape, values = self._fitted()
        if not self.future:
            if future is not None:
                raise ValueError("future: expected None, got a frame; no column was named in future=")
            return np.zeros((len(shape.ids), h, 0))
        if future is None:
            raise ValueError(
                f"future: expected a frame with {', '.join(map(repr, self.future))} for the {h} rows ahead, got None; "
                "what is not known ahead belongs in past="
            )
        columns = Columns(self.time or shape.kind.time, self.id, self.future)
        series, _, _ = frames.read(future, columns, shape.frequency, "future")
        found = []
        for index, key in enumerate(shape.ids):
            whose = "" if key is None else f" of {key!r}"
            first, last = calendar.stamps(int(values.last[index]), np.array([1, h]), shape.frequency)
            ends = f"{frames.shown(first, shape.kind)} to {frames.shown(last, shape.kind)}"
            rows = series.get(key)
            at = None if rows is None else calendar.positions(np.array([first]), rows.start, shape.frequency)
            begin = -1 if at is None or not at[1][0] else int(at[0][0])
            if rows is None or begin < 0 or begin + h > len(rows.values):
                raise ValueError(f"future: expected rows{whose} from {ends}, got others; add them")
            part = rows.values[begin : begin + h]
            if np.isnan(part).any():
                raise ValueError(
                    f"future: expected numbers{whose} in every row from {ends}, got {int(np.isnan(part).sum())} "
                    "missing; fill them"
                )
            found.append(part)
        return np.stack(found)

    def _replayed(
        self, index: int, key: Any, rows: Rows, ahead: np.ndarray, drawn: np.ndarray, levels: tuple[float, ...]
    ) -> dict[str, np.ndarray]:
        shape, values = self._fitted()
        count = len(self.target)
        drawn = drawn * values.unit[index, :count] + values.centre[index, :count]
        state, samples, before = values.calibrations[index], [], ahead[0, 0]
        for first, paths in zip(ahead[:, 0], drawn, strict=True):
            for row in rows.values[before:first, :count]:
                state = calibration.observed(state, row)
            state, moved = calibration.served(state, paths)
            samples, before = [*samples, moved], first
        content = _summarised(Forecast(jnp.asarray(np.stack(samples))), levels, self.target)
        for channel, name in enumerate(self.target):
            title = "actual" if count == 1 else f"{name}-actual"
            content[title] = rows.values[ahead, channel].ravel()
        cutoffs = np.repeat(calendar.stamps(rows.start, ahead[:, 0] - 1, shape.frequency), ahead.shape[1])
        times = calendar.stamps(rows.start, ahead, shape.frequency).ravel()
        return {"id": np.full(ahead.size, key, object), "time": times, "cutoff": cutoffs, **content}


def _restored(config: Config, roles: Mapping, shape: list, leaves: Mapping[str, list]) -> tuple[Shape, Values]:
    """From what a file holds: lists where tuples were, and leaves where trees were."""
    kind, frequency, cycles, lags, spread, ids = shape
    static = Shape(Kind(*kind), calendar.Frequency(*frequency), tuple(cycles), tuple(lags), tuple(spread), tuple(ids))
    known = len(static.cycles) * 2 * calendar.HARMONICS + len(roles["future"])
    model = increments(config, known, static.lags, static.spread, True)
    params = jax.eval_shape(model.init, jax.random.key(0))
    template: Any = dict.fromkeys(Values._fields, 0) | {
        "params": params,
        "states": jax.eval_shape(model.initial_state, params),
        "calibrations": (calibration.start(np.zeros((1, 0, 0))),) * len(static.ids),
    }
    return static, Values(*[
        jax.tree.unflatten(jax.tree.structure(like), leaves[name])
        for name, like in template.items()
    ])  # fmt: skip


def _names(name: str, value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else None
    if found is None or not all(isinstance(one, str) for one in found):
        raise TypeError(f"{name}: expected a column's name or a list of them, got {value!r}; give text")
    return found


def _name(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name}: expected a column's name or None, got {type(value).__name__}; give text")
    return value


def _levels(level: Any) -> tuple[float, ...]:
    found = (level,) if isinstance(level, str) or not hasattr(level, "__iter__") else tuple(level)
    for one in found:
        number = isinstance(one, int | float | np.number) and not isinstance(one, bool)
        if not number or not (one == 0 or 1 <= float(one) < 100):
            raise ValueError(f"level: expected percentages, 0 or from 1 to below 100, got {one!r}; write 80 for 80 %")
    return tuple(float(one) for one in found)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, 1.0)


def _scale(values: Float[np.ndarray, "T C"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, standard deviation of the increments, and that of the values over it; 1 where nothing moves."""
    filled = np.stack(
        [column[~np.isnan(column)][np.maximum(np.cumsum(~np.isnan(column)) - 1, 0)] for column in values.T]
    )
    unit = _positive(np.diff(filled, axis=1).std(axis=1))
    return np.nanmean(values, axis=0), unit, _positive(np.nanstd(values, axis=0)) / unit


def _tail(values: np.ndarray, rows: int = 512) -> np.ndarray:
    part = values[-rows:]
    return np.concatenate([np.full((rows - len(part), values.shape[1]), np.nan), part])


def _summarised(ahead: Forecast, levels: tuple[float, ...], target: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of mean and intervals over all series and steps."""
    probabilities = [0.5 + sign * one / 200 for one in levels for sign in (-1, 1)]
    ends = [f"{side}-{one:g}" for one in levels for side in ("lo", "hi")]
    quantiles = np.asarray(ahead.quantile(np.asarray(probabilities))) if levels else []
    found = {"mean": np.asarray(ahead.mean())} | dict(zip(ends, quantiles, strict=True))
    return {
        name if len(target) == 1 else f"{column}-{name}": values[..., channel].ravel()
        for channel, column in enumerate(target)
        for name, values in found.items()
    }


def _train(
    model: Increments,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    held: Mapping[Any, int],
    updates: int,
    learning_rate: float,
    seeds: int,
    seed: int,
    progress: Any,
) -> Any:
    """Lanes of series, or of pieces of the only one, through ``lt.fit``; the best seed's parameters."""
    counts = list(held.values())
    lengths = [len(ys) - count for (_, ys), count in zip(parts, counts, strict=True)]
    lanes, window = _windows(lengths)
    rows = [(xs[:length], ys[:length]) for (xs, ys), length in zip(parts, lengths, strict=True)]
    if len(rows) > 1:
        pieces = [piece for one in rows for piece in _cut(*one, max(lengths), lanes // len(rows), window)]
        rows = [*pieces, (pieces[0][0][:window], pieces[0][1][:window])]
    xs, ys = (jnp.asarray(np.concatenate([one[side] for one in rows])) for side in (0, 1))
    options: dict[str, Any] = {}
    if min(counts) > 0:
        burn = 256
        size = max(counts) + burn
        tails = [_validated(*part, count, size) for part, count in zip(parts, counts, strict=True)]
        options = {"validation": tuple(np.concatenate(side) for side in zip(*tails, strict=True))}
    if len(parts) > 1:
        model = side_by_side(model, len(parts))
    rounds = max(count for count in range(1, 13) if updates % count == 0)
    shown = _printed if progress is True else progress or None
    keys = jax.random.split(jax.random.key(seed), seeds)
    fit = training.fit(
        model, keys, xs, ys, updates=updates, evaluate_every=updates // rounds, window=window, batch=lanes,
        learning_rate=learning_rate, progress=shown, **options,
    )  # fmt: skip
    best = int(jnp.argmin(jnp.where(jnp.isfinite(fit.best), fit.best, jnp.inf)))
    return jax.tree.map(lambda leaf: leaf[best], fit.params)


def _origins(held: int, horizon: int, series: int, season: int | None) -> _Origins:
    """Of ``held`` validation rows of each series."""
    steps = min(horizon, held // 4)
    if not steps:
        return _Origins(held, 0, 1, 0)
    count = max(8, FORECASTS // series)
    every = max(1, (held - steps) // (count - 1))
    while math.gcd(every, season or 1) > 1:
        every -= 1
    count = min(count, (held - steps) // every + 1)
    return _Origins(every * (count - 1) + steps, steps, every, count)


def _printed(done: int, scores: Array) -> None:
    print(f"{done} updates: validation {float(jnp.min(scores)):.4f} nats", file=sys.stderr)


def _windows(lengths: Sequence[int]) -> tuple[int, int]:
    """Lanes and window of an update: 8 of 256 rows, or about as many rows in shorter windows."""
    shortest, count = max(lengths), len(lengths)
    usual = 256 if count <= 8 else max(32, 1 << int(math.log2(2048 / count)))
    for window in (256, 128, 64, 32, 16):
        if window > usual:
            continue
        lanes = min(8, shortest // window - 1) if count == 1 else count * max(1, min(8 // count, shortest // window))
        if lanes >= (4 if window > 16 else 1) and (count == 1 or window <= shortest):
            break
    if window < usual:
        warnings.warn(
            f"fit: {shortest} training rows are few: windows of {window} rows in place of {usual}, {lanes} at a time",
            stacklevel=4,
        )
    return lanes, window


def _cut(xs: np.ndarray, ys: np.ndarray, longest: int, pieces: int, window: int) -> list[tuple]:
    """Pieces of one length, each with a window of rows behind it that do not count."""
    size = -(-longest // pieces)
    padded = size + window
    found = []
    for at in range(pieces):
        part = slice(at * size, (at + 1) * size)
        x, y = xs[part], ys[part]
        rest = padded - len(x)
        found.append((np.concatenate([x, np.zeros((rest, xs.shape[1]), xs.dtype)]),
                      np.concatenate([y, np.zeros((rest, ys.shape[1]), ys.dtype)])))  # fmt: skip
    return found


def _validated(xs: np.ndarray, ys: np.ndarray, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The last rows of a series, of which ``count`` count and the others warm up; behind rows that are nothing."""
    xs, ys = np.array(xs[-size:]), ys[-size:]
    xs[: len(xs) - count, -1] = 0
    rest = size - len(xs)
    return (np.concatenate([np.zeros((rest, xs.shape[1]), xs.dtype), xs]),
            np.concatenate([np.zeros((rest, ys.shape[1]), ys.dtype), ys]))  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _rollout(model: Increments, params: Any, key: Array, xs: Array, ys: Array, state: Any = None) -> tuple[Any, Any]:
    return model.rollout(params, key, xs, ys, state)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(model: Increments, paths: int, y_dim: int, params: Any, keys: Array, states: Any, xs: Array) -> Array:
    def one(key: Array, state: Any, xs: Array) -> Array:
        return paths_ahead.forecast(model, params, key, state, xs, samples=paths, y_dim=y_dim).samples

    return jax.vmap(one)(keys, states, xs)


@functools.partial(jax.jit, static_argnums=0)
def _observe(model: Increments, params: Any, states: Any, index: Array, x: Array, y: Array) -> Any:
    state = jax.tree.map(lambda leaf: leaf[index], states)
    state, _ = model.rollout(params, jax.random.key(0), x[None], y[None], state)
    return jax.tree.map(lambda leaf, new: leaf.at[index].set(new), states, state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _replay(
    models: tuple, sizes: tuple, params: Any, key: Array, state: Any, ahead: Array, xs: Array, ys: Array
) -> Float[Array, "cutoffs K h C"]:
    """Forecast, absorb ``every`` rows, forecast …."""
    (model, on_path), (paths, every, y_dim) = models, sizes
    whole = [leaf[: every * (len(ahead) - 1)].reshape(-1, every, leaf.shape[1]) for leaf in (xs, ys)]
    keys = jax.random.split(key, len(ahead))

    def sample(key: Array, state: Any, xs: Array) -> Array:
        return paths_ahead.forecast(on_path, params, key, state, xs, samples=paths, y_dim=y_dim).samples

    def body(state: Any, inputs: tuple) -> tuple[Any, Any]:
        return model.rollout(params, key, *inputs, state)[0], state

    last, before = jax.lax.scan(body, state, tuple(whole))
    states = jax.tree.map(lambda leaf, end: jnp.concatenate([leaf, end[None]]), before, last)
    return jax.lax.map(lambda one: sample(*one), (keys, states, ahead))
