"""Scores of mixtures against integrals, samples and known cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scoringrules
from scipy import integrate, stats
from suites import fast

import latenttrack as lt
from latenttrack import metrics

pytestmark = pytest.mark.usefixtures("x64")


def mixtures(seed=0, steps=5, samples=4, channels=2):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(steps, samples, channels))
    variance = rng.uniform(0.2, 2.0, mean.shape)
    return rng.normal(size=(steps, channels)), mean, variance


def distribution(points, mean, variance):
    return stats.norm.cdf((np.asarray(points)[:, None] - mean) / np.sqrt(variance)).mean(1)


def test_crps_is_the_integral_of_its_definition():
    ys, mean, variance = mixtures()
    came = metrics.crps(ys, mean, variance, batch_size=2)
    for t in range(5):
        for c in range(2):
            m, v, y = mean[t, :, c], variance[t, :, c], float(ys[t, c])
            below = integrate.quad(lambda u: distribution([u], m, v)[0] ** 2, -15, y)[0]  # noqa: B023
            above = integrate.quad(lambda u: (1 - distribution([u], m, v)[0]) ** 2, y, 15)[0]  # noqa: B023
            assert abs(came[t, c] - below - above) < 1e-7


def test_crps_of_a_point_is_the_absolute_error():
    ys, mean, variance = mixtures(samples=1)
    came = metrics.crps(ys, mean, variance * 1e-20)
    np.testing.assert_allclose(came, np.abs(ys - mean[:, 0]), rtol=1e-8)


def test_nll_is_minus_the_log_of_the_mean_density():
    ys, mean, variance = mixtures()
    densities = stats.norm.pdf(ys[:, None], mean, np.sqrt(variance)).prod(2)
    np.testing.assert_allclose(metrics.nll(ys, mean, variance), -np.log(densities.mean(1)), rtol=1e-12)


def test_squared_error_and_uncertainty_have_the_mixtures_moments():
    ys, mean, variance = mixtures()
    aleatoric, epistemic = metrics.uncertainty(mean, variance)
    second = np.mean(variance + mean**2, axis=1)
    np.testing.assert_allclose(aleatoric + epistemic, second - np.mean(mean, axis=1) ** 2, rtol=1e-12)
    np.testing.assert_allclose(metrics.squared_error(ys, mean), (ys - np.mean(mean, axis=1)) ** 2, rtol=1e-12)


def draws(scale, steps=20_000):
    """Targets from the mixture itself where scale is 1; wider or narrower elsewhere."""
    _, mean, variance = mixtures(1, 1, 4, 2)
    rng = np.random.default_rng(2)
    component = rng.integers(4, size=(steps, 2))
    m, v = (a[0][component, np.arange(2)] for a in (mean, variance))
    centre = mean[0].mean(0)
    ys = centre + scale * (m + np.sqrt(v) * rng.normal(size=(steps, 2)) - centre)
    return ys, np.repeat(mean, steps, 0), np.repeat(variance, steps, 0)


def test_pit_is_uniform_and_intervals_cover_where_the_mixture_is_right():
    pits = metrics.pit(*draws(1.0))
    assert stats.kstest(np.ravel(pits), "uniform").pvalue > 1e-3
    for level in (0.5, 0.9):
        share = jnp.mean(metrics.coverage(pits, level))
        assert abs(share - level) < 4 * (level * (1 - level) / pits.size) ** 0.5
    assert metrics.calibration_error(pits) < 0.01


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_calibration_error_sees_wrong_widths(scale):
    pits = np.asarray(metrics.pit(*draws(scale, 2000)))  # the mean of a JAX array of booleans would be a float32
    expected = np.mean([[abs(np.mean(pits[:, c] <= p) - p) for p in np.arange(1, 100) / 100] for c in range(2)])
    np.testing.assert_allclose(metrics.calibration_error(jnp.asarray(pits)), expected, rtol=1e-9)
    assert expected > 0.05


def test_failures_spikes_and_first_places():
    nan = jnp.nan
    nlls = jnp.asarray([[1.0, 2.0, nan, 4.0], [1.0, 3.0, 2e6, 5.0], [2.0, 1.0, 9.0, 11.0]])
    assert metrics.failure_rate(nlls) == pytest.approx(2 / 3)  # a NaN is a failure
    np.testing.assert_array_equal(metrics.spikes(nlls), [1, 1, 1])
    np.testing.assert_allclose(metrics.first_shares(nlls), [0.375, 0.125, 0.5])
    assert metrics.failure_rate(jnp.asarray([[1e6]])) == 0


def test_summary_leaves_masked_steps_out_and_nothing_else():
    ys, mean, variance = mixtures(3, 50)
    seen = np.random.default_rng(4).uniform(size=50) > 0.3
    log_prob = np.where(seen, -metrics.nll(ys, mean, variance), 0)
    log_prob[np.argmax(seen)] = -1e7
    outputs = lt.Outputs(mean, variance, log_prob)
    came = jax.jit(metrics.summary)(outputs, np.where(seen[:, None], ys, np.nan), seen)
    kept = jax.tree.map(lambda leaf: leaf[seen], outputs)
    expected = metrics.summary(kept, ys[seen])
    for name, a, b in zip(came._fields, came, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=name)
    assert came.max_nll == 1e7 and came.nll > 1e5 and came.spikes >= 1


LEVELS = np.asarray([0.001, 0.1, 0.5, 0.8, 0.999])


def test_quantiles_invert_the_distribution_function():
    _, mean, variance = mixtures()
    mean[0, 0] += 1e4  # components far apart, with a gap without density between them
    came = metrics.quantile(mean, variance, LEVELS)
    assert came.shape == (5, 5, 2)
    for q, at in zip(LEVELS, came, strict=True):
        np.testing.assert_allclose(metrics.pit(at, mean, variance), q, rtol=1e-9)
    np.testing.assert_array_equal(metrics.quantile(mean, variance, 0.5), came[2])
    lower, upper = metrics.interval(mean, variance, 0.8)
    np.testing.assert_allclose(metrics.pit(upper, mean, variance) - metrics.pit(lower, mean, variance), 0.8, rtol=1e-9)
    one = stats.norm.ppf(LEVELS)[:, None, None] * np.sqrt(variance[:, 0]) + mean[:, 0]
    np.testing.assert_allclose(metrics.quantile(mean[:, :1], variance[:, :1], LEVELS), one, rtol=1e-9, atol=1e-9)
    ends = metrics.quantile(mean, variance, np.asarray([0.0, 1.0]))
    assert np.all(ends[0] == -np.inf) and np.all(ends[1] == np.inf)


def test_quantiles_have_the_gradient_of_the_implicit_function():
    _, mean, variance = mixtures()
    one = np.zeros(mean.shape)
    one[0, 0, 0] = 1

    @jax.jit
    def value(shift):
        return jnp.sum(jnp.sin(metrics.quantile(mean + shift * one, variance, 0.3)))

    slope = jax.grad(value)(0.0)
    assert abs(slope - (value(1e-5) - value(-1e-5)) / 2e-5) < 1e-8
    in_level = jax.jit(jax.grad(lambda q: jnp.sum(metrics.quantile(mean, variance, q))))(0.3)
    ends = metrics.quantile(mean, variance, np.asarray([0.300001, 0.299999]))
    assert abs(in_level - np.sum(ends[0] - ends[1]) / 2e-6) < 1e-5


@pytest.mark.parametrize("dtype", fast([np.float32, np.float64], np.float32))
def test_a_variance_of_zero_is_a_point(dtype):
    mean = np.asarray([[[1.0], [2.0], [3.0], [4.0]]], dtype)
    nothing = np.zeros_like(mean)
    at = np.asarray([[2.0]], dtype)
    assert metrics.nll(at, mean, nothing)[0] == -jnp.inf
    assert metrics.nll(at + dtype(0.5), mean, nothing)[0] == np.inf
    assert np.isnan(metrics.nll(at * dtype(np.nan), mean, nothing)[0])
    assert metrics.pit(at, mean, nothing)[0, 0] == 0.5
    expected = scoringrules.crps_ensemble(2.5, np.asarray(mean)[0, :, 0], estimator="nrg")
    np.testing.assert_allclose(metrics.crps(at + dtype(0.5), mean, nothing)[0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(
        metrics.quantile(mean, nothing, np.asarray([0.25, 0.26, 0.75]))[:, 0, 0], [1, 2, 3], rtol=1e-6
    )
    mixed = np.where(np.arange(4) == 1, dtype(0.5), dtype(0))[None, :, None]
    slope = jax.grad(lambda v: jnp.sum(metrics.crps(at, mean, v)) + jnp.sum(metrics.quantile(mean, v, 0.4)))
    assert np.all(np.isfinite(jax.jit(slope)(mixed)))
    two = np.zeros((1, 1, 2)), np.zeros((1, 1, 2))  # on the mean in one channel, off it in the other
    assert metrics.nll(np.asarray([[0.0, 1.0]]), *two)[0] == np.inf
    outputs = lt.Outputs(mean, nothing, np.zeros(1, dtype))
    assert metrics.health(outputs, np.asarray([[2.5]], dtype)).innovation[0] == 0


def test_quantile_scores_are_those_of_scoringrules():
    ys, mean, variance = mixtures(1, 40)
    quantiles = metrics.quantile(mean, variance, LEVELS)
    pairs = zip(np.asarray(quantiles), LEVELS, strict=True)
    expected = np.stack([scoringrules.quantile_score(ys, f, q) for f, q in pairs])
    np.testing.assert_allclose(metrics.quantile_loss(ys, quantiles, LEVELS), 2 * expected, rtol=1e-12)
    seen = np.arange(40) % 3 > 0
    came = metrics.weighted_quantile_loss(np.where(seen[:, None], ys, np.nan), quantiles, LEVELS, seen)
    by_hand = np.mean([2 * e[seen].sum() / np.abs(ys[seen]).sum() for e in expected])
    np.testing.assert_allclose(came, by_hand, rtol=1e-12)
    fine = (np.arange(2000) + 0.5) / 2000  # its integral over q is the CRPS
    ys, mean, variance = ys[:5], mean[:5], variance[:5]
    loss = metrics.quantile_loss(ys, metrics.quantile(mean, variance, fine), fine)
    np.testing.assert_allclose(np.mean(loss, axis=0), metrics.crps(ys, mean, variance), rtol=1e-3)


def test_mase_is_one_for_the_seasonal_naive_forecast_of_its_own_history():
    history = np.random.default_rng(0).normal(size=(60, 2))
    np.testing.assert_allclose(metrics.mase(history[7:], history[:-7], history, season=7), 1, rtol=1e-12)
    seen = np.arange(53) != 3
    lost = np.where(seen[:, None], history[7:], np.nan)
    errors = np.abs(history[7:] - history[:-7])
    came = metrics.mase(lost, history[:-7], history, season=7, mask=seen)
    np.testing.assert_allclose(came, errors[seen].mean(0) / errors.mean(0), rtol=1e-12)


def test_coverage_by_horizon_and_the_energy_score():
    rng = np.random.default_rng(0)
    ys, paths = rng.normal(size=(6, 2)), rng.normal(size=(70, 6, 2))
    expected = scoringrules.es_ensemble(np.ravel(ys), np.reshape(paths, (70, -1)))
    np.testing.assert_allclose(metrics.energy_score(ys, paths), expected, rtol=1e-9)
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda p: metrics.energy_score(ys, p)))(paths)))
    targets = rng.uniform(size=(9, 4, 1))
    upper = np.broadcast_to(np.asarray([0.0, 0.5, 0.5, 1.0])[:, None], targets.shape)
    share = np.mean(targets <= upper, axis=0)
    np.testing.assert_allclose(metrics.horizon_coverage(targets, np.zeros_like(upper), upper), share)
    seen = np.ones((9, 4), bool)
    seen[:8, 1] = False
    assert metrics.horizon_coverage(targets, np.zeros_like(upper), upper, seen)[1, 0] == (targets[8, 1, 0] <= 0.5)
