"""Series: prepared files and official csv agree; the protocol is causal and takes statistics from the training span."""

import gzip
import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest

from experiments.catalogue import fresh
from experiments.data import series
from experiments.data.files import FOLDER_VARIABLE, DataFileError
from experiments.data.series import PublishedText, Series
from experiments.run import report, results
from experiments.streaming import protocol
from experiments.streaming.training import Budget

needs_data = pytest.mark.skipif(not os.environ.get(FOLDER_VARIABLE), reason=f"{FOLDER_VARIABLE} names no data folder")

HEADER = "Date Time,p (mbar),T (degC),Tpot (K),Tdew (degC),rh (%),VPmax (mbar),wv (m/s)"
SPANS = protocol.Spans(np.datetime64("2020-01-06"), np.datetime64("2020-01-09"))


def jena_csv(rows: list[str]) -> str:
    return "\n".join([HEADER, *rows]) + "\n"


def row(stamp: str, degrees: float, wind: float = 1.0) -> str:
    return f"{stamp},990,{degrees},270,-9,93,3.3,{wind}"


def some(days: int = 12, seed: int = 0) -> Series:
    rng = np.random.default_rng(seed)
    time = np.datetime64("2020-01-01", "s") + np.arange(24 * days) * np.timedelta64(3600, "s")
    values = np.cumsum(rng.normal(size=(len(time), 2)), axis=0).astype(np.float32)
    return Series(values, time, ("a", "b"))


class TestJena:
    def test_rows_are_in_order_of_time_and_the_first_of_each_time_is_kept(self) -> None:
        parsed = series.parse_jena(
            jena_csv([row("02.01.2009 00:10:00", 5), row("01.01.2009 00:10:00", 1), row("01.01.2009 00:10:00", 9)])
        )
        assert parsed.columns[1] == "T (degC)"
        np.testing.assert_array_equal(parsed.values[:, 1], [1, 5])
        assert parsed.time[0] == np.datetime64("2009-01-01T00:10:00")

    def test_each_sixth_row_and_no_wind_where_the_sensor_was_off(self) -> None:
        rows = [
            row(f"01.01.2009 {10 * i // 60:02d}:{10 * i % 60:02d}:00", i, -9999 if i == 6 else 2) for i in range(13)
        ]
        hourly = series.hourly(series.parse_jena(jena_csv(rows)))
        assert hourly.columns == series.JENA_CHANNELS
        np.testing.assert_array_equal(hourly.values[:, 0], [0, 6, 12])
        np.testing.assert_array_equal(hourly.values[:, 4], [2, 0, 2])

    @needs_data
    def test_the_prepared_array_is_the_published_one(self) -> None:
        loaded = series.jena_hourly()
        assert loaded.values.shape == (70038, 6) and loaded.values.dtype == np.float32
        assert loaded.columns == series.JENA_CHANNELS
        assert (np.diff(loaded.time) > np.timedelta64(0)).all() and np.isfinite(loaded.values).all()

    @needs_data
    def test_ten_minute_rows_give_the_same_hourly_rows(self) -> None:
        path = Path(os.environ[FOLDER_VARIABLE]) / "series/jena-10min-2009-jan-11ch.npz"
        with np.load(path) as file:
            values, time, columns = file["x"], file["time"], [str(name) for name in file["columns"]]
        # The file lacks the wind; the csv text goes through the parser, in another order and with rows twice.
        stamps = [f"{t[8:10]}.{t[5:7]}.{t[:4]} {t[11:]}" for t in np.datetime_as_string(time, "s")]
        body = [",".join([stamp, *map(repr, one.tolist()), "0.5"]) for stamp, one in zip(stamps, values, strict=True)]
        text = "\n".join([",".join(["Date Time", *columns, "wv (m/s)"]), *body[2000:], *body[:2000], *body[:5]])
        hourly, whole = series.hourly(series.parse_jena(text)), series.jena_hourly()
        assert len(hourly.time) == 667
        np.testing.assert_array_equal(hourly.time, whole.time[:667])
        others = [0, 1, 2, 3, 5]
        np.testing.assert_array_equal(hourly.values[:, others], whole.values[:667, others])

    @needs_data
    def test_missing_values_of_2020_are_nan(self) -> None:
        assert np.isnan(series.jena_2020().values).sum() == 81


@needs_data
@pytest.mark.parametrize(("name", "shape"), [("ett", (17420, 7)), ("victoria", (52608, 3)), ("exchange", (7588, 8))])
def test_other_series_have_the_published_shape(name: str, shape: tuple[int, int]) -> None:
    loaded = series.LOADERS[name]()
    assert loaded.values.shape == shape and len(loaded.columns) == shape[1]
    assert np.isfinite(loaded.values).all() and (np.diff(loaded.time) > np.timedelta64(0)).all()


class TestText:
    CONTENT = b"a,b\n1,2\n"
    FILE = PublishedText("series/some.csv", "https://example.invalid/some.csv.zip", hashlib.sha256(CONTENT).hexdigest())

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
        monkeypatch.setattr(pooch, "os_cache", lambda _: tmp_path / "cache")
        (tmp_path / "series").mkdir()
        return tmp_path / "series"

    @pytest.mark.parametrize("ending", ["", ".gz", ".zip"])
    def test_plain_and_packed_files_are_the_same(self, folder: Path, ending: str) -> None:
        path = folder / f"some.csv{ending}"
        if ending == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("some.csv", self.CONTENT)
        else:
            path.write_bytes(gzip.compress(self.CONTENT) if ending else self.CONTENT)
        assert series.text(self.FILE) == self.CONTENT.decode()

    def test_another_content_is_refused(self, folder: Path) -> None:
        (folder / "some.csv").write_bytes(self.CONTENT + b"3,4\n")
        with pytest.raises(DataFileError, match=self.FILE.sha256):
            series.text(self.FILE)

    def test_a_corrupt_download_is_refused_and_removed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def retrieve(address: str, *, fname: str, path: str, **_: object) -> str:
            target = Path(path) / fname
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"an error page")
            return str(target)

        monkeypatch.setattr(pooch, "retrieve", retrieve)
        with pytest.raises(DataFileError, match=r"example\.invalid"):
            series.text(self.FILE)
        assert not [path for path in folder.parent.rglob("*") if path.is_file() and path.name != ".running"]


