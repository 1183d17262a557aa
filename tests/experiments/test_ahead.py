"""Forecasts of many steps: origins, scores, seasonal naive, and errors over blocks."""

import numpy as np
import pandas as pd
import pytest
import scoringrules

import latenttrack as lt
from experiments.catalogue import forecast
from experiments.catalogue.forecast import Forecast
from experiments.data import series
from experiments.streaming import ahead, weather

SMALL = lt.Config(latent_dim=2, hidden_dim=4, encoder_dim=3, generator_hidden=(2,), predictor_hidden=(3,),
                  prior_samples=2)  # fmt: skip


def span(values, ahead_of=8, every=5):
    time = pd.date_range("2024-01-01", periods=len(values), freq="h")
    frame = pd.DataFrame({"time": time, "y": np.asarray(values, float)})
    return ahead.Span(frame, 6, int(0.6 * len(values)), int(0.8 * len(values)), ahead_of, every)


def test_a_series_that_repeats_itself_has_no_naive_error():
    whole = span(np.tile([1.0, 5, 2, 8, 3, 9], 40))
    forecasts = ahead.seasonal_naive(whole)
    assert forecasts.shape == (len(ahead.QUANTILES), len(whole.origins()), 8)
    found = ahead.scored(whole, forecasts)
    assert found["loss"].max() == 0 and found["in80"].min() == 1 and found["error"].max() == 0


def test_scores_are_those_of_scoringrules_and_nothing_later_is_used():
    rng = np.random.default_rng(0)
    values = rng.normal(size=300)
    whole = span(values)
    forecasts = ahead.seasonal_naive(whole)
    targets = values[whole.origins()[:, None] + np.arange(8)]
    losses = [2 * scoringrules.quantile_score(targets, f, q) for f, q in zip(forecasts, ahead.QUANTILES, strict=True)]
    np.testing.assert_allclose(ahead.scored(whole, forecasts)["loss"], np.mean(losses[1:-1], axis=0), rtol=1e-4)
    origin = whole.origins()[0]
    later = values.copy()
    later[origin:] += 100
    np.testing.assert_allclose(ahead.seasonal_naive(span(later))[:, 0, :6], forecasts[:, 0, :6])


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"models: expected names of .*got arima"):
        Forecast(models=("arima",), output=tmp_path).run(None)


def test_a_row_that_is_missing_shifts_no_other(monkeypatch):
    values = np.arange(6 * 200, dtype=np.float32)[:, None]
    time = np.datetime64("2020-01-01T00:10", "s") + np.arange(len(values)) * np.timedelta64(600, "s")
    kept = np.delete(np.arange(len(values)), [50, 303])
    loaded = series.Series(values[kept], time[kept], ("T (degC)",))
    monkeypatch.setattr(series, "LOADERS", {"jena-2020": lambda: loaded})
    frame = forecast.prepared("jena-2020", 8).frame
    np.testing.assert_array_equal(frame["y"], values[::6, 0])
    assert len(frame) == 200


def test_windows_are_those_of_the_benchmark():
    for steps, count in ((48, 19), (480, 2), (720, 2)):
        found = weather.origins(8785, steps)
        assert len(found) == count and found[-1] == 8785 - steps and (np.diff(found) == steps).all()
    assert len(weather.origins(52_696, 48)) == 20


def test_windows_of_the_naive_forecast_and_their_scores():
    rng = np.random.default_rng(0)
    values = 20 + 5 * rng.normal(size=(2000, 3)).cumsum(axis=0) / 30
    found = weather.seasonal_naive(values, 48)
    first = weather.origins(2000, 48)[0]
    np.testing.assert_allclose(found.quantiles[4, 0, :24], values[first - 24 : first])
    np.testing.assert_allclose(found.quantiles[4, 0, 24:], values[first - 24 : first])
    width = found.ends[1, 0, 0] - found.ends[0, 0, 0]
    scale = np.sqrt(np.mean(np.square(values[24:first] - values[: first - 24]), axis=0))
    np.testing.assert_allclose(width[0], 2 * 1.28155 * scale, rtol=1e-4)
    np.testing.assert_allclose(width[24], 2**0.5 * width[0])
    later = values.copy()
    later[first:] += 9
    np.testing.assert_array_equal(weather.seasonal_naive(later, 48).quantiles[:, 0], found.quantiles[:, 0])
    scores = weather.scores(values, 48, found)
    targets = values[weather.origins(2000, 48)[:, None] + np.arange(48)]
    pairs = zip(found.quantiles, weather.NINE, strict=True)
    loss = np.mean([2 * scoringrules.quantile_score(targets, f, q).sum() for f, q in pairs]) / np.abs(targets).sum()
    np.testing.assert_allclose(scores["wql"], loss, rtol=1e-4)
    assert set(scores) == set(weather.SCORES) and scores["in80"].shape == (48,)


@pytest.mark.slow
def test_trained_forecasts_are_of_their_channels_and_origins():
    rng = np.random.default_rng(1)
    rows = 500
    values = np.stack([1000 + rng.normal(size=rows).cumsum(), -5 + 0.1 * rng.normal(size=rows).cumsum()], axis=1)
    frame = pd.DataFrame(values, columns=["p", "T"], index=pd.date_range("2020-01-01", periods=rows, freq="h"))
    with pytest.warns(UserWarning, match="rows are few"):
        found = weather.trained(frame, (6, 12), 6, 0, paths=40, config=SMALL)
    for steps, came in found.items():
        begin = weather.origins(rows, steps)
        assert came.quantiles.shape == (9, len(begin), steps, 2) and came.ends.shape == (2, 2, len(begin), steps, 2)
        assert (np.diff(came.quantiles, axis=0) >= 0).all() and (came.ends[1] > came.ends[0]).all()
        np.testing.assert_allclose(came.quantiles[4, :, 0], values[begin - 1], atol=5)  # the value before
        assert np.abs(came.quantiles[4, :, 0] - values[begin - 1])[:, 1].max() < 0.5
    whole = span(values[:, 0], 6, 7)
    with pytest.warns(UserWarning, match="rows are few"):
        calibrated, drawn = ahead.trained(whole, 0, 6, config=SMALL)
    assert calibrated.shape == drawn.shape == (len(ahead.QUANTILES), len(whole.origins()), 6)
    middle = ahead.QUANTILES.index(0.5)
    np.testing.assert_allclose(calibrated[middle], drawn[middle], rtol=1e-6)
    assert not np.allclose(calibrated[0], drawn[0])
