"""Covariances against their formulas, and noise that is positive semi-definite in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from latenttrack import gaussian_process as gp

REGULAR = np.arange(9) * 0.7
IRREGULAR = np.cumsum([0.3, 0.1, 2.5, 0.0, 0.7, 40.0, 1.1])
ORDERS = (0.5, 1.5, 2.5)


def noise(model):
    return model.noise_root @ model.noise_root.mT


def stationary(model):
    root = np.asarray(model.stationary_root)
    return root @ root.T


def moved(model):
    transition, root = np.asarray(model.transition), np.asarray(model.noise_root)
    return transition @ stationary(model) @ transition.swapaxes(-1, -2) + root @ root.swapaxes(-1, -2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", ORDERS)
def test_matern_is_its_formula(order):
    regular = gp.matern(order, 2.3, 1.7, 0.7)
    irregular = gp.matern(order, 2.3, 1.7, np.diff(IRREGULAR))
    np.testing.assert_allclose(gp.covariance(regular, 9), oracle.matern(order, 2.3, 1.7, REGULAR), atol=1e-13)
    np.testing.assert_allclose(gp.covariance(irregular, 7), oracle.matern(order, 2.3, 1.7, IRREGULAR), atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("lengthscale", [1e-3, 0.1, 0.4, 3.0, 3000.0])
def test_matern_is_stationary(order, lengthscale):
    model = gp.matern(order, lengthscale, 1.7)
    np.testing.assert_allclose(moved(model), stationary(model), atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_float32_noise_has_small_relative_error(order):
    scales = np.asarray([0.1, 0.4, 1.0, 30.0, 300.0, 3000.0])
    single = jax.vmap(lambda scale: noise(gp.matern(order, scale)))(scales.astype(np.float32))
    with jax.enable_x64(True):
        double = np.asarray(jax.vmap(lambda scale: noise(gp.matern(order, scale)))(scales))
    size = np.sqrt(np.einsum("nii,njj->nij", double, double))
    np.testing.assert_allclose(single / size, double / size, atol=2e-5)
    values = np.linalg.eigvalsh(np.asarray(single, np.float64) / size)
    assert values.min() > -1e-5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("order", "error"), [(2, 0.135), (4, 0.022), (6, 0.0043), (8, 0.00091)])
def test_rbf_is_within_its_stated_error(order, error):
    model = gp.rbf(7.3, 1.0, order=order)
    exact = np.exp(-0.5 * (np.arange(60) / 7.3) ** 2)
    assert error * 0.9 < np.abs(gp.covariance(model, 60)[0] - exact).max() < error
    np.testing.assert_allclose(moved(model), np.eye(order), atol=1e-11)


def test_rbf_in_float32():
    for scale in (0.1, 0.4, 5.0, 3000.0):
        np.testing.assert_allclose(moved(gp.rbf(scale)), np.eye(6), atol=3e-5)


@pytest.mark.usefixtures("x64")
def test_sums_and_products_of_covariances():
    parts = gp.matern(1.5, 2.0, 1.3), gp.matern(0.5, 5.0, 0.4), gp.matern(2.5, 9.0)
    dense = [np.asarray(gp.covariance(part, 8)) for part in parts]
    np.testing.assert_allclose(gp.covariance(gp.add(*parts), 8), sum(dense), atol=1e-13)
    product = gp.multiply(*parts[:2])
    np.testing.assert_allclose(gp.covariance(product, 8), dense[0] * dense[1], atol=1e-13)
    np.testing.assert_allclose(moved(product), stationary(product), atol=1e-13)
    mixed = gp.add(parts[1], gp.matern(0.5, 2.0, step=np.diff(IRREGULAR)))
    expected = dense[1][:7, :7] + oracle.matern(0.5, 2.0, 1, IRREGULAR)
    np.testing.assert_allclose(gp.covariance(mixed, 7), expected, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_coupled_is_stationary_and_stable_for_every_matrix():
    for scale in (0.0, 1.0, 1e3):
        model = gp.coupled(scale * np.random.default_rng(0).normal(size=(4, 4)))
        np.testing.assert_allclose(moved(model), np.eye(4), atol=1e-9)
        assert np.abs(np.linalg.eigvals(np.asarray(model.transition))).max() < 1


@pytest.mark.usefixtures("x64")
def test_only_a_coupled_law_knows_its_direction():
    """Cov(f_t, f_{t+1}) of independent reversible channels, and of a symmetric coupling, is symmetric."""
    matrix = np.random.default_rng(0).normal(size=(3, 3))
    across = gp.covariance(gp.coupled(matrix), 2, 3)[0, :, 1]
    assert np.abs(across - across.T).max() > 0.1
    across = gp.covariance(gp.coupled(matrix + matrix.T), 2, 3)[0, :, 1]
    np.testing.assert_allclose(across, across.T, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_gradients_where_eigenvalues_are_equal():
    def total(matrix):
        model = gp.coupled(matrix)
        return (jnp.arange(9.0).reshape(3, 3) * model.transition).sum() + (model.noise_root**3).sum()

    matrix = 0.5 * jnp.eye(3)
    gradient, change = jax.grad(total)(matrix), np.random.default_rng(0).normal(size=(3, 3))
    ahead, behind = (total(matrix + sign * 1e-5 * change) for sign in (1, -1))
    np.testing.assert_allclose((gradient * change).sum(), (ahead - behind) / 2e-5, rtol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", [lambda s: gp.matern(0.5, s), lambda s: gp.matern(2.5, s), gp.rbf])
def test_gradients_in_the_length_scale(make):
    total = jax.jit(lambda s: noise(make(s)).sum())
    slope = jax.jit(jax.grad(total))
    for scale in (0.01, 0.8, 500.0):
        gradient = slope(scale)
        difference = (total(scale * (1 + 1e-5)) - total(scale * (1 - 1e-5))) / (2e-5 * scale)
        np.testing.assert_allclose(gradient, difference, rtol=1e-5, atol=1e-10)
