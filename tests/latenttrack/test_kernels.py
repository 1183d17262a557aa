"""Kernels against oracles: divergences, densities, the recurrent cell, generated weights, the linear-Gaussian prior."""

import itertools

import dense
import jax
import jax.numpy as jnp
import latent
import mpmath
import numpy as np
import pytest
from suites import fast

from latenttrack.algebra import gaussian, quadrature, recurrence
from latenttrack.tracking import generated_weights

pytestmark = pytest.mark.usefixtures("x64")


def test_expected_divergence_against_monte_carlo():
    rng = np.random.default_rng(0)
    d, draws = 3, 1_000_000
    matrix, root = rng.normal(size=(d, d)), rng.normal(size=(d, d))
    mean, variance, prior_variance = rng.normal(size=d), rng.uniform(0.5, 2, d), rng.uniform(0.5, 2, d)
    center, offset = rng.normal(size=d), rng.normal(size=d)
    spread = np.diag(matrix @ root @ root.T @ matrix.T)
    moments = (mean, variance, matrix @ center + offset, prior_variance, spread)
    closed = gaussian.divergence(*map(jnp.asarray, moments))
    z = center + rng.normal(size=(draws, d)) @ root.T
    ratio = variance / prior_variance
    sampled = 0.5 * (ratio - np.log(ratio) - 1 + (mean - z @ matrix.T - offset) ** 2 / prior_variance).sum(1)
    assert abs(closed - sampled.mean()) < 4 * sampled.std() / draws**0.5
    assert spread.min() > 0.1  # the term that only the structured transition has


def test_divergence_is_zero_at_the_prior():
    assert gaussian.divergence(jnp.ones(3), jnp.full(3, 0.3), jnp.ones(3), jnp.full(3, 0.3)) == 0


EXTREMES = list(itertools.product([0.0, 1e-3, 1e4], [1e-8, 1.0, 1e8], [0.0, -1e6]))


@pytest.mark.parametrize(("shift", "variance", "y"), EXTREMES)
def test_mixture_density_against_many_digits(shift, variance, y):
    """Components whose densities underflow by far."""
    means, variances = np.asarray([[0.0], [shift], [-3 * shift]]), np.full((3, 1), variance) * [[1], [2], [0.5]]
    came = gaussian.mixture(gaussian.log_density(*map(jnp.asarray, ([y], means, variances))))
    with mpmath.workdps(60):
        total = sum(
            mpmath.exp(-((mpmath.mpf(y) - m) ** 2) / (2 * mpmath.mpf(v))) / mpmath.sqrt(2 * mpmath.pi * v)
            for m, v in zip(means.ravel(), variances.ravel(), strict=True)
        )
        expected = mpmath.log(total / 3)
    assert dense.relative_error(came, float(expected)) < 1e-12


def test_recurrence_is_its_steps_and_has_their_gradient():
    rng = np.random.default_rng(1)
    weight, start = jnp.asarray(rng.normal(size=(4, 12))), jnp.asarray(rng.normal(size=4))
    projected, observed = jnp.asarray(rng.normal(size=(9, 12))), jnp.asarray([1.0, 1, 0, 1, 0, 0, 1, 1, 1])

    def plain(weight, start, projected):
        def body(h, inputs):
            p, seen = inputs
            h = jnp.where(seen > 0, recurrence.step(weight, h, p), h)
            return h, h

        return jax.lax.scan(body, start, (projected, observed))[1]

    def total(function):
        return lambda *args: jnp.sum(jnp.sin(jnp.arange(36.0).reshape(9, 4) + function(*args)))

    args = (weight, start, projected)
    functions = (lambda *a: recurrence.recur(*a, observed)), plain
    ours, theirs = (jax.jit(jax.value_and_grad(total(f), (0, 1, 2)))(*args) for f in functions)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert dense.relative_error(a, b) < 1e-12


