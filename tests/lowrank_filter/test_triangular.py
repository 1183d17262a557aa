"""Triangular matrices by blocks against the same operations on dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf
from lowrank_filter.algebra import triangular

X, R = 350, 3  # more than two blocks, and no multiple of one


def problem(size, rows, dtype, scale=1.0):
    rng = np.random.default_rng(size + rows)
    root = np.triu(rng.normal(size=(size, size))) / np.sqrt(size) + np.diag(rng.uniform(1, 2, size))
    below = scale * rng.normal(size=(rows, size))
    return [jnp.asarray(v, dtype) for v in (root, below, rng.normal(size=rows))]


def dense(root, rows, target):
    """The same by the normal equations."""
    precision = root.T @ root + rows.T @ rows
    step = np.linalg.solve(precision, rows.T @ target)
    return precision, step, np.sum((root @ step) ** 2) + np.sum((target - rows @ step) ** 2)


def close(found, wanted, rtol):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())


@pytest.mark.parametrize(("size", "rows"), [(75, 3), (5, 1), (64, 2), (40, 35)])
def test_rows_are_appended(x64, size, rows):
    arguments = problem(size, rows, jnp.float64)
    found = triangular.appended(*arguments)
    precision, step, unexplained = dense(*map(np.asarray, arguments))
    assert np.array_equal(found.root, np.triu(found.root))
    close(found.root.T @ found.root, precision, 1e-13)
    close(jax.scipy.linalg.solve_triangular(found.root, found.halfway), step, 1e-11)
    close(found.unexplained, unexplained, 1e-11)


def test_rows_of_any_length_in_single_precision():
    """Rows a thousand times longer than the rest leave variances as they are, of which normal equations keep no digit
    and a QR decomposition in the order of the rows three."""
    root, rows, target = problem(75, 3, jnp.float32, scale=1e3)
    found = triangular.appended(root, rows, target)
    exact = np.linalg.inv(dense(*(np.asarray(v, np.float64) for v in (root, rows, target)))[0])
    inverse = np.linalg.inv(np.asarray(found.root, np.float64))
    close(inverse @ inverse.T, exact, 30 * np.finfo(np.float32).eps)


PROBE = np.random.default_rng(0).normal(size=37)


def by_blocks(root, rows, target):
    """A number that depends on all that is found."""
    found = triangular.appended(jnp.triu(root), rows, target)
    logdet = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(found.root))))
    return found.unexplained + logdet + PROBE @ jax.scipy.linalg.solve_triangular(found.root, found.halfway)


def by_inverse(root, rows, target):
    """The same by the normal equations."""
    root = jnp.triu(root)
    precision = root.T @ root + rows.T @ rows
    step = jnp.linalg.solve(precision, rows.T @ target)
    unexplained = jnp.sum((root @ step) ** 2) + jnp.sum((target - rows @ step) ** 2)
    return unexplained + jnp.linalg.slogdet(precision)[1] / 2 + PROBE @ step


def test_derivatives_of_appended_rows(x64):
    arguments = problem(37, 2, jnp.float64)
    for found, wanted in zip(
        *(jax.jit(jax.grad(f, (0, 1, 2)))(*arguments) for f in (by_blocks, by_inverse)), strict=True
    ):
        close(found, wanted, 1e-9)


@pytest.mark.slow
def test_second_derivatives_of_appended_rows(x64):
    arguments = problem(37, 2, jnp.float64)
    direction = [jnp.cos(jnp.arange(v.size)).reshape(v.shape) for v in arguments]

    def bend(f):
        return jax.hessian(lambda t: f(*(v + t * d for v, d in zip(arguments, direction, strict=True))))(0.0)

    close(bend(by_blocks), bend(by_inverse), 1e-8)


def test_products_and_solves(x64):
    root, _, _ = problem(X, R, jnp.float64)
    weight = jnp.linspace(0, 2, X)
    close(triangular.weighted_square(root, weight), root @ (weight[:, None] * root.T), 1e-13)
    other, _, _ = problem(X, R + 1, jnp.float64)
    close(triangular.solve(root, other), np.linalg.solve(root, other), 1e-11)


@pytest.mark.parametrize("noise", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_a_dense_part_of_more_parameters_than_rows(x64, noise):
    """Predict and update of all of a linear model at once, and their evidence's derivative by the noise."""
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.normal(size=(2, 30))), jnp.asarray(rng.normal(size=(2, 3)))
    belief = lf.init({"w": jnp.zeros((30, 3))}, precision=2.0, structure=lf.Dense())

    def evidence(noise):
        ahead = lf.predict(belief, noise)
        after, info = lf.update(ahead, lambda p, x: x @ p["w"], lf.Gaussian(0.5), x, y)
        return info.log_evidence, after

    def exact(noise):
        covariance = (1 / 2 + noise) * jnp.kron(x @ x.T, jnp.eye(3)) + 0.5 * jnp.eye(6)
        return jax.scipy.stats.multivariate_normal.logpdf(y.ravel(), jnp.zeros(6), covariance)

    (value, after), slope = jax.jit(jax.value_and_grad(evidence, has_aux=True))(noise)
    close(value, exact(noise), 1e-12)
    close(slope, jax.jit(jax.grad(exact))(noise), 1e-10)
    columns = jnp.kron(x, jnp.eye(3))
    precision = jnp.eye(90) / (1 / 2 + noise) + columns.T @ columns / 0.5
    close(after.mean["w"].ravel(), jnp.linalg.solve(precision, columns.T @ y.ravel() / 0.5), 1e-12)
    close(lf.inverse_diagonal(after.precision)["w"].ravel(), jnp.diagonal(jnp.linalg.inv(precision)), 1e-12)
