"""Time: frequencies, grids of time stamps, and where in its day, week and year a stamp lies."""

import re
from typing import NamedTuple

import numpy as np

_FIXED = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_MONTHS = {"mo": 1, "ms": 1, "m": 1, "me": 1, "q": 3, "qs": 3, "y": 12, "ys": 12}
_ALIASES = {"t": "min", "sec": "s", "hour": "h", "day": "d", "week": "w", "w-sun": "w", "w-mon": "w"}
_SECONDS = {"day": 86_400, "week": 7 * 86_400}
HARMONICS = 2


class Frequency(NamedTuple):
    """Seconds between rows, or months (of which the first days are the stamps)."""

    seconds: int
    months: int

    @property
    def text(self) -> str:
        """As a user writes it."""
        if self.months:
            return f"{self.months}mo"
        for unit in ("w", "d", "h", "min", "s"):
            if self.seconds % _FIXED[unit] == 0:
                return f"{self.seconds // _FIXED[unit]}{unit}"
        raise AssertionError

    @property
    def season(self) -> int | None:
        """Rows until the pattern of a day, a week or a year comes again: 24 for hours, 7 for days, 12 for months."""
        if self.months:
            return 12 // self.months if 12 % self.months == 0 and self.months < 12 else None
        for period in (_FIXED["d"], _FIXED["w"], 364 * _FIXED["d"]):
            if self.seconds < period and period % self.seconds == 0:
                return period // self.seconds if period // self.seconds <= 1440 else None
        return None


def parse(text: str) -> Frequency:
    """Of "1h", "30min", "D", "1mo", "MS": pandas' and polars' names."""
    found = re.fullmatch(r"\s*(\d*)\s*([A-Za-z-]+)\s*", text)
    unit = "" if found is None else _ALIASES.get(found[2].lower(), found[2].lower())
    count = 0 if found is None else int(found[1] or 1)
    if found is not None and count > 0 and unit in _FIXED:
        return Frequency(count * _FIXED[unit], 0)
    if found is not None and count > 0 and unit in _MONTHS and unit not in ("m", "me"):
        return Frequency(0, count * _MONTHS[unit])
    raise ValueError(
        f"freq: expected a number and a unit such as '30min', '1h', '1d', '1w' or '1mo' (stamped at its first day), "
        f"got {text!r}; write it so, or leave it out to have it inferred"
    )


def infer(seconds: np.ndarray) -> Frequency | None:
    """The most common step of sorted stamps, in seconds since 1970; months where all stamps begin one."""
    steps = np.diff(seconds)
    if not len(steps):
        return None
    stamps = seconds.astype("datetime64[s]")
    starts = stamps.astype("datetime64[M]").astype("datetime64[s]")
    if (starts == stamps).all() and steps.min() >= 28 * 86_400:
        months = np.diff(stamps.astype("datetime64[M]").astype(int))
        return Frequency(0, int(np.bincount(months).argmax()))
    values, counts = np.unique(steps, return_counts=True)
    return Frequency(int(values[counts.argmax()]), 0) if values[counts.argmax()] > 0 else None


def positions(seconds: np.ndarray, start: int, frequency: Frequency) -> tuple[np.ndarray, np.ndarray]:
    """Rows of stamps on the grid from ``start``, and which stamps lie on it."""
    if frequency.months:
        stamps = seconds.astype("datetime64[s]")
        months = stamps.astype("datetime64[M]")
        distance = (months - np.datetime64(int(start), "s").astype("datetime64[M]")).astype(int)
        on = (months.astype("datetime64[s]") == stamps) & (distance % frequency.months == 0)
        return distance // frequency.months, on
    distance = seconds - start
    return distance // frequency.seconds, distance % frequency.seconds == 0


def stamps(start: int, rows: np.ndarray, frequency: Frequency) -> np.ndarray:
    """Seconds since 1970 of rows on the grid."""
    if frequency.months:
        first = np.datetime64(int(start), "s").astype("datetime64[M]")
        return (first + np.asarray(rows) * frequency.months).astype("datetime64[s]").astype(np.int64)
    return start + np.asarray(rows, np.int64) * frequency.seconds


def cycles(frequency: Frequency, span: int) -> tuple[str, ...]:
    """Which of day, week and year a series of these rows, ``span`` seconds long, has and can be seen to have.

    A year that was seen once is a time index, and would be learned as one.
    """
    step = frequency.seconds or 30 * 86_400 * frequency.months
    names = [name for name, period in _SECONDS.items() if step < period and span >= 2 * period]
    return (*names, *(["year"] if step < 180 * 86_400 and span >= 2 * 365 * 86_400 else []))


def features(seconds: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Sines and cosines of the phase in each cycle and of twice it, of local time [T, 4 · cycles]."""
    found = []
    for name in names:
        if name == "year":
            stamp = seconds.astype("datetime64[s]")
            begin = stamp.astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)
            phase = (seconds - begin) / (365.2425 * 86_400)
        else:
            phase = (seconds % _SECONDS[name]) / _SECONDS[name]
        for harmonic in range(1, HARMONICS + 1):
            angle = 2 * np.pi * harmonic * phase
            found += [np.sin(angle), np.cos(angle)]
    return np.stack(found, axis=-1) if found else np.zeros((*np.shape(seconds), 0))