def test_generated_product_is_the_sum_over_directions_and_has_its_gradient():
    rng = np.random.default_rng(2)
    args = [jnp.asarray(rng.normal(size=shape)) for shape in ((5, 2, 3), (5, 2, 4), (3, 4, 6))]

    def plain(code, active, directions):
        return jnp.einsum("tsr,tsn,rnm->tsm", code, active, directions)

    def graded(function):
        return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(function(*a))), (0, 1, 2)))(*args)

    over = jax.vmap(generated_weights.generated, (0, 0, None))
    for function in (generated_weights.generated, over):
        for a, b in zip(jax.tree.leaves(graded(function)), jax.tree.leaves(graded(plain)), strict=True):
            assert dense.relative_error(a, b) < 1e-12


@pytest.mark.parametrize("options", fast([{}, {"summary": False}, {"conditioning": "input"}], {}), ids=str)
def test_emissions_are_those_of_the_generated_weights(options):
    model = latent.model(**options)
    params = latent.wide(latent.params(model))
    xs, ys = latent.stream(3)
    state = model.update(params, model.initial_state(params), xs[0], ys[0])
    key = jax.random.key(0)
    _, outputs = model.rollout(params, key, xs[1:2], ys[1:2], state, 4)
    # The rollout's own draws, from its prior: with z known the components are emit(generate(z)).
    prior = model.predict(params, state)
    first, second = np.reshape(jax.random.normal(jax.random.fold_in(key, state.step), (24,)), (2, 4, 3))
    moved = np.asarray(params["matrix"]) @ np.asarray(state.root)
    spread = np.diag(np.asarray(prior.covariance) - moved @ moved.T)
    z = np.asarray(prior.mean) + second @ moved.T + np.sqrt(spread) * first
    for k in range(4):
        mean, variance = model.emit(model.generate(params, z[k], state), xs[1])
        assert dense.relative_error(outputs.mean[0, k], mean) < 1e-9
        assert dense.relative_error(outputs.variance[0, k], variance) < 1e-9


def test_prior_is_dynamaxs_prediction():
    """A fixed linear-Gaussian transition and nothing observed: the moments of the Kalman filter's predict step."""
    from dynamax.linear_gaussian_ssm.inference import _predict  # noqa: PLC0415

    model = latent.model()
    params = latent.wide(latent.params(model))
    params["prior_head"]["kernel"] = jnp.zeros_like(params["prior_head"]["kernel"])
    state = model.initial_state(params)
    offset, raw = jnp.split(params["prior_head"]["bias"], 2)
    noise = jnp.diag(jnp.square(1e-3 + jax.nn.softplus(raw)))
    mean, covariance = state.mean, state.root @ state.root.T
    xs, ys = latent.stream(8)
    for t in range(8):
        mean, covariance = _predict(mean, covariance, params["matrix"], jnp.zeros((3, 1)), offset, noise, jnp.zeros(1))
        prior = model.predict(params, state)
        assert dense.relative_error(prior.mean, mean) < 1e-8
        assert dense.relative_error(prior.covariance, covariance) < 1e-8
        state = model.update(params, state, xs[t], ys[t], mask=False)


def test_draws_have_the_priors_moments():
    """Through a predictor that is linear in z, the components have its mean and covariance."""
    model = latent.model(generator_hidden=(), predictor_hidden=(), summary=False)
    params = latent.wide(latent.params(model))
    xs, ys = latent.stream(3)
    state = model.update(params, model.initial_state(params), xs[0], ys[0])
    state = model.update(params, state, xs[1], ys[1], mask=False)  # a belief with a full covariance
    count = 200_000
    _, outputs = model.rollout(params, jax.random.key(4), xs[2:], ys[2:], state, count)
    prior = model.predict(params, state)

    def emitted(z):
        return model.emit(model.generate(params, z), xs[2])[0]

    expected, jacobian = map(np.asarray, jax.jit(lambda z: (emitted(z), jax.jacobian(emitted)(z)))(prior.mean))
    covariance = jacobian @ np.asarray(prior.covariance) @ jacobian.T
    centred = np.asarray(outputs.mean[0]) - expected
    assert np.all(np.abs(centred.mean(0)) < 5 * np.sqrt(np.diag(covariance) / count))
    assert dense.relative_error(centred.T @ centred / count, covariance) < 0.03


