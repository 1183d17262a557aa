"""A stream that changes while a trained model runs on it: what changes, and its scores around the change."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.data.series import Series
from experiments.streaming import protocol
from experiments.streaming.protocol import Spans, Stream

BEFORE, AFTER = 168, 336
"""Steps scored before each change and from it on."""


class Setting(NamedTuple):
    """A series: target, a day in rows, its spans, the column that a new station measures, the target with its unit."""

    target: str
    day: int
    spans: Spans
    other: str
    label: str


class Course(NamedTuple):
    """What a model meets: the steps that warm it up, those between changes, and those around each.

    Attributes:
        warm: x and y before what is scored of the first change.
        between: x and y [K − 1, G, ...] from there to the same place before the next change.
        around: x and y [C, K, BEFORE + AFTER, ...] of each kind of change at each of K times.
    """

    warm: tuple[Any, Any]
    between: tuple[Any, Any]
    around: tuple[Any, Any]


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
    apart = (len(series.time) - AFTER - first) // max(1, times - 1)
    if apart < BEFORE:
        raise ValueError(f"times: expected changes at least {BEFORE} rows apart, got {apart}; ask for fewer")
    rows = [first + apart * k for k in range(times)]
    target, other = (series.column(name) for name in (setting.target, setting.other))

    def around(change: Change, row: int) -> tuple[np.ndarray, np.ndarray]:
        values = np.concatenate([series.values[:row], change(series.values, target, other, Place(row, train, year))])
        found, at = prepared(values).test, row - test
        return found.xs[at - BEFORE : at + AFTER], found.ys[at - BEFORE : at + AFTER]

    parts = [[around(change, row) for row in rows] for change in CHANGES.values()]
    warm = [np.concatenate([getattr(span, name) for span in (stream.validation, stream.test)]) for name in ("xs", "ys")]
    begin = first - BEFORE - train
    between = [leaf[begin : begin + apart * (times - 1)].reshape(times - 1, apart, -1) for leaf in warm]
    stacked = [np.array([[one[side] for one in kind] for kind in parts]) for side in (0, 1)]
    return stream, Course((warm[0][:begin], warm[1][:begin]), (between[0], between[1]), (stacked[0], stacked[1])), apart


@functools.partial(jax.jit, static_argnums=(0, 1))
def nll(model: Any, samples: int, params: Any, keys: Array, course: Course) -> Float[Array, "S C K T"]:
    """−log p of each step around each change, in units of y, of each seed; nothing is carried from change to change."""

    def one(inputs: tuple[Any, Array]) -> Array:
        params, key = inputs

        def after(state: Any, xs: Array, ys: Array) -> tuple[Any, Array]:
            state, outputs = model.rollout(params, key, xs, ys, state, samples)
            return state, -outputs.log_prob

        def advance(state: Any, part: tuple[Array, Array]) -> tuple[Any, Any]:
            return after(state, *part)[0], state

        start, _ = model.rollout(params, key, *course.warm, samples=samples)
        last, states = jax.lax.scan(advance, start, course.between)
        states = jax.tree.map(lambda many, leaf: jnp.concatenate([many, leaf[None]]), states, last)
        scored = jax.vmap(lambda *inputs: after(*inputs)[1])
        return jax.lax.map(lambda part: scored(states, *part), course.around)

    return jax.lax.map(one, (params, keys))
