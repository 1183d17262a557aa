"""Frames of pandas and polars as arrays on a grid of time, and back: columns are looked up, checked and kept."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from jaxtyping import Float

from latenttrack.drivers import calendar
from latenttrack.drivers.calendar import Frequency

try:
    import narwhals as nw
except ImportError as error:
    raise ImportError(
        "Forecaster: expected the package narwhals, got none; pip install 'weightfilter[forecast]'"
    ) from error


class Columns(NamedTuple):
    """What is looked up in a frame: names of the time (None: the only one of time), the series, and the values."""

    time: str | None
    id: str | None
    values: tuple[str, ...]


class Kind(NamedTuple):
    """How a frame tells time: the library, the column's name and unit, its zone, whether it is a date without time."""

    library: str
    time: str
    unit: str
    zone: str | None
    date: bool


class Rows(NamedTuple):
    """One series' rows on the grid.

    Attributes:
        start: stamp of the first row, in seconds of UTC since 1970.
        values: [T, C], NaN where missing.
    """

    start: int
    values: Float[np.ndarray, "T C"]


def read(
    frame: Any, columns: Columns, frequency: Frequency | None, name: str = "frame"
) -> tuple[dict[Any, Rows], Frequency, Kind]:
    """The rows of each series on the grid of its own first stamp; without ids the series is called None.

    Raises:
        TypeError: not a frame; a column is not of time or not numeric.
        ValueError: a column is missing or duplicated; stamps are missing, duplicated, unsorted or off the grid; a value
            is infinite.
    """
    wrapped, time = _wrapped(frame, columns, name)
    kind = _kind(wrapped, time, name)
    seconds = _seconds(wrapped[time], kind, name)
    values = np.stack([_numbers(wrapped[column], name) for column in columns.values], axis=1)
    series = _series(wrapped, columns.id, name)
    for key, rows in series.items():
        _in_order(seconds[rows], kind, name, key)
    if frequency is None:
        found = [calendar.infer(seconds[rows]) for rows in series.values() if len(rows) > 1]
        frequency = next((one for one in found if one is not None), None)
        if frequency is None:
            raise ValueError(
                f"{name}: expected at least two rows, to infer the frequency from, got {len(seconds)}; give freq, for "
                "instance '1h'"
            )
    grids = {k: _gridded(seconds[rows], values[rows], frequency, kind, name, k) for k, rows in series.items()}
    return grids, frequency, kind


def row(values: Mapping, columns: Columns, kind: Kind) -> tuple[Any, int, Float[np.ndarray, " C"]]:
    """One row as a mapping of columns to values: the series, its stamp, the values (None: NaN)."""
    wanted = (kind.time, *(() if columns.id is None else (columns.id,)), *columns.values)
    try:
        found = [values[column] for column in wanted]
    except KeyError:
        missing = [column for column in wanted if column not in values]
        raise ValueError(
            f"row: expected the columns {', '.join(map(repr, wanted))}, got none of the name "
            f"{', '.join(map(repr, missing))}; give a value for each, None where it is missing"
        ) from None
    key = None if columns.id is None else found[1]
    numbers = found[1 if columns.id is None else 2 :]
    try:
        array = np.array([np.nan if value is None else value for value in numbers], float)
    except (TypeError, ValueError):
        raise TypeError(
            f"row: expected numbers in {', '.join(map(repr, columns.values))}, got {numbers!r}; convert them, None "
            "where one is missing"
        ) from None
    if np.isinf(array).any():
        raise ValueError(f"row: expected finite numbers, got {numbers!r}; give None where a value is missing")
    return key, _stamp(found[0], kind), array


def wall(seconds: np.ndarray, kind: Kind) -> np.ndarray:
    """Local time of stamps in UTC, in seconds."""
    if kind.zone is None:
        return seconds
    zone = ZoneInfo(kind.zone)
    times = [datetime.datetime.fromtimestamp(int(second), zone) for second in seconds.ravel()]
    offsets = [time.utcoffset() or datetime.timedelta() for time in times]
    return seconds + np.array([int(offset.total_seconds()) for offset in offsets], np.int64).reshape(seconds.shape)


