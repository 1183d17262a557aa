"""Every kernel against dense float64, sequential and parallel; float32; masks and limits; transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from suites import fast

from latenttrack import gaussian_process as gp

T = 13
RNG = np.random.default_rng(1)
Y, PRECISION = RNG.normal(size=T), np.exp(RNG.normal(size=T))
PRECISION[[3, 4, 12]] = 0
TIMES = np.sort(RNG.uniform(0, 20, T))
MODELS = {
    "ou": lambda: gp.matern(0.5, 3.0, 1.7),
    "matern 5/2": lambda: gp.matern(2.5, 4.0, 0.6),
    "irregular": lambda: gp.matern(1.5, 4.0, step=np.diff(TIMES)),
    "rbf": lambda: gp.rbf(2.2, 0.69),
    "sum": lambda: gp.add(gp.matern(0.5, 2.0), gp.matern(1.5, 9.0)),
    "product": lambda: gp.multiply(gp.matern(1.5, 8.0), gp.matern(0.5, 3.0, 2.0)),
}
COUPLED = RNG.normal(size=(4, 4))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", fast(MODELS, "irregular", "rbf"))
def test_posterior_is_the_dense_one(name):
    model = MODELS[name]()
    K = np.asarray(gp.covariance(model, T))
    mean, S, divergence, log_z = oracle.posterior(K, Y, PRECISION)
    for parallel in (False, True):
        posterior = gp.posterior(model, gp.Site(Y, PRECISION), parallel=parallel)
        np.testing.assert_allclose(posterior.mean, mean, atol=1e-10)
        np.testing.assert_allclose(posterior.variance, np.diag(S), atol=1e-10)
        np.testing.assert_allclose(posterior.divergence, divergence, atol=1e-8 if name == "rbf" else 1e-9)
        np.testing.assert_allclose(posterior.log_evidence, log_z, atol=1e-10)
        alone = gp.divergence(model, gp.Site(Y, PRECISION), parallel=parallel)
        np.testing.assert_array_equal(alone, posterior.divergence)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("width", fast([2, 4], 2))
def test_several_outputs_are_the_dense_ones(width):
    model = gp.coupled(COUPLED)
    y, precision = RNG.normal(size=(T, width)), np.exp(RNG.normal(size=(T, width)))
    precision[[2, 5]] = 0
    precision[7, 0] = 0
    K = np.asarray(gp.covariance(model, T, width)).reshape(T * width, T * width)
    mean, S, divergence, log_z = oracle.posterior(K, y, precision)
    for parallel in (False, True):
        posterior = gp.posterior(model, gp.Site(y, precision), parallel=parallel)
        np.testing.assert_allclose(posterior.mean, mean.reshape(T, width), atol=1e-10)
        np.testing.assert_allclose(posterior.variance, np.diag(S).reshape(T, width), atol=1e-10)
        np.testing.assert_allclose([posterior.divergence, posterior.log_evidence], [divergence, log_z], atol=1e-10)
    variance = np.exp(RNG.normal(size=(T, width)))
    noisy = K + 0.01 * np.eye(len(K))
    expected = oracle.gaussian_divergence(y.ravel(), np.diag(variance.ravel()), noisy)
    for parallel in (False, True):
        divergence = gp.divergence(model, gp.MeanField(y, variance), noise=0.01, parallel=parallel)
        np.testing.assert_allclose(divergence, expected, rtol=1e-10)
    np.testing.assert_allclose(gp.log_prob(model, y, noise=0.01), oracle.log_density(y.ravel(), noisy), rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", fast(MODELS, "ou"))
def test_mean_field_divergence_and_density_are_the_dense_ones(name):
    model = MODELS[name]()
    K = np.asarray(gp.covariance(model, T))
    noisy, variance = K + 0.01 * np.eye(T), np.exp(RNG.normal(size=T))
    expected = oracle.gaussian_divergence(Y, np.diag(variance), noisy)
    seen = PRECISION > 0
    for parallel in (False, True):
        divergence = gp.divergence(model, gp.MeanField(Y, variance), noise=0.01, parallel=parallel)
        np.testing.assert_allclose(divergence, expected, rtol=1e-9)
        density = gp.log_prob(model, Y, noise=0.01, parallel=parallel)
        np.testing.assert_allclose(density, oracle.log_density(Y, noisy), rtol=1e-9)
        density = gp.log_prob(model, np.where(seen, Y, np.nan), noise=0.01, mask=seen, parallel=parallel)
        np.testing.assert_allclose(density, oracle.log_density(Y[seen], noisy[seen][:, seen]), rtol=1e-9)
    if name == "ou":
        np.testing.assert_allclose(gp.log_prob(model, Y), oracle.log_density(Y, K), rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_kernels_one_step_at_a_time_are_the_filter():
    model = MODELS["irregular"]()
    sites = gp.Site(Y, PRECISION)
    belief, total = gp.init(model), 0.0
    predicted, filtered, evidence = gp.filter(model, sites)
    for t in range(T):
        np.testing.assert_allclose(belief.covariance, predicted.covariance[t], atol=1e-12)
        belief, own = gp.update(belief, gp.Site(Y[t], PRECISION[t]))
        np.testing.assert_allclose(belief.mean, filtered.mean[t], atol=1e-12)
        total += own
        belief = gp.predict(model, belief, t) if t < T - 1 else belief
    np.testing.assert_allclose([total, evidence.sum()], gp.posterior(model, sites).log_evidence, atol=1e-12)
    smoothed = gp.smooth(model, sites)
    np.testing.assert_allclose(smoothed.covariance[-1], belief.covariance, atol=1e-12)
    np.testing.assert_allclose(smoothed.mean[:, 0], gp.posterior(model, sites).mean, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_limits_of_the_precision():
    model = MODELS["matern 5/2"]()
    absent = gp.posterior(model, gp.Site(np.full(T, np.nan), np.zeros(T)))
    assert float(absent.divergence) == float(absent.log_evidence) == 0
    np.testing.assert_array_equal(absent.mean, np.zeros(T))
    np.testing.assert_allclose(absent.variance, 0.6, rtol=1e-12)
    certain = gp.posterior(model, gp.Site(Y, np.full(T, 1e9)))
    np.testing.assert_allclose(certain.mean, Y, atol=1e-6)
    np.testing.assert_allclose(certain.variance, 1e-9, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_a_gaussian_likelihood_makes_the_bound_tight_and_its_weights_constant():
    model, variance = MODELS["sum"](), 0.3
    sites = gp.Site(Y, np.full(T, 1 / variance))
    mean, spread, divergence, log_z = map(np.asarray, gp.posterior(model, sites))
    evidence = gp.log_prob(model, Y, noise=variance)
    expected = -0.5 * (((Y - mean) ** 2 + spread) / variance + np.log(2 * np.pi * variance)).sum()
    np.testing.assert_allclose(expected - divergence, evidence, atol=1e-10)
    draws = jax.jit(jax.vmap(lambda key: gp.sample(model, key, T, sites=sites)))(jax.random.split(KEY, 5))
    draws = np.asarray(draws)
    likelihood = -0.5 * ((Y - draws) ** 2 / variance + np.log(2 * np.pi * variance)).sum(1)
    weights = likelihood + log_z + 0.5 * ((Y - draws) ** 2 / variance).sum(1)
    np.testing.assert_allclose(weights, evidence, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("parallel", fast([False, True], True))
def test_samples_have_the_dense_moments(parallel):
    model = gp.matern(0.5, 3.0, 1.7)
    K, steps, count = np.asarray(gp.covariance(model, 8)), 8, 10_000
    keys = jax.random.split(jax.random.key(3), count)
    sites, given = gp.Site(Y[:6], PRECISION[:6]), Y[:5]

    def moments(**options):
        draw = jax.jit(jax.vmap(lambda key: gp.sample(model, key, parallel=parallel, **options)))
        draws = np.asarray(draw(keys))
        return draws.mean(0), np.cov(draws.T)

    tolerance = 6 * np.sqrt(2) * 1.7 / np.sqrt(count)
    mean, covariance = moments(steps=steps)
    np.testing.assert_allclose(mean, np.zeros(steps), atol=tolerance)
    np.testing.assert_allclose(covariance, K, atol=tolerance)
    mean, covariance = moments(steps=steps, sites=sites)
    expected = oracle.posterior(K, np.pad(Y[:6], (0, 2)), np.pad(PRECISION[:6], (0, 2)))
    np.testing.assert_allclose(mean, expected[0], atol=tolerance)
    np.testing.assert_allclose(covariance, expected[1], atol=tolerance)
    mean, covariance = moments(steps=3, given=given)
    gain = K[5:, :5] @ np.linalg.inv(K[:5, :5])
    np.testing.assert_allclose(mean, gain @ given, atol=tolerance)
    np.testing.assert_allclose(covariance, K[5:, 5:] - gain @ K[:5, 5:], atol=tolerance)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_parallel_draws_are_the_sequential_ones():
    key, model = jax.random.key(0), gp.coupled(COUPLED)
    for options in ({"outputs": 3}, {"given": np.ones((3, 2))}, {"sites": gp.Site(np.ones((4, 2)), np.ones((4, 2)))}):
        paths = [gp.sample(model, key, 6, parallel=parallel, **options) for parallel in (False, True)]
        np.testing.assert_allclose(*paths, atol=1e-10)


@pytest.mark.parametrize("order", fast([0.5, 1.5, 2.5], 2.5))
def test_float32_is_stable_for_length_scales_from_below_one_step_to_thousands(order):
    """Smooth, densely observed and nearly noise-free in places: what makes covariances indefinite."""
    length, scales = 600, np.asarray([0.4, 3.0, 30.0, 300.0, 3000.0])
    y = np.sin(np.arange(length) / 40)
    precision = np.where(np.arange(length) % 7 < 5, 10.0 ** (np.arange(length) % 5), 0)

    def run(dtype):
        sites = gp.Site(y.astype(dtype), precision.astype(dtype))
        return jax.vmap(lambda scale: gp.posterior(gp.matern(order, scale), sites))(scales.astype(dtype))

    single = jax.jit(run, static_argnums=0)(np.float32)
    with jax.enable_x64(True):
        double = jax.jit(run, static_argnums=0)(np.float64)
    assert (single.variance > 0).all()
    np.testing.assert_allclose(single.mean, double.mean, atol=2e-3)
    np.testing.assert_allclose(single.variance, double.variance, rtol=2e-2, atol=1e-6)
    np.testing.assert_allclose(single.divergence, double.divergence, rtol=5e-3, atol=0.5)
    np.testing.assert_allclose(single.log_evidence, double.log_evidence, rtol=5e-3, atol=0.5)


KEY = jax.random.key(0)
Y_, PRECISION_ = Y[:5], PRECISION[:5]
KERNELS = {
    "posterior": lambda scale: gp.posterior(gp.matern(1.5, scale), gp.Site(Y_, PRECISION_)),
    "posterior, parallel": lambda scale: gp.posterior(gp.matern(1.5, scale), gp.Site(Y_, PRECISION_), parallel=True),
    "smooth": lambda scale: gp.smooth(gp.rbf(scale, order=3), gp.Site(Y_, PRECISION_)),
    "filter": lambda scale: gp.filter(gp.matern(0.5, scale), gp.Site(Y_, PRECISION_)),
    "divergence": lambda scale: gp.divergence(gp.matern(0.5, scale), gp.MeanField(Y_, np.ones(5)), noise=0.1),
    "log_prob": lambda scale: gp.log_prob(gp.matern(1.5, scale), Y_, noise=0.1),
    "sample": lambda scale: gp.sample(gp.matern(1.5, scale), KEY, 7, sites=gp.Site(Y_, PRECISION_)),
    "steps": lambda scale: gp.update(
        gp.predict(gp.matern(1.5, scale), gp.init(gp.matern(1.5, scale))), gp.Site(1.0, 2.0)
    ),
    "covariance": lambda scale: gp.covariance(gp.multiply(gp.matern(1.5, scale), gp.matern(0.5, scale)), 4),
    "coupled": lambda scale: gp.posterior(gp.coupled(scale * COUPLED[:2, :2]), gp.Site(*[np.ones((3, 2))] * 2)),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", fast(KERNELS, "posterior, parallel", "sample"))
def test_transformations(name):
    """jit, vmap and scan give the plain numbers, and grad the slope, also in reverse through masked steps."""
    kernel, scales = KERNELS[name], jnp.asarray([0.9, 4.0])

    def total(scale):
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(kernel(scale)))

    plain = [total(scale) for scale in scales]

    @jax.jit
    def transformed(scales):
        scanned = jax.lax.scan(lambda _, scale: (None, total(scale)), None, scales)[1]
        return jax.vmap(jax.value_and_grad(total))(scales), scanned

    (mapped, slopes), scanned = transformed(scales)
    np.testing.assert_allclose(mapped, plain, rtol=1e-9)
    np.testing.assert_allclose(scanned, plain, rtol=1e-9)
    difference = (total(scales[1] + 1e-5) - total(scales[1] - 1e-5)) / 2e-5
    np.testing.assert_allclose(slopes[1], difference, rtol=1e-5, atol=1e-7)


def test_gradients_of_missing_steps_are_finite():
    def total(precision):
        y = jnp.ones_like(precision).at[0].set(jnp.nan)
        model = gp.matern(0.5, 3.0) if precision.ndim == 1 else gp.coupled(COUPLED[:2, :2])
        return sum(leaf.sum() for leaf in jax.tree.leaves(gp.posterior(model, gp.Site(y, precision))))

    for shape in ((3,), (3, 2)):
        precision = jnp.ones(shape).at[0].set(0)
        assert np.isfinite(jax.grad(total)(precision)).all()


def test_many_series_under_one_prior_are_each_their_own():
    """More than 2¹⁵ elements in all, where a compiler's product of unlike batches can go wrong."""
    model = gp.add(gp.matern(1.5, 15.0, 4.0), gp.matern(0.5, 4.0, 0.5))
    precision = np.where((np.arange(40) >= 20) & (np.arange(40) < 30), 0, 1).astype(np.float32)
    y = np.random.default_rng(0).normal(size=(400, 40)).astype(np.float32)
    run = jax.jit(jax.vmap(lambda y: gp.posterior(model, gp.Site(y, precision))))
    many, few = run(y), run(y[-3:])
    for one, other in zip(many, few, strict=True):
        np.testing.assert_allclose(one[-3:], other, rtol=1e-4, atol=1e-4)


def test_a_second_call_compiles_nothing():
    model, sites = gp.matern(1.5, 2.0), gp.Site(jnp.ones(5), jnp.ones(5))
    kernels = (gp.posterior, gp.smooth, gp.filter, lambda m, s: gp.sample(m, KEY, 5, sites=s))

    def run():
        for kernel in kernels:
            jax.block_until_ready(kernel(model, sites))

    run()
    with jax.log_compiles(True), pytest.MonkeyPatch.context() as patch:
        compiled = []
        patch.setattr("logging.Logger.warning", lambda self, message, *a, **k: compiled.append(str(message)))
        run()
    assert not [message for message in compiled if "Compiling" in message]
