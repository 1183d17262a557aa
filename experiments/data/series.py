"""Published time series: the prepared file or the official csv, verified by checksum, give the same arrays."""

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pooch
from jaxtyping import Float32

from experiments.data import npz
from experiments.data.download import download
from experiments.data.files import FOLDER_VARIABLE, DataFileError, own, own_folder

MISSING = -9999
"""What the Jena station writes where it measured nothing."""


class Series(NamedTuple):
    """``values`` [N, C] in the units that ``columns`` name, NaN where missing; ``time`` [N], increasing."""

    values: Float32[np.ndarray, "N C"]
    time: np.ndarray
    columns: tuple[str, ...]

    def column(self, name: str) -> int:
        """The position of a column."""
        if name not in self.columns:
            raise ValueError(f"column: expected one of {', '.join(self.columns)}, got {name!r}")
        return self.columns.index(name)


class PublishedText(NamedTuple):
    """A csv file: its path inside the data folder, its address (zip, gz or plain), the SHA-256 of its plain bytes."""

    path: str
    address: str
    sha256: str


JENA = PublishedText(
    "series/jena_climate_2009_2016.csv",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/jena_climate_2009_2016.csv.zip",
    "eb3df9da6c25039f10814ded0a14138bb0afa3612be9cf79cafdf1cf6f95172e",
)
ETT_H1 = PublishedText(
    "series/ETTh1.csv",
    "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
    "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
)
VICTORIA = PublishedText(
    "series/vic-electricity.csv",
    "https://raw.githubusercontent.com/skforecast/skforecast-datasets/main/data/vic_electricity.csv",
    "6fa81bc3552f8822e984900f727584b82b3f10f41d78a1a0cdda2879a29a122e",
)
EXCHANGE = PublishedText(
    "series/exchange-rate.txt",
    "https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master/exchange_rate/exchange_rate.txt.gz",
    "0127465b51e3cd3c360f8eb2be30cfd294689a2a55903eb8245aafc396626c7f",
)
ELEC2 = PublishedText(
    "series/elec2.csv",
    "https://www.openml.org/d/151",
    "371ea0992c2c50bd9f63102dc5b7e1d486aa3203de2ec2eed12c5a05fe8cca1a",
)
_JENA_HOURLY, _JENA_2020 = "series/jena-hourly-2009-2016-6ch.npz", "series/jena-10min-2020-21ch.npz"
JENA_CHANNELS = ("T (degC)", "p (mbar)", "rh (%)", "VPmax (mbar)", "wv (m/s)", "Tdew (degC)")
"""The six channels of the hourly Jena stream."""


def jena_hourly() -> Series:
    """Jena Climate 2009–2016, six channels, hourly: the first of each six 10-minute rows [70038, 6].

    Raises:
        DataFileError: neither the prepared file nor the csv can be had, or the csv has a wrong checksum.
    """
    prepared = _prepared(_JENA_HOURLY)
    return prepared if prepared is not None else hourly(parse_jena(text(JENA)))


def jena_2020() -> Series:
    """The same station in 2020 at 10 minutes, 21 channels [52696, 21]; no official address serves this file.

    Raises:
        DataFileError: the file is not in the folder that ``WEIGHTFILTER_DATA`` names.
    """
    prepared = _prepared(_JENA_2020)
    if prepared is None:
        raise DataFileError(
            f"expected {_JENA_2020} inside the folder named by {FOLDER_VARIABLE}; it has no official address: "
            "it is the 'weather' set of the long-term forecasting benchmarks as arrays values, time and columns"
        )
    return prepared


def ett_h1() -> Series:
    """ETTh1: six loads and the oil temperature OT of a transformer, hourly, 2016–2018 [17420, 7].

    Raises:
        DataFileError: the file cannot be had, or has a wrong checksum.
    """
    rows = _rows(text(ETT_H1))
    header, body = rows[0], rows[1:]
    time = np.array([row[0] for row in body], "datetime64[s]")
    return Series(np.array([row[1:] for row in body], np.float32), time, tuple(header[1:]))


def victoria() -> Series:
    """Electricity demand (MW), temperature (°C) and holidays (0 or 1) of Victoria, half-hourly, 2012–2014 [52608, 3].

    Raises:
        DataFileError: the file cannot be had, or has a wrong checksum.
    """
    body = _rows(text(VICTORIA))[1:]
    time = np.array([row[0].removesuffix("Z") for row in body], "datetime64[s]")
    values = [(float(demand), float(degrees), holiday == "TRUE") for _, demand, degrees, _, holiday in body]
    return Series(np.array(values, np.float32), time, ("Demand", "Temperature", "Holiday"))


def exchange_rates() -> Series:
    """Daily rates of eight currencies against the dollar, 1990–2010 [7588, 8]; the file has no dates: day 0, 1, ….

    Raises:
        DataFileError: the file cannot be had, or has a wrong checksum.
    """
    values = np.array(_rows(text(EXCHANGE)), np.float32)
    time = np.datetime64("1990-01-01", "s") + np.arange(len(values)) * np.timedelta64(1, "D")
    names = ("Australia", "Britain", "Canada", "Switzerland", "China", "Japan", "New Zealand", "Singapore")
    return Series(values, time, names)


