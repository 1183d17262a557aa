"""Scores of mixtures against integrals, samples and known cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import latenttrack as lt
from latenttrack import metrics

pytestmark = pytest.mark.usefixtures("x64")


def mixtures(seed=0, steps=5, samples=4, channels=2):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(steps, samples, channels))
    variance = rng.uniform(0.2, 2.0, mean.shape)
    return jnp.asarray(rng.normal(size=(steps, channels))), jnp.asarray(mean), jnp.asarray(variance)


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
    np.testing.assert_allclose(came, jnp.abs(ys - mean[:, 0]), rtol=1e-8)


def test_nll_is_minus_the_log_of_the_mean_density():
    ys, mean, variance = mixtures()
    densities = stats.norm.pdf(ys[:, None], mean, np.sqrt(variance)).prod(2)
    np.testing.assert_allclose(metrics.nll(ys, mean, variance), -np.log(densities.mean(1)), rtol=1e-12)


def test_squared_error_and_uncertainty_have_the_mixtures_moments():
    ys, mean, variance = mixtures()
    aleatoric, epistemic = metrics.uncertainty(mean, variance)
    second = jnp.mean(variance + mean**2, axis=1)
    np.testing.assert_allclose(aleatoric + epistemic, second - jnp.mean(mean, axis=1) ** 2, rtol=1e-12)
    np.testing.assert_allclose(metrics.squared_error(ys, mean), (ys - jnp.mean(mean, axis=1)) ** 2, rtol=1e-12)


def draws(scale, steps=20_000):
    """Targets from the mixture itself where scale is 1; wider or narrower elsewhere."""
    _, mean, variance = mixtures(1, 1, 4, 2)
    rng = np.random.default_rng(2)
    component = rng.integers(4, size=(steps, 2))
    m, v = (np.asarray(a)[0][component, np.arange(2)] for a in (mean, variance))
    centre = np.asarray(mean)[0].mean(0)
    ys = centre + scale * (m + np.sqrt(v) * rng.normal(size=(steps, 2)) - centre)
    return jnp.asarray(ys), jnp.repeat(mean, steps, 0), jnp.repeat(variance, steps, 0)


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
    seen = jnp.asarray(np.random.default_rng(4).uniform(size=50) > 0.3)
    log_prob = jnp.where(seen, -metrics.nll(ys, mean, variance), 0).at[jnp.argmax(seen)].set(-1e7)
    outputs = lt.Outputs(mean, variance, log_prob)
    came = jax.jit(metrics.summary)(outputs, ys.at[~seen].set(jnp.nan), seen)
    kept = jax.tree.map(lambda leaf: leaf[seen], outputs)
    expected = metrics.summary(kept, ys[seen])
    for name, a, b in zip(came._fields, came, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=name)
    assert came.max_nll == 1e7 and came.nll > 1e5 and came.spikes >= 1
