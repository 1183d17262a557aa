"""Spreads by step ahead: learned ones hold on fresh draws, moved ones through a change, and paths keep their order."""

import numpy as np
import pytest
from suites import fast

import latenttrack as lt
from latenttrack.drivers import calibration

H, K = 6, 99
SPREADS = np.array([2.0, 1.5, 1.0, 0.8, 0.6, 0.5])
"""Of paths whose targets have a spread of 1, by step ahead."""


def drawn(rng, count, spreads=SPREADS):
    """Paths of two targets, the second in another unit, and what came."""
    samples = rng.normal(size=(count, K, H, 2)) * spreads[:, None]
    return samples * [1.0, 50.0] + [0.0, 7.0], rng.normal(size=(count, H, 2)) * [1.0, 50.0] + [0.0, 7.0]


def shares(samples, ys):
    """Inside the interval of each level [L, h, targets]."""
    _, (lower, upper) = calibration.central(samples)
    return np.mean((lower <= ys) & (ys <= upper), axis=1)


def test_learned_factors_are_those_of_the_spreads_and_hold_on_fresh_forecasts():
    rng = np.random.default_rng(0)
    factors = calibration.learned(*drawn(rng, 1000), rows=10**6)
    assert factors.shape == (2, H, 2)
    assert np.abs(factors + np.log(SPREADS)[:, None]).max() < 0.15
    samples, ys = drawn(rng, 1000)
    raw = shares(samples, ys) - calibration.LEVELS[:, None, None]
    found = shares(calibration.stretched(samples, factors), ys) - calibration.LEVELS[:, None, None]
    assert np.abs(raw).max() > 0.15 and np.abs(found).max() < 0.05, found


def test_few_forecasts_move_little_and_what_is_missing_does_not_count():
    rng = np.random.default_rng(1)
    samples, ys = drawn(rng, 400)
    many, few = (calibration.learned(samples, ys, rows) for rows in (10**9, 14))
    steps = np.arange(1, H + 1)[:, None]
    np.testing.assert_allclose(few, many * (14 / steps) / (14 / steps + 7), rtol=1e-6)
    ys[::2, :, 0] = np.nan
    half = calibration.learned(samples, ys, 10**9)
    np.testing.assert_array_equal(half[..., 1], many[..., 1])
    np.testing.assert_allclose(half[..., 0], many[..., 0], atol=0.2)
    assert not np.allclose(half[..., 0], many[..., 0])
    np.testing.assert_array_equal(calibration.learned(samples, np.full_like(ys, np.nan), 10**9), np.zeros_like(half))
    still = calibration.learned(np.zeros((9, K, H, 1)), np.ones((9, H, 1)), 10**6)  # paths without a spread
    assert np.isfinite(still).all()


def test_the_order_of_paths_stays_and_quantiles_are_moved_quantiles():
    rng = np.random.default_rng(2)
    samples, _ = drawn(rng, 3)
    factors = rng.normal(size=(1, H - 2, 2)) * 0.5 + np.array([0, 0.1])[:, None, None]
    moved = calibration.stretched(samples, factors)
    np.testing.assert_array_equal(np.argsort(moved, axis=-3), np.argsort(samples, axis=-3))
    median, (lower, upper) = calibration.central(samples)
    centre, (low, high) = calibration.central(moved)
    factor = np.exp(factors[:, [0, 1, 2, 3, 3, 3]])[:, None]
    np.testing.assert_allclose(centre, median, atol=1e-9)
    np.testing.assert_allclose(high - centre, factor * (upper - median), rtol=0.02)
    np.testing.assert_allclose(centre - low, factor * (median - lower), rtol=0.02)
    np.testing.assert_allclose(calibration.stretched(samples, 0 * factors), samples, atol=1e-9)
    ahead = lt.Forecast(moved)
    np.testing.assert_allclose(ahead.interval(0.95)[1], high[1], rtol=1e-5)


@pytest.mark.parametrize("every", fast([1, 4], 4))
def test_intervals_hold_through_a_change_of_the_stream(every):
    """Targets whose spread triples and shrinks: random walks, of which every ``every``-th row is forecast."""
    rng = np.random.default_rng(3)
    rows = 4000
    scale = np.where((np.arange(rows) // 1000) % 2, 3.0, 1.0)
    ys = np.cumsum(rng.normal(size=rows) * scale)
    state, inside = calibration.start(np.zeros((2, H, 1))), []
    for row in range(rows - H):
        if row % every == 0:
            samples = ys[row - 1] + np.cumsum(rng.normal(size=(K, H, 1)), axis=1)
            state, samples = calibration.served(state, samples)
            inside.append(shares(samples[None], ys[None, row : row + H, None])[..., 0])
        state = calibration.observed(state, ys[row : row + 1])
        assert len(state.age) <= H
    found = np.mean(inside, axis=0)
    assert np.abs(found - calibration.LEVELS[:, None]).max() < 0.03, found


def test_a_target_that_is_missing_moves_nothing_and_a_forecast_made_again_counts_once():
    rng = np.random.default_rng(4)
    samples, _ = drawn(rng, 2)
    state, _ = calibration.served(calibration.start(np.zeros((2, H, 2))), samples[0])
    same = calibration.observed(state, np.array([np.nan, 0.0]))
    assert not same.factors[..., 0].any() and same.factors[:, 0, 1].any() and not same.factors[:, 1:].any()
    again, _ = calibration.served(state, samples[1, :, :4])  # shorter
    assert len(again.age) == 1 and np.isnan(again.ends[0, :, :, 4:]).all()
    for _ in range(H):
        again = calibration.observed(again, np.array([99.0, 9999.0]))
    assert (again.factors > 0).all() and not len(again.age)
    np.testing.assert_array_equal(again.factors[:, 4:], again.factors[:, [3, 3]])  # beyond the last that was served
    np.testing.assert_allclose(again.factors[:, 0, 0], 0.2 * calibration.LEVELS)
    state = calibration.observed(state, np.zeros(2))
    state, _ = calibration.served(state, samples[0])
    np.testing.assert_array_equal(state.gap, [np.inf, 1])  # the second overlaps: half a step at the second row
    before = calibration.observed(state, np.full(2, np.nan))
    after = calibration.observed(before, np.array([99.0, 9999.0])).factors - before.factors
    np.testing.assert_allclose(after[:, 1, 0], 0.1 * calibration.LEVELS)
    np.testing.assert_allclose(after[:, 2, 0], 0.2 * calibration.LEVELS)