@pytest.mark.parametrize("transition", latent.TRANSITIONS)
@pytest.mark.parametrize("gaps", [pytest.param((), marks=pytest.mark.slow), (0, 5, 6, 7, 63)])
def test_loss_is_the_sum_over_steps_of_the_kernels(transition, gaps):
    """The divergence, step by step with predict and update, where the loss works on whole windows."""
    model = latent.model(transition)
    params = latent.wide(latent.params(model))
    xs, ys = latent.stream()
    mask = None if not gaps else jnp.ones(latent.T, bool).at[jnp.asarray(gaps)].set(False)
    state = model.update(params, model.initial_state(params), xs[3], ys[3])
    start, total, counted = model.update(params, state, xs[4], ys[4], mask=False), 0.0, 0
    state, divergence = start, jax.jit(gaussian.divergence)
    matrix = np.asarray(params["matrix"]) if transition == "structured" else np.zeros((3, 3))
    for t in range(latent.T):
        seen = mask is None or bool(mask[t])
        after = model.update(params, state, xs[t], ys[t], mask=seen)
        if seen:
            prior = model.predict(params, state)
            spread = np.sum(np.square(matrix @ np.asarray(state.root)), axis=1)
            variance = np.diag(prior.covariance) - spread
            total += divergence(after.mean, np.diag(after.root) ** 2, prior.mean, variance, spread)
            counted += 1
        state = after
    value, aux = model.loss(params, jax.random.key(0), xs, ys, start, mask, predictive=0.0)
    assert dense.relative_error(aux.kl, total / counted) < 1e-9
    assert dense.relative_error(value, aux.reconstruction + aux.kl) < 1e-12
    for a, b in zip(aux.state, state, strict=True):
        assert dense.relative_error(a, b) < 1e-9


def test_weights_of_the_loss():
    model = latent.model()
    params = latent.params(model)
    xs, ys = (leaf.astype(jnp.float32) for leaf in latent.stream())
    state, key = model.initial_state(params), jax.random.key(0)

    def kl(weights, mask=None):
        return model.loss(params, key, xs, ys, state, mask, weights=weights)[1].kl

    half = (jnp.arange(latent.T) < 10).astype(jnp.float32)
    short = model.loss(params, key, xs[:10], ys[:10], state)[1].kl
    assert dense.relative_error(kl(half), short) < 1e-5
    assert dense.relative_error(kl(3 * half), kl(half)) < 1e-5
    assert kl(jnp.ones(latent.T)) != kl(half)


@pytest.mark.parametrize("count", [1, 5, 32])
def test_fixed_points_are_standardised_and_always_the_same(count):
    points = quadrature.points(count, 2, 3)
    np.testing.assert_array_equal(points, quadrature.points(count, 2, 3))
    np.testing.assert_allclose(points.mean(1), 0, atol=1e-12)
    if count > 1:
        np.testing.assert_allclose(np.mean(points**2, axis=1), 1, rtol=1e-12)
    one = quadrature.points(count, 1, 3)
    assert not one[1].any() and one.shape == (2, count, 3)


@pytest.mark.parametrize("transition", fast(latent.TRANSITIONS, "structured"))
def test_with_fixed_points_the_loss_is_what_a_rollout_scores(transition):
    """Whatever the key: nothing is left to chance in what is predicted."""
    model = latent.model(transition, points="fixed")
    params = latent.wide(latent.params(model))
    xs, ys = latent.stream()
    state = model.initial_state(params)
    mask = jnp.arange(latent.T) % 5 != 1
    _, outputs = model.rollout(params, jax.random.key(1), xs, ys, state, 3, mask)
    value, aux = model.loss(params, jax.random.key(0), xs, ys, state, mask, predictive=1.0)
    assert dense.relative_error(value, -jnp.sum(jnp.where(mask, outputs.log_prob, 0)) / jnp.sum(mask)) < 1e-9
    assert value == aux.predictive
