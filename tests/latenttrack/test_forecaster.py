"""A frame in, a frame out: pandas and polars alike, rows one at a time, gaps, series, one file, wrong frames."""

import copy
import datetime
import functools
import gzip
import os
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import latent
import numpy as np
import pandas as pd
import polars as pl
import pytest
from calls import INTERNAL, PARTS

import latenttrack as lt
from latenttrack.drivers import calendar, calibration
from latenttrack.tracking.increments import increments

CONFIG = lt.Config(
    latent_dim=2, hidden_dim=6, encoder_dim=4, generator_hidden=(), predictor_hidden=(4,), prior_samples=4
)
ROWS, H = 260, 5
ROLES = {"target": "load", "past": "wind", "future": "holiday"}
SMALL = {"updates": 6, "learning_rate": 1e-2}


def content(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    time = np.datetime64("2024-03-01T00", "us") + np.arange(rows) * np.timedelta64(1, "h")
    load = 500 + 30 * np.sin(2 * np.pi * np.arange(rows) / 24) + np.cumsum(rng.normal(size=rows))
    return {"time": time, "load": load, "wind": rng.normal(size=rows) + 4, "holiday": (np.arange(rows) // 24) % 7 == 6}


def frame(library=pd, rows=ROWS, seed=0, gaps=True):
    """Two rows missing; one value of the target and two of the covariate."""
    columns = content(rows, seed)
    if gaps:
        columns["load"][50] = np.nan
        columns["wind"][[60, 61]] = np.nan
        keep = ~np.isin(np.arange(rows), [100, 101])
        columns = {name: values[keep] for name, values in columns.items()}
    return library.DataFrame(columns)


def ahead(library=pd, h=H, rows=ROWS):
    later = {name: values[rows:] for name, values in content(rows + h).items() if name in ("time", "holiday")}
    return library.DataFrame(later)


@functools.cache
def fitted(library=pd):
    with pytest.warns(UserWarning, match="training rows are few: windows of 32 rows in place of 256, 5 at a time"):
        return lt.Forecaster(CONFIG, **ROLES).fit(frame(library), horizon=H, **SMALL)


def again(forecaster, tmp_path):
    """One that can move on by itself."""
    forecaster.save(tmp_path / "again")
    return lt.Forecaster.load(tmp_path / "again")


def test_predict_gives_a_frame_of_the_same_library_and_the_same_numbers():
    came = fitted(pd).predict(H, future=ahead(pd))
    assert isinstance(came, pd.DataFrame)
    assert list(came.columns) == ["time", "mean", "lo-80", "hi-80", "lo-95", "hi-95"]
    np.testing.assert_array_equal(came["time"], content(ROWS + H)["time"][ROWS:])
    assert came["time"].dtype == frame(pd)["time"].dtype
    ordered = came[["lo-95", "lo-80", "mean", "hi-80", "hi-95"]].to_numpy()
    assert (np.diff(ordered, axis=1) > 0).all() and abs(ordered - 500).max() < 200
    other = fitted(pl).predict(H, future=ahead(pl))
    assert isinstance(other, pl.DataFrame) and other.schema["time"] == frame(pl).schema["time"]
    assert other.columns == list(came.columns) and other["time"].to_list() == came["time"].to_list()
    np.testing.assert_array_equal(other.drop("time").to_numpy(), came.drop(columns="time").to_numpy())
    sampled = fitted(pd).sample(H, future=ahead(pd))
    assert sampled.samples.shape == (1, 256, H, 1)
    np.testing.assert_allclose(sampled.interval(0.95)[0][0, :, 0], came["lo-95"], rtol=1e-5)
    alone = fitted(pd).predict(H, level=50, future=ahead(pd))
    assert list(alone.columns) == ["time", "mean", "lo-50", "hi-50"]


def test_rows_one_at_a_time_are_a_frame_and_a_gap_is_a_missing_row(tmp_path):
    rows = content(ROWS + 4, 3)
    later = pd.DataFrame({name: values[ROWS:] for name, values in rows.items()})
    by_row, at_once, with_gap, with_none = (again(fitted(pd), tmp_path) for _ in range(4))
    for row in later.to_dict("records"):
        by_row.observe(row)
    at_once.observe(later)
    for a, b in zip(jax.tree.leaves(by_row.values), jax.tree.leaves(at_once.values), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert by_row.values.last[0] - fitted(pd).values.last[0] == 4 * 3600
    with_gap.observe(later.drop(1))
    for index, row in enumerate(later.to_dict("records")):
        with_none.observe(row if index != 1 else row | dict.fromkeys(("load", "wind", "holiday")))
    for a, b in zip(jax.tree.leaves(with_gap.values), jax.tree.leaves(with_none.values), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert with_gap.values.states.inner.missed[0] == 0
    moved = np.abs(with_gap.values.states.inner.summary - at_once.values.states.inner.summary).max()
    assert moved > 1e-6  # what was left out is not what came


def test_a_backtest_is_predict_and_observe_along_the_way(tmp_path):
    rows = content(ROWS + 20, 3)
    later = pd.DataFrame({name: values[ROWS:] for name, values in rows.items()})
    later.loc[3, "load"] = np.nan
    came = fitted(pd).backtest(later, H, every=7, level=[80], paths=2000)
    assert list(came.columns) == ["time", "cutoff", "mean", "lo-80", "hi-80", "actual"]
    assert len(came) == 3 * H
    cutoffs = rows["time"][ROWS - 1 + np.array([0, 7, 14])]
    np.testing.assert_array_equal(came["cutoff"], np.repeat(cutoffs, H))
    np.testing.assert_array_equal(
        came["time"] - came["cutoff"], np.tile(np.arange(1, H + 1), 3) * np.timedelta64(1, "h")
    )
    np.testing.assert_allclose(came["actual"][H : 2 * H], rows["load"][ROWS + 7 : ROWS + 7 + H], rtol=1e-6)
    moving = again(fitted(pd), tmp_path).observe(later[:7])
    expected = moving.predict(H, level=[80], paths=2000, future=later[7 : 7 + H][["time", "holiday"]])
    found = came[H : 2 * H]
    spread = (expected["hi-80"] - expected["lo-80"]).to_numpy()
    for name in ("mean", "lo-80", "hi-80"):  # other keys: the same distribution
        assert (np.abs(found[name].to_numpy() - expected[name].to_numpy()) < 0.15 * spread).all()
    anew = fitted(pd).backtest(frame(pd)[40:70], H, every=7, start=10, level=[80], paths=2000)
    np.testing.assert_array_equal(anew["cutoff"][::H], rows["time"][40 + 9 + np.array([0, 7, 14])])
    assert len(anew) == 3 * H and anew["actual"].isna().tolist() == [True] + [False] * (3 * H - 1)


@pytest.mark.slow
def test_a_filter_corrects_what_comes_after_the_fit_and_is_in_the_file(tmp_path):
    with pytest.warns(UserWarning, match="training rows are few"):
        adapted = lt.Forecaster(CONFIG, adapt="filter", **ROLES).fit(frame(), **SMALL)
    plain = fitted()
    jax.tree.map(np.testing.assert_array_equal, adapted.values.params, plain.values.params)
    assert np.any(adapted.values.states.inner.belief.mean["mean"])
    adapted.save(tmp_path / "adapted")
    loaded = lt.Forecaster.load(tmp_path / "adapted")
    pd.testing.assert_frame_equal(
        loaded.predict(H, future=ahead(), paths=8), adapted.predict(H, future=ahead(), paths=8)
    )
    before = loaded.values.states.inner.belief.mean["mean"]
    loaded.observe(row())
    assert np.any(loaded.values.states.inner.belief.mean["mean"] != before)


def random_walk(rows, seed, quiet):
    """Hours whose increments shrink to ``quiet`` of what they were in the last half."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(size=rows) * np.where(np.arange(rows) < rows // 2, 1, quiet)
    time = np.datetime64("2024-03-01T00", "us") + np.arange(rows) * np.timedelta64(1, "h")
    return pd.DataFrame({"time": time, "y": np.cumsum(moves)})


def missed(came, level):
    """By how much the share inside differs from the level, at each step ahead."""
    inside = (came[f"lo-{level}"] <= came["actual"]) & (came["actual"] <= came[f"hi-{level}"])
    return np.abs(inside.to_numpy().reshape(-1, H).mean(axis=0) - level / 100).max()


@pytest.mark.slow
def test_intervals_hold_at_every_step_ahead_of_a_model_that_is_wrong():
    """Hardly trained, and on rows that move twice as far as those that come."""
    rows = random_walk(2600, 0, 0.5)
    with pytest.warns(UserWarning, match="rows are few"):
        found = lt.Forecaster(CONFIG, target="y").fit(rows[:1000], horizon=H, **SMALL)
    came = found.backtest(rows[1000:], H, every=4, paths=64)
    assert len(came) > 390 * H
    assert max(missed(came, 80), missed(came, 95)) < 0.03
    nothing = calibration.start(np.zeros((2, 0, 1)))
    before, found.values = found.values, found.values._replace(calibrations=(nothing,))
    drawn = found.backtest(rows[1000:], H, every=4, paths=64)
    found.values = before
    assert missed(drawn, 80) > 0.08  # as the model draws them


def test_forecasts_are_judged_when_their_rows_come_and_the_file_remembers(tmp_path):
    found = again(fitted(pd), tmp_path)
    rows = pd.DataFrame({name: values[ROWS:] for name, values in content(ROWS + 4, 3).items()})
    learned = found.values.calibrations[0].factors
    assert learned.shape == (2, H, 1) and np.all(learned != 0)
    found.values = found.values._replace(calibrations=(calibration.start(learned),))  # other tests forecast too
    found.observe(rows[:1])
    np.testing.assert_array_equal(found.values.calibrations[0].factors, learned)  # nothing was forecast
    found.predict(3, future=ahead(pd, 4)[1:])
    moved = again(found, tmp_path)  # with the intervals that it gave
    for one in (found, moved):
        for row in rows[1:].to_dict("records"):
            one.observe(row)
    for a, b in zip(found.values.calibrations[0], moved.values.calibrations[0], strict=True):
        np.testing.assert_array_equal(a, b)
    change = found.values.calibrations[0].factors - learned
    assert np.all(change[:, :3] != 0)
    np.testing.assert_allclose(change[:, 3:], np.broadcast_to(change[:, 2:3], change[:, 3:].shape), rtol=1e-12)
    later = ahead(pd, H + 4)[4:]
    samples = np.asarray(found.sample(H, future=later).samples[0])
    lower, upper = (np.asarray(end) for end in lt.Forecast(jnp.asarray(samples)).interval(0.8))
    came = found.predict(H, future=later)
    np.testing.assert_allclose(came["lo-80"], lower[:, 0], rtol=1e-5)
    np.testing.assert_allclose(came["hi-80"], upper[:, 0], rtol=1e-5)


def test_one_file_holds_all_and_is_there_whole(tmp_path):
    path = tmp_path / "load.forecaster"
    fitted(pd).save(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = lt.Forecaster.load(path)
    pd.testing.assert_frame_equal(loaded.predict(H, future=ahead()), fitted(pd).predict(H, future=ahead()))
    assert (loaded.config, loaded.target, loaded.shape) == (CONFIG, ("load",), fitted(pd).shape)
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        b"PK\x03\x04 of something else",
        whole[:900] + b"0" * 50 + whole[950:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"expected a file that Forecaster\.save wrote.*load\.forecaster"):
            lt.Forecaster.load(path)
    np.savez(tmp_path / "foreign.npz", values=np.ones(3))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("a.txt", "text")
    for name in ("foreign.npz", "other.zip"):
        with pytest.raises(ValueError, match=f"(?s)expected a file that.*{name}.*save it again"):
            lt.Forecaster.load(tmp_path / name)
    for name in ("nothing", "."):
        with pytest.raises(FileNotFoundError, match=r"path: expected a file that.* got .*; correct it"):
            lt.Forecaster.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"path: expected a file in a folder that exists, got .*; make"):
        loaded.save(tmp_path / "no" / "such.forecaster")


def test_a_picture():
    figure = fitted(pd).plot(H, future=ahead(pd))
    axes = figure.axes
    assert len(axes) == 2 and axes[0].get_title(loc="left") == "load"
    assert len(axes[0].collections) == 2  # two bands
    assert sum(patch.get_height() for patch in axes[1].patches) == pytest.approx(10)


def named():
    """Of two series by name: what is refused before anything is computed."""
    found = copy.copy(fitted())
    assert found.shape is not None
    found.id, found.shape = "shop", found.shape._replace(ids=("north", "south"))
    return found


def without_future():
    found = copy.copy(fitted())
    found.future = ()
    return found


@functools.cache
def several():
    """Two series of other lengths and scales, stamped with a zone; two targets."""
    first, second = content(200, 1), content(150, 2)
    parts = [
        pd.DataFrame({"shop": name, "when": pd.to_datetime(part["time"]).tz_localize("UTC").tz_convert("Europe/Berlin"),
                      "load": scale * part["load"], "wind": part["wind"]})
        for name, part, scale in (("north", first, 1), ("south", second, 1000))
    ]  # fmt: skip
    frame = pd.concat(parts, ignore_index=True)
    with pytest.warns(UserWarning, match="rows are few"):
        found = lt.Forecaster(CONFIG, target=["load", "wind"], id="shop", freq="1h").fit(frame, seeds=2, **SMALL)
    return found, frame


@pytest.mark.slow
def test_series_share_parameters_and_nothing_else(tmp_path):
    found, rows = several()
    came = found.predict(3)
    names = ["load-mean", "load-lo-80", "load-hi-80", "load-lo-95", "load-hi-95"]
    assert list(came.columns) == ["shop", "when", *names, *(name.replace("load", "wind") for name in names)]
    assert came["shop"].tolist() == ["north"] * 3 + ["south"] * 3
    assert came["when"].dtype == rows["when"].dtype
    for name, lengths in (("north", 200), ("south", 150)):
        last = rows["when"][rows["shop"] == name].iloc[-1]
        assert (came["when"][came["shop"] == name] - last).tolist() == [pd.Timedelta(hours=h) for h in (1, 2, 3)]
        assert (rows["shop"] == name).sum() == lengths
    assert came["load-mean"][:3].max() < 1000 < 100_000 < came["load-mean"][3:].min()
    moved = again(found, tmp_path)
    row = {"shop": "south", "when": rows["when"].iloc[-1] + pd.Timedelta(hours=1), "load": 5e5, "wind": 4.0}
    after = moved.observe(row).predict(3)
    pd.testing.assert_frame_equal(after[:3], came[:3])
    assert (after["load-mean"][3:] != came["load-mean"][3:]).all()
    replayed = found.backtest(rows, 4, every=40, start=60, level=90)
    assert replayed.groupby("shop").size().to_dict() == {"north": 16, "south": 12}
    assert {"cutoff", "load-lo-90", "wind-actual"} <= set(replayed.columns)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["date", "index", "week"])
def test_dates_months_and_an_index(kind):
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=96))
    if kind == "date":
        days = [datetime.date(2023, 1, 1) + datetime.timedelta(days=d) for d in range(96)]
        rows = pl.DataFrame({"day": days, "y": values})
        later = [datetime.date(2023, 4, 7), datetime.date(2023, 4, 8)]
    elif kind == "index":
        rows = pd.DataFrame({"y": values}, index=pd.date_range("2001-01-01", periods=96, freq="MS", name="month"))
        later = [pd.Timestamp("2009-01-01"), pd.Timestamp("2009-02-01")]
    else:
        rows = pd.DataFrame({"t": pd.date_range("2001-01-07", periods=96, freq="W"), "y": values})
        later = [pd.Timestamp("2002-11-10"), pd.Timestamp("2002-11-17")]
    with pytest.warns(UserWarning, match="rows are few"):
        came = lt.Forecaster(CONFIG, target="y").fit(rows, updates=1).predict(2, paths=8)
    assert list(came[came.columns[0]]) == later
    assert came.columns[0] == {"date": "day", "index": "month", "week": "t"}[kind]


def test_frequencies_seasons_and_cycles():
    for text, frequency, season in (
        ("1h", (3600, 0), 24), ("30min", (1800, 0), 48), ("15T", (900, 0), 96), ("D", (86_400, 0), 7),
        ("1mo", (0, 1), 12), ("MS", (0, 1), 12), ("QS", (0, 3), 4), ("W", (7 * 86_400, 0), 52),
    ):  # fmt: skip
        found = calendar.parse(text)
        assert (tuple(found), found.season) == (frequency, season), text
        assert calendar.parse(found.text) == found
    assert calendar.cycles(calendar.parse("1h"), 400 * 86_400) == ("day", "week")
    assert calendar.cycles(calendar.parse("1h"), 800 * 86_400) == ("day", "week", "year")
    monday = np.array([np.datetime64("2024-01-01T00", "s").astype(np.int64)])
    noon = calendar.features(monday + 12 * 3600, ("day", "year"))
    np.testing.assert_allclose(noon[0, :4], [0, -1, 0, 1], atol=1e-12)
    np.testing.assert_allclose(calendar.features(monday, ("year",))[0], [0, 1, 0, 1], atol=1e-12)


@functools.cache
def level():
    model = increments(CONFIG, 1, (3,), (5.0, 2.0), False)
    rng = np.random.default_rng(0)
    ys = np.cumsum(rng.normal(size=(40, 2)), axis=0).astype(np.float32)
    xs = np.concatenate([rng.normal(size=(40, 1)), np.ones((40, 3))], axis=1).astype(np.float32)
    params = latent.params(model)
    rollout = jax.jit(lambda xs, ys, state: model.rollout(params, jax.random.key(0), xs, ys, state))
    return model, params, rollout, jnp.asarray(xs), jnp.asarray(ys)


@pytest.mark.slow
def test_increments_come_in_chunks_and_are_of_the_level():
    model, params, rollout, xs, ys = level()
    _, outputs = rollout(xs, ys, model.initial_state(params))
    state, first = rollout(xs[:20], ys[:20], model.initial_state(params))
    _, second = rollout(xs[20:], ys[20:], state)
    for a, b, c in zip(outputs, first, second, strict=True):
        np.testing.assert_allclose(a, np.concatenate([b, c]), rtol=1e-4, atol=1e-5)
    warm = np.arange(40) >= 4
    np.testing.assert_array_equal(outputs.invalid, ~warm)
    expected = -lt.metrics.nll(ys, outputs.mean, outputs.variance)
    np.testing.assert_allclose(outputs.log_prob[warm], expected[warm], rtol=1e-4, atol=1e-4)
    # Where the level is does not matter but through y / spread: moved by 1000 spreads of 0 weight.
    whole = increments(CONFIG, 1, (3,), (5.0, 2.0), True)
    _, same = jax.jit(whole.rollout)(params, jax.random.key(0), xs, ys)
    np.testing.assert_allclose(same.mean, outputs.mean, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_channel_that_is_missing_masks_itself_and_not_the_row():
    model, params, rollout, xs, ys = level()
    t = 25
    lost = xs.at[t, 1].set(0)
    state, outputs = rollout(lost, ys.at[t, 0].set(77), model.initial_state(params))
    other, again = rollout(lost, ys.at[t, 0].set(-5), model.initial_state(params))
    for a, b in zip(jax.tree.leaves((state, outputs)), jax.tree.leaves((other, again)), strict=True):
        np.testing.assert_array_equal(a, b)  # what stands in the channel is not looked at
    alone = -lt.metrics.nll(ys[:, 1:], outputs.mean[..., 1:], outputs.variance[..., 1:])
    np.testing.assert_allclose(outputs.log_prob[t], alone[t], rtol=1e-4)
    moved, _ = rollout(lost, ys.at[t, 1].add(3), model.initial_state(params))
    assert np.abs(moved.inner.summary - state.inner.summary).max() > 1e-5  # and the other channel is
    none, _ = rollout(xs.at[t, 1:3].set(0)[: t + 1], ys[: t + 1], model.initial_state(params))
    assert none.inner.missed == 1

    def total(ys, xs):
        return model.loss(params, jax.random.key(0), xs, ys, model.initial_state(params))[0]

    slope = jax.jit(jax.grad(total))(ys, lost)
    assert slope[t, 0] == 0 and slope[t, 1] != 0 and jnp.all(jnp.isfinite(slope))


def hours(rows):
    return content(rows)["time"].tolist()


GOOD = {"time": hours(60), "load": np.arange(60.0) % 7, "wind": np.ones(60), "holiday": np.zeros(60, int)}


def changed(**columns):
    return {name: values for name, values in (GOOD | columns).items() if values is not None}


SWAPPED = hours(60)
SWAPPED[5], SWAPPED[9] = SWAPPED[9], SWAPPED[5]
TWICE = hours(60)
TWICE[9] = TWICE[8]
OFF = hours(60)
OFF[7] = OFF[7] + datetime.timedelta(minutes=7)
WRONG_FRAMES = {
    "no target": (changed(load=None), ValueError, "'load'"),
    "no covariate": (changed(wind=None), ValueError, "'wind'"),
    "no time": (changed(time=None), ValueError, "time"),
    "two times": (changed(other=hours(60)), ValueError, "'time', 'other'"),
    "time is text": (changed(time=[str(t) for t in hours(60)]), ValueError, "time"),
    "time is a number": (changed(time=np.arange(60)), ValueError, "time"),
    "time is missing once": (changed(time=[None, *hours(60)[1:]]), ValueError, "1 without"),
    "unsorted": (changed(time=SWAPPED), ValueError, "increasing times"),
    "time twice": (changed(time=TWICE), ValueError, "each time once.*2024-03-01 08:00"),
    "two series and no id": (
        {name: [*values, *values] for name, values in GOOD.items()},
        ValueError,
        "each time once.*got 2024-03-01 00:00:00 more than once; name the column that tells series apart with id=",
    ),
    "off the grid": (changed(time=OFF), ValueError, "every 1h.*07:07"),
    "target is text": (changed(load=["a"] * 60), TypeError, "'load'"),
    "covariate is time": (changed(wind=hours(60), time=hours(60)), ValueError, "'time', 'wind'"),
    "infinity": (changed(load=np.r_[np.inf, np.ones(59)]), ValueError, "infinity in row 0"),
    "nothing but NaN": (changed(wind=np.full(60, np.nan)), ValueError, "'wind'.*got none"),
    "no rows": ({name: values[:0] for name, values in GOOD.items()}, ValueError, "rows"),
    "few rows": ({name: values[:20] for name, values in GOOD.items()}, ValueError, "at least 48 rows, got 20"),
}


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
@pytest.mark.parametrize("name", WRONG_FRAMES)
def test_wrong_frame(name, library):
    columns, error, says = WRONG_FRAMES[name]
    refused(error, says, lambda: lt.Forecaster(CONFIG, **ROLES).fit(library.DataFrame(columns), updates=1))


def refused(error, says, call):
    with pytest.raises(error, match=f"(?s){says}") as caught:
        call()
    assert PARTS.match(str(caught.value)), caught.value
    assert not INTERNAL.search(str(caught.value)), caught.value


def row(**changes):
    values = {"time": content(ROWS + 1)["time"][ROWS].item(), "load": 500.0, "wind": 4.0, "holiday": False}
    return {name: value for name, value in (values | changes).items() if value != "left out"}


def forecaster(**options):
    return lt.Forecaster(CONFIG, **(ROLES | options))


SERIES = pd.DataFrame(GOOD | {"shop": "a"})
WRONG_CALLS = {
    "config": (lambda: lt.Forecaster({}, target="y"), TypeError, "config"),
    "target: none": (lambda: forecaster(target=[]), ValueError, "target"),
    "target: number": (lambda: forecaster(target=3), TypeError, "target"),
    "past: target": (lambda: forecaster(past="load"), ValueError, "'load'"),
    "id: number": (lambda: forecaster(id=1), TypeError, "id"),
    "time: list": (lambda: forecaster(time=["time"]), TypeError, "time"),
    "adapt: word": (lambda: forecaster(adapt="sgd"), ValueError, "adapt"),
    "freq: word": (lambda: forecaster(freq="hourly"), ValueError, "freq"),
    "freq: number": (lambda: forecaster(freq=1), TypeError, "freq"),
    "freq: zero": (lambda: forecaster(freq="0h"), ValueError, "freq"),
    "fit: array": (lambda: forecaster().fit(np.ones((60, 3))), TypeError, "frame: expected a DataFrame.*ndarray"),
    "fit: lazy": (lambda: forecaster().fit(pl.LazyFrame(GOOD)), TypeError, "frame: .*LazyFrame.*collect"),
    "fit: column twice": (
        lambda: forecaster().fit(pd.DataFrame(GOOD).set_axis(["time", "load", "load", "holiday"], axis=1)),
        ValueError,
        "frame: expected each column once, got 'load'",
    ),
    "fit: other freq": (lambda: forecaster(freq="3h").fit(pd.DataFrame(GOOD)), ValueError, "every 3h"),
    "fit: far too fine": (lambda: forecaster(freq="1s").fit(pd.DataFrame(GOOD)), ValueError, "about every 1s"),
    "fit: no id": (lambda: forecaster(id="shop").fit(pd.DataFrame(GOOD)), ValueError, "'shop'"),
    "fit: id missing": (
        lambda: forecaster(id="shop").fit(SERIES.assign(shop=[None, *["a"] * 59])), ValueError, "1 without"
    ),
    "fit: time twice in a series": (
        lambda: forecaster(id="shop").fit(pd.concat([SERIES, SERIES[:9]])),
        ValueError,
        "each time once in 'time' of 'a', got 2024-03-01 00:00:00 more than once; drop one$",
    ),
    "fit: short series": (
        lambda: forecaster(id="shop").fit(pd.concat([SERIES, SERIES[:9].assign(shop="b")])),
        ValueError,
        "for 'b', got 9",
    ),
    "fit: updates": (lambda: forecaster().fit(pd.DataFrame(GOOD), updates=0), ValueError, "updates"),
    "fit: validation": (lambda: forecaster().fit(pd.DataFrame(GOOD), validation=0.9), ValueError, "validation"),
    "fit: horizon": (lambda: forecaster().fit(pd.DataFrame(GOOD), horizon=-1), ValueError, "horizon"),
    "fit: horizon as share": (lambda: forecaster().fit(pd.DataFrame(GOOD), horizon=0.5), ValueError, "horizon"),
    "fit: seeds": (lambda: forecaster().fit(pd.DataFrame(GOOD), seeds=0), ValueError, "seeds"),
    "predict: not fitted": (lambda: forecaster().predict(3), RuntimeError, "call fit or load"),
    "predict: h": (lambda: fitted().predict(0, future=ahead()), ValueError, "h: expected"),
    "predict: level": (lambda: fitted().predict(H, level=[80, 100], future=ahead()), ValueError, "level"),
    "predict: level as a fraction": (lambda: fitted().predict(H, level=0.8, future=ahead()), ValueError, "level"),
    "predict: level as share": (lambda: fitted().predict(H, level="80", future=ahead()), ValueError, "level"),
    "predict: paths": (lambda: fitted().predict(H, paths=0, future=ahead()), ValueError, "paths"),
    "predict: no future": (lambda: fitted().predict(H), ValueError, "future: expected a frame with 'holiday'"),
    "predict: future too short": (
        lambda: fitted().predict(H + 1, future=ahead()), ValueError, "future: .* to 2024-03-12 01"
    ),
    "predict: future elsewhere": (lambda: fitted().predict(H, future=frame()), ValueError, "future: expected rows"),
    "predict: future lacks": (
        lambda: fitted().predict(H, future=ahead().assign(holiday=np.nan)), ValueError, "future: expected numbers"
    ),
    "predict: future without": (
        lambda: fitted().predict(H, future=ahead()[["time"]]), ValueError, "future: .*'holiday'"
    ),
    "predict: future unasked": (
        lambda: without_future().predict(2, future=ahead()), ValueError, "future: expected None"
    ),
    "observe: column": (lambda: fitted().observe(row(load="left out")), ValueError, "row: .*'load'"),
    "observe: text": (lambda: fitted().observe(row(load="much")), TypeError, "row: expected numbers"),
    "observe: infinity": (lambda: fitted().observe(row(load=np.inf)), ValueError, "row: expected finite"),
    "observe: time as text": (lambda: fitted().observe(row(time="now")), TypeError, "row: expected a date time"),
    "observe: zone": (
        lambda: fitted().observe(row(time=datetime.datetime.now(datetime.UTC))), ValueError, "row: .*without a zone"
    ),
    "observe: the past": (
        lambda: fitted().observe(row(time=datetime.datetime(2024, 3, 1))), ValueError, "row: expected a time every 1h"
    ),
    "observe: off the grid": (
        lambda: fitted().observe(row(time=datetime.datetime(2024, 3, 20, 0, 7))), ValueError, "row: .*00:07:00"
    ),
    "observe: far ahead": (
        lambda: fitted().observe(row(time=datetime.datetime(2044, 3, 1))), ValueError, "row: .*rows later"
    ),
    "observe: unknown series": (
        lambda: named().observe(row(shop="west")),
        ValueError,
        "row: expected one of the fitted series 'north', 'south', got 'west'",
    ),
    "observe: seen frame": (lambda: fitted().observe(frame()), ValueError, "frame: expected a time every 1h after"),
    "backtest: short": (lambda: fitted().backtest(frame(), 400), ValueError, "frame: expected at least"),
    "backtest: every": (lambda: fitted().backtest(frame(), H, every=0), ValueError, "every"),
    "plot: series": (lambda: named().plot(3, series="west"), ValueError, "series"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_call(name):
    call, error, says = WRONG_CALLS[name]
    refused(error, says, call)


def test_a_wrong_call_changes_nothing():
    before = jax.tree.map(np.array, fitted().values)
    for changes in ({"load": "much"}, {"time": datetime.datetime(2024, 3, 1)}):
        with pytest.raises((TypeError, ValueError)):
            fitted().observe(row(**changes))
    jax.tree.map(np.testing.assert_array_equal, before, fitted().values)


TEN_LINES = """\
import pandas as pd
import latenttrack as lt

frame = pd.read_csv("ETTh1.csv", parse_dates=["date"])
past, new = frame[-4048:-48], frame[-48:]
model = lt.Forecaster(target="OT").fit(past, updates=200)
print(model.predict(24))  # date, mean, lo-80, hi-80, lo-95, hi-95
model.plot(48).savefig("oil.png")
for row in new.to_dict("records"):
    model.observe(row)  # a row has come
model.save("oil.forecaster")
print(lt.Forecaster.load("oil.forecaster").predict(24, level=90))
"""


@pytest.mark.slow
def test_ten_lines_of_the_readme_run(tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    if "ETTh1.csv" in readme:
        assert TEN_LINES in readme
    folder = os.environ.get("WEIGHTFILTER_DATA")
    if folder is None or not (Path(folder) / "series" / "ETTh1.csv.gz").is_file():
        pytest.skip("series/ETTh1.csv.gz is not in the folder named by WEIGHTFILTER_DATA")
    monkeypatch.chdir(tmp_path)
    Path("ETTh1.csv").write_bytes(gzip.decompress((Path(folder) / "series" / "ETTh1.csv.gz").read_bytes()))
    names: dict = {}
    exec(TEN_LINES, names)
    assert Path("oil.png").stat().st_size > 10_000
    came = names["model"].predict(24)
    assert came["date"].iloc[0] == pd.Timestamp("2018-06-26 20:00")
    assert (came["hi-80"] > came["lo-80"]).all() and came["mean"].between(-10, 40).all()
