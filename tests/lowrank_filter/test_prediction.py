"""What a belief says about observations, against draws of the outputs."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from problems import LIKELIHOODS, problem
from scipy.stats import multivariate_normal, norm
from suites import fast

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("name", fast(LIKELIHOODS, "gaussian", "categorical", "heteroscedastic"))
def test_against_draws(name):
    belief, apply_fn, likelihood, x, y = problem(name, 2)
    belief = belief._replace(precision=jax.tree.map(lambda leaf: 10 * leaf, belief.precision))
    prediction = lf.predictive(belief, apply_fn, x, likelihood=likelihood)
    mean, variance = prediction.moments()
    drawn = prediction.sample(jax.random.key(0), 20_000)
    covariance = lf.predictive(belief, apply_fn, x).covariance
    came = np.einsum("nbc,nbd->bcd", drawn - drawn.mean(0), drawn - drawn.mean(0)) / len(drawn)
    np.testing.assert_allclose(came, covariance, atol=0.05 * float(jnp.abs(covariance).max()))
    means, variances = jax.jit(jax.vmap(jax.vmap(likelihood.moments)))(drawn)
    np.testing.assert_allclose(mean, means.mean(0), rtol=0.02, atol=0.02)
    np.testing.assert_allclose(variance, variances.mean(0) + means.var(0), rtol=0.1, atol=0.02)
    losses = jax.jit(jax.vmap(lambda f: jax.vmap(likelihood.nll)(f, y)))(drawn)
    expected = jax.nn.logsumexp(-losses, axis=0) - np.log(len(drawn))
    error = np.std(np.exp(-losses - expected), axis=0) / np.sqrt(len(drawn))  # that of the draws
    assert (np.abs(prediction.log_prob(y) - expected) < 0.05 + 4 * error).all()
    if likelihood.classes:
        np.testing.assert_array_equal(prediction.probabilities(), mean)


@pytest.mark.parametrize("name", fast(LIKELIHOODS, "categorical", "bernoulli", "heteroscedastic"))
def test_drawn_targets_are_what_is_predicted(name):
    """In the shape that an update takes; five standard errors and two hundredths, that of the predicted moments."""
    belief, apply_fn, likelihood, x, y = problem(name, 2)
    belief = belief._replace(precision=jax.tree.map(lambda leaf: 10 * leaf, belief.precision))
    prediction = lf.predictive(belief, apply_fn, x, likelihood=likelihood)
    drawn = prediction.sample_targets(jax.random.key(0), 20_000)
    assert drawn.shape[1:] == y.shape and drawn.dtype == (jnp.int64 if y.ndim == 1 else jnp.float64)
    assert jax.vmap(lambda one: likelihood.in_domain(one, prediction.outputs.shape[1]))(
        drawn.reshape(-1, *y.shape[1:])
    ).all()
    one_hot = np.asarray(jax.nn.one_hot(drawn, prediction.outputs.shape[1]) if y.ndim == 1 else drawn)
    mean, variance = prediction.moments()
    error = 5 * np.sqrt(variance / len(drawn)) + 0.02 * (1 + np.abs(mean))
    assert (np.abs(one_hot.mean(0) - mean) < error).all()
    np.testing.assert_allclose(one_hot.var(0), variance, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("noise", [0.3, [0.3, 0.2], [[0.3, 0.2], [0.2, 0.2]]], ids=["scalar", "vector", "matrix"])
def test_drawn_targets_of_noise_of_every_shape(noise):
    covariance = np.array([[[0.5, 0.1], [0.1, 0.4]], [[1.0, 0.0], [0.0, 2.0]]])
    prediction = lf.Prediction(jnp.ones((2, 2)), jnp.asarray(covariance), lf.Gaussian(jnp.asarray(noise)))
    drawn = np.asarray(prediction.sample_targets(jax.random.key(1), 20_000))
    whole = covariance + (np.asarray(noise) if np.ndim(noise) == 2 else np.diag(np.broadcast_to(noise, 2)))
    came = np.einsum("nbc,nbd->bcd", drawn - 1, drawn - 1) / len(drawn)
    scale = np.sqrt(np.diagonal(whole, axis1=1, axis2=2))
    error = np.sqrt((np.einsum("bc,bd->bcd", scale, scale) ** 2 + whole**2) / len(drawn))
    assert (np.abs(came - whole) < 5 * error).all()
    for p in (0.05, 0.5, 0.9):
        assert (np.abs((drawn < prediction.quantile(p)).mean(0) - p) < 5 * np.sqrt(p * (1 - p) / len(drawn))).all()


def test_drawn_counts_of_any_rate():
    rates = jnp.array([0.0, 3.0, 2.0**20 - 1, 2.0**21, 1e12])
    prediction = lf.Prediction(jnp.log(rates)[:, None], jnp.zeros((5, 1, 1)), lf.Poisson())
    drawn = np.asarray(prediction.sample_targets(jax.random.key(2, impl="rbg"), 4000))[..., 0]
    np.testing.assert_array_equal(drawn, np.round(drawn))
    assert (np.abs(drawn.mean(0) - rates) <= 5 * np.sqrt(rates / len(drawn))).all()
    np.testing.assert_allclose(drawn.var(0), rates, rtol=0.15)


@pytest.mark.parametrize("name", fast(LIKELIHOODS, "categorical", "poisson"))
def test_draws_under_transformations(name):
    belief, apply_fn, likelihood, x, _ = problem(name, 2)
    prediction = lf.predictive(belief, apply_fn, x, likelihood=likelihood)
    keys = jax.random.split(jax.random.key(3), 2)
    for method in ("sample", "sample_targets"):

        def draw(key, prediction, method=method):
            return getattr(prediction, method)(key, 3)

        each = jnp.stack([draw(key, prediction) for key in keys])
        both = jax.jit(jax.vmap(draw, (0, None)))(keys, prediction)
        np.testing.assert_allclose(both, each, rtol=1e-12, atol=1e-12)
        assert not np.array_equal(each[0], each[1])
        assert getattr(prediction, method)(keys[0], 0).shape[0] == 0


def test_gaussian_in_closed_form():
    belief, apply_fn, likelihood, x, y = problem("gaussian", 2)
    prediction = lf.predictive(belief, apply_fn, x, likelihood=likelihood)
    outputs, covariance = lf.predictive(belief, apply_fn, x)
    whole = np.asarray(covariance + likelihood.covariance)
    exact = [multivariate_normal(m, c).logpdf(t) for m, c, t in zip(outputs, whole, y, strict=True)]
    np.testing.assert_allclose(prediction.log_prob(y), exact, rtol=1e-9)
    deviation = np.sqrt(np.diagonal(whole, axis1=1, axis2=2))
    np.testing.assert_array_equal(prediction.mean, outputs)
    np.testing.assert_allclose(prediction.quantile(0.9), norm(outputs, deviation).ppf(0.9), rtol=1e-6)


@pytest.mark.parametrize("noise", [0.3, [0.3, 0.2], [[0.3, 0.1], [0.1, 0.2]]], ids=["scalar", "vector", "matrix"])
def test_noise_of_every_shape(noise):
    spread = np.array([[[0.5, 0.1], [0.1, 0.4]], [[1.0, 0.0], [0.0, 2.0]]])
    prediction = lf.Prediction(jnp.ones((2, 2)), jnp.asarray(spread), lf.Gaussian(jnp.asarray(noise)))
    whole = spread + (np.asarray(noise) if np.ndim(noise) == 2 else np.diag(np.broadcast_to(noise, 2)))
    variance = np.diagonal(whole, axis1=1, axis2=2)
    np.testing.assert_allclose(prediction.moments()[1], variance, rtol=1e-12)
    np.testing.assert_allclose(prediction.quantile(0.9), norm(1.0, np.sqrt(variance)).ppf(0.9), rtol=1e-9)
    y = np.array([[0.0, 2.0], [1.5, 1.0]])
    exact = [multivariate_normal(np.ones(2), c).logpdf(t) for c, t in zip(whole, y, strict=True)]
    np.testing.assert_allclose(prediction.log_prob(y), exact, rtol=1e-9)


@pytest.mark.parametrize(
    ("likelihood", "deviations"), [(lf.Bernoulli(), (0.1, 3.0, 100.0)), (lf.Poisson(), (0.1, 1.0))]
)
def test_one_output_against_quadrature(likelihood, deviations):
    variance = jnp.square(jnp.asarray(deviations))
    prediction = lf.Prediction(jnp.full((len(variance), 1), 0.7), variance[:, None, None], likelihood)
    mean, spread = (moment[:, 0] for moment in prediction.moments())
    at = np.linspace(-10, 10, 200_001)
    shares = np.exp(-0.5 * at**2) / np.sum(np.exp(-0.5 * at**2))
    outputs = 0.7 + np.multiply.outer(deviations, at)
    means = scipy.special.expit(outputs) if likelihood.classes else np.exp(outputs)
    inside = means * (1 - means) if likelihood.classes else means
    np.testing.assert_allclose(mean, means @ shares, rtol=1e-3)
    np.testing.assert_allclose(spread, (inside + (means - (means @ shares)[:, None]) ** 2) @ shares, rtol=1e-3)


def logits(classes, deviation, size=4):
    """Outputs, and covariances that are neither alike nor isotropic."""
    rng = np.random.default_rng(classes)
    roots = rng.normal(size=(size, classes, classes)) / np.sqrt(2 * classes)
    spread = roots @ roots.transpose(0, 2, 1) + np.eye(classes) / 2
    outputs = jnp.asarray(2 * rng.normal(size=(size, classes)))
    return lf.Prediction(outputs, jnp.asarray(deviation**2 * spread), lf.Categorical())


@pytest.mark.parametrize("classes", fast([2, 3, 10], 2, 10))
def test_log_probabilities_of_all_classes_are_those_of_the_probabilities(classes):
    for deviation in (0.0, 0.3, 1.0, 3.0):
        prediction = logits(classes, deviation)
        came = jnp.stack([prediction.log_prob(np.full(4, c)) for c in range(classes)], axis=1)
        assert (came < 0).all()
        np.testing.assert_allclose(came, jnp.log(prediction.probabilities()), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(prediction.probabilities().sum(1), 1, rtol=1e-12)
        drawn = np.asarray(jax.nn.softmax(prediction.sample(jax.random.key(0), 30_000)))
        error = 4 * drawn.std(0) / drawn.mean(0) / np.sqrt(len(drawn))  # in nats, that of the draws
        assert (np.abs(came - np.log(drawn.mean(0))) < 0.05 + error).all()


def test_improbable_classes_against_quadrature():
    at = np.linspace(-50, 50, 400_001)
    for offset, deviation in [(10.0, 0.3), (30.0, 3.0), (100.0, 10.0), (400.0, 30.0), (100.0, 0.0)]:
        losses = np.logaddexp(0, offset + deviation * at)
        exact = np.logaddexp.reduce(-losses - at**2 / 2) - np.logaddexp.reduce(-(at**2) / 2)
        outputs, variance = jnp.asarray([[offset, 0.0]]), jnp.diag(jnp.asarray([deviation**2, 0.0]))[None]
        two = lf.Prediction(outputs, variance, lf.Categorical()).log_prob(np.array([1]))
        assert abs(two[0] - exact) < 0.01, (offset, deviation)
        # Two more that are as good as impossible, with their own variance: no longer a line.
        outputs = jnp.append(outputs, jnp.asarray([[-900.0, -900.0]]), axis=1)
        variance = jnp.pad(variance, ((0, 0), (0, 2), (0, 2))) + jnp.diag(jnp.asarray([0.0, 0.0, 1.0, 1.0]))
        four = lf.Prediction(outputs, variance, lf.Categorical()).log_prob(np.array([1]))
        assert abs(four[0] - exact) < 0.05, (offset, deviation)


def test_gradients_of_log_probabilities():
    prediction, labels = logits(3, 1.5), jnp.arange(4) % 3
    tangent = logits(3, 0.7, 4).covariance

    @jax.jit
    def value(t):
        outputs, covariance = prediction.outputs * (1 + t), prediction.covariance + t * tangent
        return lf.Prediction(outputs, covariance, lf.Categorical()).log_prob(labels).sum()

    slope = jax.grad(value)(0.0)
    # Where the points are has no derivative: what it changes is their error.
    assert abs(slope - dense.finite_difference(value, 0.0, 1e-4)) < 0.02 * abs(slope)


def test_what_does_not_fit_is_refused():
    belief, apply_fn, likelihood, x, y = problem("poisson", 2)
    prediction = lf.predictive(belief, apply_fn, x, likelihood=likelihood)
    with pytest.raises(TypeError, match=r"likelihood: expected Categorical or Bernoulli, got Poisson; take"):
        prediction.probabilities()
    with pytest.raises(TypeError, match=r"likelihood: expected Gaussian, got Poisson; take.*sample_targets"):
        prediction.quantile(0.5)
    with pytest.raises(ValueError, match=r"y: expected 5 targets, got shape \(4, 2\); give one"):
        prediction.log_prob(y[:4])


def test_a_label_without_an_output_has_no_probability_where_only_a_trace_sees_it():
    belief, apply_fn, likelihood, x, _ = problem("categorical", 2)
    prediction = lf.predictive(belief, apply_fn, x, likelihood=likelihood)
    outputs = prediction.outputs.shape[1]
    labels = jnp.array([0, 1, outputs, -1, outputs - 1])
    came = np.asarray(jax.jit(prediction.log_prob)(labels))
    assert np.isneginf(came[2:4]).all() and np.isfinite(came[[0, 1, 4]]).all()


def test_outputs_alone_are_told_of_the_likelihood():
    belief, apply_fn, _, x, _ = problem("categorical", 2)
    with pytest.raises(AttributeError, match=r"sample: expected a Prediction, got a Predictive.*give likelihood="):
        lf.predictive(belief, apply_fn, x).sample(jax.random.key(0), 1)


STRUCTURES = {"network": lf.LowRank(2), "kronecker": lf.KroneckerFactored(), "parts": [lf.LowRank(1), lf.Dense()]}


@pytest.mark.parametrize("name", STRUCTURES)
def test_an_input_that_is_not_finite_is_seen_in_its_own_example_alone(name):
    """Bit for bit, in pieces that overlap, and in all that is asked of a prediction."""
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=shape)) for shape in ((3, 12), (12, 2))]
    belief = lf.init(params, structure=STRUCTURES[name])
    x, y = rng.normal(size=(5, 3)), np.array([0, 1, 1, 0, 1])
    bad, others = x.copy(), np.array([0, 2, 4])
    bad[1, 2], bad[3, 0] = np.nan, np.inf

    def predicted(x):
        found = lf.predictive(
            belief, lambda p, x: jnp.tanh(x @ p[0]) @ p[1], x, likelihood=lf.Categorical(), batch_size=2
        )
        drawn = jnp.moveaxis(found.sample(jax.random.key(0), 2), 0, 1)
        return found.outputs, found.covariance, found.probabilities(), found.log_prob(y), drawn

    for came, expected in zip(predicted(bad), predicted(x), strict=True):
        np.testing.assert_array_equal(came[others], expected[others])
        assert np.isnan(came[1]).all()