_LIBRARIES: Mapping[str, Any] = {"pandas": nw.Implementation.PANDAS, "polars": nw.Implementation.POLARS}


def made(kind: Kind, ids: Mapping[str, Sequence], stamps: Mapping[str, np.ndarray], columns: Mapping) -> Any:
    """A frame of the same library: ids, columns of stamps of the same kind, then the others."""
    times = {
        name: seconds.astype("datetime64[s]").astype(f"datetime64[{kind.unit}]") for name, seconds in stamps.items()
    }
    frame = nw.from_dict({**ids, **times, **columns}, backend=_LIBRARIES[kind.library])
    found = []
    for name in stamps:
        time = nw.col(name)
        if kind.zone is not None:
            time = time.dt.replace_time_zone("UTC").dt.convert_time_zone(kind.zone)
        found.append(time.cast(nw.Date) if kind.date else time)
    return frame.with_columns(*found).to_native()


def _wrapped(frame: Any, columns: Columns, name: str) -> tuple[Any, str]:
    """The frame, and the column of its time."""
    if nw.dependencies.is_pandas_dataframe(frame):
        _once(list(frame.columns), name)
    try:
        wrapped = nw.from_native(frame, eager_only=True)
    except (TypeError, ValueError, nw.exceptions.NarwhalsError) as error:
        raise TypeError(
            f"{name}: expected a DataFrame of pandas or polars, got {type(frame).__module__.partition('.')[0]}."
            f"{type(frame).__name__}; convert it (a LazyFrame: collect it)"
        ) from error
    if not len(wrapped):
        raise ValueError(f"{name}: expected rows, got none; give at least one")
    index = nw.maybe_get_index(wrapped)
    if index is not None and str(index.dtype).startswith("datetime64"):
        time = columns.time or index.name or "time"
        if time not in wrapped.columns:
            wrapped = nw.from_native(frame.rename_axis(time).reset_index(), eager_only=True)
    times = [column for column in wrapped.columns if isinstance(wrapped.schema[column], nw.Datetime | nw.Date)]
    time = columns.time if columns.time is not None else times[0] if len(times) == 1 else None
    if time is None:
        raise ValueError(
            f"{name}: expected one column of date times, got {', '.join(map(repr, times)) or 'none'}; name it with "
            "time=, and parse it where it is text"
        )
    wanted = (time, *(() if columns.id is None else (columns.id,)), *columns.values)
    missing = [column for column in wanted if column not in wrapped.columns]
    if missing:
        raise ValueError(
            f"{name}: expected the columns {', '.join(map(repr, wanted))}, got none of the name "
            f"{', '.join(map(repr, missing))}; add or rename it"
        )
    return wrapped, time


def _once(names: list, name: str) -> None:
    twice = sorted({str(column) for column in names if names.count(column) > 1})
    if twice:
        raise ValueError(
            f"{name}: expected each column once, got {', '.join(map(repr, twice))} more than once; drop or rename one"
        )


def _kind(wrapped: Any, time: str, name: str) -> Kind:
    dtype = wrapped.schema[time]
    if not isinstance(dtype, nw.Datetime | nw.Date):
        raise TypeError(
            f"{name}: expected date times in {time!r}, got {dtype}; parse them, for instance by pandas.to_datetime"
        )
    library = wrapped.implementation.value
    if library not in _LIBRARIES:
        raise TypeError(f"{name}: expected a DataFrame of pandas or polars, got one of {library}; convert it")
    if isinstance(dtype, nw.Date):
        return Kind(library, time, "us", None, True)
    return Kind(library, time, dtype.time_unit, dtype.time_zone, False)


def _seconds(column: Any, kind: Kind, name: str) -> np.ndarray:
    if column.is_null().any():
        raise ValueError(
            f"{name}: expected a time in every row of {kind.time!r}, got {int(column.is_null().sum())} without; drop "
            "them"
        )
    if kind.date:
        column = column.cast(nw.Datetime("us"))
    exact = column.dt.timestamp("us").to_numpy().astype(np.int64)
    if (exact % 1_000_000).any():
        raise ValueError(
            f"{name}: expected whole seconds in {kind.time!r}, got {exact[exact % 1_000_000 > 0][0] / 1e6}; round them"
        )
    return exact // 1_000_000


