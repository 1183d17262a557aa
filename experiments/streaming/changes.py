"""A stream that changes while a trained model runs on it: what changes, and its scores around the change."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from experiments.data.series import Series
from experiments.streaming import protocol
from experiments.streaming.protocol import Spans, Stream

PIECE = 168
"""Steps that are run at once: one program for all of a model's."""
BEFORE, AFTER = PIECE, 2 * PIECE
"""Steps scored before each change and from it on."""


class Setting(NamedTuple):
    """A series: target, a day in rows, its spans, the column that a new station measures, the target with its unit."""

    target: str
    day: int
    spans: Spans
    other: str
    label: str


class Course(NamedTuple):
    """What a model meets, in pieces of ``PIECE`` steps.

    Attributes:
        base: x and y [N, PIECE, ...] of the stream as it is, from the validation span to the last change.
        at: after how many of these pieces each of the K changes happens.
        after: x and y [C, K, AFTER / PIECE, PIECE, ...] from each change on, of each kind.
    """

    base: tuple[np.ndarray, np.ndarray]
    at: tuple[int, ...]
    after: tuple[np.ndarray, np.ndarray]


class Place(NamedTuple):
    """Where a series changes: at the row, whose training span ends before ``train``, with so many rows in a year."""

    row: int
    train: int
    year: int


Change = Callable[[np.ndarray, int, int, Place], np.ndarray]
"""(values [T, C], column of the target, column of the other station, place) → values from the row on."""


def unchanged(values: np.ndarray, target: int, other: int, place: Place) -> np.ndarray:
    """The series itself."""
    return values[place.row :]


def offset(values: np.ndarray, target: int, other: int, place: Place) -> np.ndarray:
    """The target's sensor shows a standard deviation of the training span more."""
    return _replaced(values, place, target, values[place.row :, target] + values[: place.train, target].std())


def gain(values: np.ndarray, target: int, other: int, place: Place) -> np.ndarray:
    """The target's sensor shows 1.5 times the difference from the training span's mean."""
    mean = values[: place.train, target].mean()
    return _replaced(values, place, target, mean + 1.5 * (values[place.row :, target] - mean))


def season(values: np.ndarray, target: int, other: int, place: Place) -> np.ndarray:
    """All columns go on with what was measured half a year before; the calendar goes on as it was."""
    half = place.year // 2
    return values[place.row - half : len(values) - half]


def station(values: np.ndarray, target: int, other: int, place: Place) -> np.ndarray:
    """The target is another quantity of the same family, in the scale of the one before."""
    return _replaced(values, place, target, values[place.row :, other])


CHANGES: dict[str, Change] = {
    "unchanged": unchanged,
    "offset": offset,
    "gain": gain,
    "season": season,
    "station": station,
}


def _replaced(values: np.ndarray, place: Place, column: int, new: np.ndarray) -> np.ndarray:
    found = values[place.row :].copy()
    found[:, column] = new
    return found


def course(series: Series, setting: Setting, times: int) -> tuple[Stream, Course, int]:
    """The stream, what a model meets on it, and the rows between two changes.

    Changes are spread evenly over the rows of the test span that have half a year of rows after training before them.

    Raises:
        ValueError: the test span is too short for so many times, or has gaps.
    """

    def prepared(values: np.ndarray) -> Stream:
        given = series._replace(values=values)
        return protocol.prepare(given, setting.target, lag=1, day=setting.day, spans=setting.spans, label=setting.label)

    stream = prepared(series.values)
    if stream.test.mask is not None:
        raise ValueError("series: expected no missing values, got some; fill them")
    train, test = (int(np.searchsorted(series.time, start)) for start in setting.spans)
    step = float(np.median(np.diff(series.time[:1000]) / np.timedelta64(1, "s")))
    year = round(365.25 * 24 * 3600 / step)
    first = max(test + BEFORE, train + year // 2)
    apart = (len(series.time) - AFTER - first) // max(1, times - 1) // PIECE * PIECE
    if apart < PIECE:
        raise ValueError(f"times: expected changes at least {PIECE} rows apart, got {times} times; ask for fewer")
    rows = [first + apart * k for k in range(times)]
    target, other = (series.column(name) for name in (setting.target, setting.other))

    def after(change: Change, row: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.concatenate([series.values[:row], change(series.values, target, other, Place(row, train, year))])
        found = prepared(values).test
        return _pieces(found.xs, row - test, row - test + AFTER), _pieces(found.ys, row - test, row - test + AFTER)

    begin = (first - train) % PIECE
    base = [
        _pieces(np.concatenate([getattr(stream.validation, name), getattr(stream.test, name)]), begin, rows[-1] - train)
        for name in ("xs", "ys")
    ]
    parts = [[after(change, row) for row in rows] for change in CHANGES.values()]
    changed = [np.array([[one[side] for one in kind] for kind in parts]) for side in (0, 1)]
    at = tuple((row - train - begin) // PIECE for row in rows)
    return stream, Course((base[0], base[1]), at, (changed[0], changed[1])), apart


def _pieces(values: np.ndarray, start: int, stop: int) -> np.ndarray:
    return values[start:stop].reshape(-1, PIECE, values.shape[-1])


def nll(model: Any, samples: int, params: Any, keys: Array, course: Course) -> Float[np.ndarray, "S C K T"]:
    """−log p of each step around each change, in units of y, of each seed; nothing is carried from change to change."""
    xs, ys = course.after
    found = np.empty((len(keys), *xs.shape[:2], BEFORE + AFTER), ys.dtype)
    for seed, key in enumerate(keys):
        given = jax.tree.map(lambda leaf: leaf[seed], params)  # noqa: B023
        run = functools.partial(_piece, model, samples, given, key)
        state = model.initial_state(given)
        for count, piece in enumerate(zip(*course.base, strict=True), 1):
            state, before = run(state, *piece)
            if count not in course.at:
                continue
            place = course.at.index(count)
            found[seed, :, place, :BEFORE] = before
            for change in range(len(xs)):
                later = state
                for part, piece in enumerate(zip(xs[change, place], ys[change, place], strict=True), 1):
                    later, scores = run(later, *piece)
                    found[seed, change, place, part * PIECE : (part + 1) * PIECE] = scores
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _piece(model: Any, samples: int, params: Any, key: Array, state: Any, xs: Any, ys: Any) -> tuple[Any, Array]:
    state, outputs = model.rollout(params, key, xs, ys, state, samples)
    return state, -outputs.log_prob