def elec2() -> Series:
    """Prices and demands of New South Wales and Victoria and their transfer, scaled, half-hourly, 1996–1998 [45312, 5].

    The file's dates are scaled by an unknown rule and its days of the week follow each other without a gap, so that its
    rows are taken to be all half hours from 1996-05-07 on. OpenML has it in another format (data set 151): the csv,
    with the header ``date,day,period,nswprice,…``, is taken from the folder that ``WEIGHTFILTER_DATA`` names alone.

    Raises:
        DataFileError: the file is not there, or has a wrong checksum.
    """
    path = ELEC2.path + ("" if (own_folder() or Path()).joinpath(ELEC2.path).is_file() else ".gz")
    header, *body = _rows(_checked(ELEC2, own(path)))
    time = np.datetime64("1996-05-07", "s") + np.arange(len(body)) * np.timedelta64(1800, "s")
    return Series(np.array([row[3:-1] for row in body], np.float32), time, tuple(header[3:-1]))


def jena_carried() -> Series:
    """The hourly station of 2009–2014 and then, after a day without values, its 2020 at ten past each hour [61375, 6].

    Raises:
        DataFileError: as :func:`jena_hourly` and :func:`jena_2020`.
    """
    old, late = jena_hourly(), jena_2020()
    early = old.time < np.datetime64("2015-01-01")
    old = old._replace(values=old.values[early], time=old.time[early])
    time, rows = np.unique(late.time, return_index=True)
    past = time - time.astype("datetime64[h]") == np.timedelta64(10, "m")
    time, values = time[past], late.values[rows[past]][:, [late.column(name) for name in old.columns]]
    between = time[0] - np.arange(24, 0, -1) * np.timedelta64(1, "h")
    gap = np.full((len(between), len(old.columns)), np.nan, np.float32)
    return Series(np.concatenate([old.values, gap, values]), np.concatenate([old.time, between, time]), old.columns)


LOADERS: Mapping[str, Callable[[], Series]] = {
    "jena": jena_hourly,
    "jena-2020": jena_2020,
    "ett": ett_h1,
    "victoria": victoria,
    "exchange": exchange_rates,
    "elec2": elec2,
    "jena-carried": jena_carried,
}


def parse_jena(csv: str) -> Series:
    """The 10-minute rows in order of time, the first of those that share a time, all channels."""
    rows = _rows(csv)
    columns = tuple(name.strip('"') for name in rows[0][1:])
    stamps = np.array([row[0] for row in rows[1:]])
    days = [f"{s[6:10]}-{s[3:5]}-{s[0:2]}T{s[11:]}" for s in stamps]
    time, first = np.unique(np.array(days, "datetime64[s]"), return_index=True)
    values = np.array([row[1:] for row in rows[1:]], np.float32)[first]
    return Series(values, time, columns)


def hourly(series: Series) -> Series:
    """Each sixth row and six channels; no wind where the wind sensor was off."""
    channels = [series.column(name) for name in JENA_CHANNELS]
    values = series.values[::6, channels]
    wind = values[:, JENA_CHANNELS.index("wv (m/s)")]
    wind[wind == MISSING] = 0
    return Series(values, series.time[::6], JENA_CHANNELS)


def text(file: PublishedText) -> str:
    """The content of a published csv, from the user's folder (plain, ``.gz`` or ``.zip``), the cache or its address.

    Raises:
        DataFileError: it cannot be had, or its checksum differs.
    """
    folder = own_folder()
    if folder is not None:
        for ending in ("", ".gz", ".zip"):
            path = folder / (file.path + ending)
            if path.is_file():
                return _checked(file, path)
    target = Path(pooch.os_cache("weightfilter")) / file.path
    try:
        # The bytes inside are checked: an archive may be packed anew and hold the same file.
        name = target.name + Path(file.address).suffix.removeprefix(target.suffix)
        path = download(file.address, target.with_name(name), None)
    except (OSError, ValueError) as error:
        raise DataFileError(_explain(file, f"the download failed: {error}")) from error
    try:
        return _checked(file, path)
    except DataFileError:
        path.unlink(missing_ok=True)  # else a corrupt download would be met again at each start
        raise


def _checked(file: PublishedText, path: Path) -> str:
    try:
        content = _unpacked(path)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataFileError(_explain(file, f"{path} cannot be read: {error}")) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise DataFileError(_explain(file, f"{path} has {digest}"))
    return content.decode()


def _unpacked(path: Path) -> bytes:
    """The bytes inside, in memory: no name in an archive ever becomes a path."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [name for name in archive.namelist() if name.endswith(".csv") and not name.startswith("__MACOSX")]
            return archive.read(members[0]) if members else b""
    return content


def _rows(csv: str) -> list[list[str]]:
    return [line.split(",") for line in csv.splitlines() if line]


def _prepared(path: str) -> Series | None:
    folder = own_folder()
    if folder is None or not (folder / path).is_file():
        return None
    file = npz.read(folder / path, ("x", "time", "columns"))
    values = file["x"].astype(np.float32)
    values[values == MISSING] = np.nan
    return Series(values, file["time"], tuple(str(name) for name in file["columns"]))


def _explain(file: PublishedText, came: str) -> str:
    return (
        f"expected {file.path} with SHA-256 {file.sha256}, but {came}. "
        f"Download {file.address} by hand, save it as {file.path} inside a folder of your choice, "
        f"and set the environment variable {FOLDER_VARIABLE} to that folder"
    )
