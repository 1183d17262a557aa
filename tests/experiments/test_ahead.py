"""Forecasts of many steps: origins, scores, seasonal naive, and errors over blocks."""

import numpy as np
import pandas as pd
import pytest
import scoringrules

from experiments.catalogue.forecast import Forecast
from experiments.streaming import ahead


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
