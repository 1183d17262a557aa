"""The discriminative Kalman filter against dense matrices, and against the Kalman filter where the two agree."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.linalg import eigvalsh, inv

import latenttrack as lt

pytestmark = pytest.mark.usefixtures("x64")


def parts(seed=0, d=3):
    rng = np.random.default_rng(seed)
    transition = 0.9 * np.linalg.qr(rng.normal(size=(d, d)))[0]
    covariance, noise, uncertainty = (r @ r.T + 0.1 * np.eye(d) for r in rng.normal(size=(3, d, d)))
    given = rng.normal(size=d), covariance, transition, noise, rng.normal(size=d), 0.2 * uncertainty
    return tuple(jnp.asarray(leaf) for leaf in given)


def oracle(mean, covariance, transition, noise, estimate, uncertainty, stationary=None):
    prior = transition @ covariance @ transition.T + noise
    precision = inv(prior) + inv(uncertainty) - (0 if stationary is None else inv(stationary))
    return inv(precision) @ (inv(prior) @ transition @ mean + inv(uncertainty) @ estimate), inv(precision)


def test_both_forms_against_dense_matrices():
    given = parts()
    stationary = lt.stationary_covariance(given[2], given[3])
    np.testing.assert_allclose(given[2] @ stationary @ given[2].T + given[3], stationary, rtol=1e-10)
    came = jax.jit(lt.discriminative_update)(*given, stationary)
    assert not came.robust
    for a, b in zip(came[:2], oracle(*given, stationary), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    plain = lt.discriminative_update(*given)
    assert plain.robust
    for a, b in zip(plain[:2], oracle(*given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    narrow = jax.jit(lt.discriminative_update)(*(jnp.asarray(leaf, jnp.float32) for leaf in (*given, stationary)))
    np.testing.assert_allclose(narrow.mean, came.mean, rtol=1e-4)


def test_it_is_robust_where_the_first_form_is_not_a_covariance():
    mean, covariance, transition, noise, estimate, _ = parts(1)
    vague, small = 100 * jnp.eye(3), 1e-3 * jnp.eye(3)
    prior = transition @ covariance @ transition.T + noise
    assert eigvalsh(inv(prior) + inv(vague) - inv(small)).min() < 0
    given = (mean, covariance, transition, noise, estimate, vague)
    came = lt.discriminative_update(*given, small)
    assert came.robust
    for a, b in zip(came[:2], oracle(*given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    slope = jax.grad(lambda f: jnp.sum(lt.discriminative_update(*given[:4], f, vague, small).mean))(estimate)
    np.testing.assert_allclose(slope, inv(inv(prior) + inv(vague)).sum(0) / 100, rtol=1e-8)


def test_it_is_the_kalman_filter_where_the_regression_is_bayes_rule():
    """x = C z + noise R: p(z | x) at the stationary law is Gaussian, and the two filters are one."""
    rng = np.random.default_rng(2)
    mean, covariance, transition, noise, *_ = parts(2)
    stationary = lt.stationary_covariance(transition, noise)
    emission, spread = jnp.asarray(rng.normal(size=(2, 3))), 0.3 * jnp.eye(2)
    uncertainty = jnp.asarray(inv(inv(stationary) + emission.T @ inv(spread) @ emission))
    for x in jnp.asarray(rng.normal(size=(5, 2))):
        estimate = uncertainty @ emission.T @ inv(spread) @ x
        came = lt.discriminative_update(mean, covariance, transition, noise, estimate, uncertainty, stationary)
        prior = transition @ covariance @ transition.T + noise
        gain = prior @ emission.T @ inv(emission @ prior @ emission.T + spread)
        mean = transition @ mean + gain @ (x - emission @ transition @ mean)
        covariance = prior - gain @ emission @ prior
        assert not came.robust
        np.testing.assert_allclose(came.mean, mean, rtol=1e-8)
        np.testing.assert_allclose(came.covariance, covariance, rtol=1e-7, atol=1e-10)


def test_seeds_a_scan_and_what_was_not_observed():
    lanes = [parts(seed) for seed in range(3)]
    stacked = [jnp.stack(leaf) for leaf in zip(*lanes, strict=True)]
    together = jax.jit(jax.vmap(lt.discriminative_update))(*stacked)
    for index, given in enumerate(lanes):
        np.testing.assert_allclose(together.mean[index], oracle(*given)[0], rtol=1e-9)
    mean, covariance, transition, noise, estimate, uncertainty = lanes[0]

    def body(belief, seen):
        after = lt.discriminative_update(*belief, transition, noise, estimate, uncertainty, mask=seen)
        return after[:2], after

    _, path = jax.lax.scan(body, (jnp.asarray(mean), jnp.asarray(covariance)), jnp.asarray([True, False]))
    np.testing.assert_allclose(path.mean[0], oracle(*lanes[0])[0], rtol=1e-9)
    np.testing.assert_allclose(path.mean[1], transition @ path.mean[0], rtol=1e-9)
    np.testing.assert_allclose(path.covariance[1], transition @ path.covariance[0] @ transition.T + noise, rtol=1e-9)


@pytest.mark.parametrize(
    ("position", "wrong", "says"),
    [(0, np.ones((2, 2)), "mean: expected shape"), (1, np.eye(2), "covariance: expected shape"), (4, "f", "estimate"),
     (5, np.ones(3), "uncertainty: expected shape")],
)  # fmt: skip
def test_wrong_arguments(position, wrong, says):
    given = list(parts())
    given[position] = wrong
    with pytest.raises((TypeError, ValueError), match=rf"{says}.*got.*;"):
        inspect.unwrap(lt.discriminative_update)(*given)
    with pytest.raises(ValueError, match=r"spectral radius below 1, got 1\.2"):
        lt.stationary_covariance(1.2 * jnp.eye(2), jnp.eye(2))