def _numbers(column: Any, name: str) -> np.ndarray:
    if not (column.dtype.is_numeric() or column.dtype == nw.Boolean):
        raise TypeError(
            f"{name}: expected numbers in {column.name!r}, got {column.dtype}; convert it to a numeric column"
        )
    values = np.asarray(column.cast(nw.Float64).to_numpy(), float)
    if np.isinf(values).any():
        raise ValueError(
            f"{name}: expected finite values in {column.name!r}, got infinity in row {int(np.isinf(values).argmax())}; "
            "put NaN or null where a value is missing"
        )
    return values


def _series(wrapped: Any, id_name: str | None, name: str) -> dict[Any, np.ndarray]:
    if id_name is None:
        return {None: np.arange(len(wrapped))}
    column = wrapped[id_name]
    if column.is_null().any():
        raise ValueError(
            f"{name}: expected an id in every row of {id_name!r}, got {int(column.is_null().sum())} without; fill them"
        )
    ids = np.asarray(column.to_list(), object)
    return {key: np.flatnonzero(ids == key) for key in dict.fromkeys(ids.tolist())}


def _in_order(seconds: np.ndarray, kind: Kind, name: str, key: Any) -> None:
    where, advice = f" of {key!r}", "drop one"
    if key is None:
        where, advice = "", "name the column that tells series apart with id=, or drop one"
    # Two series one below the other are in no order either, but sorting would not help.
    stamps, counts = np.unique(seconds, return_counts=True)
    if (counts > 1).any():
        at = shown(stamps[counts > 1][0], kind)
        raise ValueError(f"{name}: expected each time once in {kind.time!r}{where}, got {at} more than once; {advice}")
    steps = np.diff(seconds)
    if (steps < 0).any():
        at = shown(seconds[1:][steps < 0][0], kind)
        raise ValueError(
            f"{name}: expected increasing times in {kind.time!r}{where}, got {at} after a later one; sort the frame"
        )


def _gridded(seconds: np.ndarray, values: np.ndarray, frequency: Frequency, kind: Kind, name: str, key: Any) -> Rows:
    where = "" if key is None else f" of {key!r}"
    if frequency.months and kind.zone is not None:
        raise ValueError(
            f"{name}: expected times without a zone for a frequency of months, got {kind.zone}; remove the zone"
        )
    at, on = calendar.positions(seconds, seconds[0], frequency)
    if not on.all():
        raise ValueError(
            f"{name}: expected times in {kind.time!r}{where} every {frequency.text} from {shown(seconds[0], kind)} on, "
            f"got {shown(seconds[~on][0], kind)}; round them, or give another freq"
        )
    if at[-1] + 1 > 20 * len(at) + 1000:
        raise ValueError(
            f"{name}: expected times about every {frequency.text}{where}, got {len(at)} rows in {at[-1] + 1} such "
            "steps; give another freq"
        )
    whole = np.full((at[-1] + 1, values.shape[1]), np.nan)
    whole[at] = values
    return Rows(int(seconds[0]), whole)


def shown(seconds: Any, kind: Kind) -> str:
    """A stamp as a user reads it."""
    return str(wall(np.asarray([seconds], np.int64), kind)[0].astype("datetime64[s]")).replace("T", " ")


def _stamp(value: Any, kind: Kind) -> int:
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[s]").astype(np.int64))
    if isinstance(value, datetime.datetime):
        if (value.tzinfo is None) != (kind.zone is None):
            raise ValueError(
                f"row: expected times {'with' if kind.zone else 'without'} a zone in {kind.time!r}, got {value}; give "
                "them as in fit"
            )
        value = value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value
        return int(value.timestamp())
    if isinstance(value, datetime.date):
        return int(np.datetime64(value, "s").astype(np.int64))
    raise TypeError(
        f"row: expected a date time in {kind.time!r}, got {type(value).__name__}; parse it, for instance by "
        "datetime.fromisoformat"
    )