class TestProtocol:
    @pytest.mark.parametrize("lag", [1, 24])
    def test_last_value_and_residual_make_the_target(self, lag: int) -> None:
        given = some()
        stream = protocol.prepare(given, "b", lag=lag, day=24, spans=SPANS)
        found = stream.centre + stream.unit * (stream.last + stream.scale * stream.test.ys[:, 0])
        start = len(given.time) - len(found)
        np.testing.assert_allclose(found, given.values[start:, 1], rtol=1e-4, atol=1e-4)
        assert stream.test.time[0] == SPANS.test and stream.validation.time[0] == SPANS.validation
        assert stream.train.ys.std() == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize("lag", [1, 24])
    def test_inputs_hold_nothing_newer_than_the_lag(self, lag: int) -> None:
        given, at = some(), 24 * 10
        changed = given.values.copy()
        changed[at:] += 5
        streams = [
            protocol.prepare(given._replace(values=v), "b", lag=lag, day=24, spans=SPANS)
            for v in (given.values, changed)
        ]
        before, after = (np.concatenate([s.train.xs, s.validation.xs, s.test.xs]) for s in streams)
        np.testing.assert_array_equal(before[: at - 24 + lag], after[: at - 24 + lag])
        assert (before[at - 24 + lag, :2] != after[at - 24 + lag, :2]).all()

    def test_statistics_come_from_the_training_span(self) -> None:
        given = some()
        changed = given.values.copy()
        changed[24 * 5 :] = 100 * changed[24 * 5 :] + 7
        one, other = (
            protocol.prepare(given._replace(values=v), "a", lag=1, day=24, spans=SPANS) for v in (given.values, changed)
        )
        assert (one.scale, one.unit, one.centre) == (other.scale, other.unit, other.centre)
        np.testing.assert_array_equal(one.train.xs, other.train.xs)

    def test_missing_values_are_carried_forward_and_their_targets_masked(self) -> None:
        given = some()
        values = given.values.copy()
        values[24 * 11, 0] = np.nan
        stream = protocol.prepare(given._replace(values=values), "a", lag=1, day=24, spans=SPANS)
        step = 24 * 3  # of the test span
        assert stream.test.mask is not None
        np.testing.assert_array_equal(np.flatnonzero(~stream.test.mask), [step, step + 1])
        assert stream.test.xs[step + 1, 0] == stream.test.xs[step, 0]
        assert all(np.isfinite(part).all() for part in (stream.test.xs, stream.test.ys))

    @pytest.mark.parametrize(
        "spans", [SPANS._replace(validation=np.datetime64("2019-01-01")), SPANS._replace(test=SPANS.validation)]
    )
    def test_empty_spans_are_refused(self, spans: protocol.Spans) -> None:
        with pytest.raises(ValueError, match="expected 24 < validation < test"):
            protocol.prepare(some(), "a", lag=1, day=24, spans=spans)

    @needs_data
    def test_jena_is_cut_at_the_years(self) -> None:
        easy, hard = (protocol.jena(series.jena_hourly(), variant) for variant in protocol.VARIANTS)
        assert [str(span.time[0])[:10] for span in (easy.validation, easy.test)] == ["2014-01-01", "2015-01-01"]
        assert easy.train.xs.shape == hard.train.xs.shape == (43_800, 10)
        np.testing.assert_array_equal(easy.test.time, hard.test.time)

    @needs_data
    def test_the_station_carried_across_the_years_is_not_scored_at_the_seam(self) -> None:
        stream = fresh.prepared(("jena-carried",))["jena-carried"]
        assert stream.train.time[-1] < np.datetime64("2014-01-01") and stream.validation.mask is not None
        assert stream.validation.mask.all() and stream.test.mask is not None
        assert not stream.test.mask[:25].any() and stream.test.mask[25:].all()
        assert (stream.test.time[25:] >= np.datetime64("2020-01-01T01:10")).all()
        first, late = series.jena_hourly(), series.jena_2020()
        shared = [late.column(name) for name in first.columns]
        centre, spread = (
            getattr(first.values[first.time < np.datetime64("2014-01-01")], f)(0) for f in ("mean", "std")
        )
        np.testing.assert_allclose(stream.test.xs[25, :6], (late.values[0, shared] - centre) / spread, atol=2e-3)


@needs_data
def test_half_hours_of_new_south_wales() -> None:
    given = series.elec2()
    assert given.values.shape == (45_312, 5) and str(given.time[-1]) == "1998-12-06T23:30:00"
    assert given.columns[given.column("nswdemand")] == "nswdemand" and np.isfinite(given.values).all()


def test_a_model_that_was_not_chosen_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"gru": {"chosen": {"learning_rate": 0.02}}}
    results.write({"variants": {"easy": {"models": chosen}}}, tmp_path / "jena-small/results.json")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert fresh.as_chosen("gru", Budget()).learning_rates == (0.02,)
    with pytest.raises(ValueError, match="got vrnn; add it to jena-small"):
        fresh.as_chosen("vrnn", Budget())
