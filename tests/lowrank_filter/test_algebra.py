"""Products, solves and determinants of diagonal plus low rank against dense float64."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = [(1, 0), (1, 1), (5, 0), (5, 2), (8, 8), (4, 9), (60, 7)]
TOLERANCE = 1e-9


@pytest.fixture(params=SHAPES, ids=lambda shape: f"D{shape[0]}-k{shape[1]}")
def problem(request):
    dimension, rank = request.param
    rng = np.random.default_rng(rank + 10 * dimension)
    diag, factor = dense.random_precision(rng, dimension, rank)
    vector = rng.normal(size=dimension)
    return lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)), dense.matrix(diag, factor), vector


def test_matvec(problem):
    precision, matrix, vector = problem
    assert dense.relative_error(lf.matvec(precision, vector), matrix @ vector) < TOLERANCE


def test_solve(problem):
    precision, matrix, vector = problem
    assert dense.relative_error(lf.solve(precision, vector), np.linalg.solve(matrix, vector)) < TOLERANCE


def test_logdet(problem):
    precision, matrix, _ = problem
    assert dense.relative_error(lf.logdet(precision), dense.logdet(matrix)) < TOLERANCE


def test_inverse_diagonal(problem):
    precision, matrix, _ = problem
    assert dense.relative_error(lf.inverse_diagonal(precision), np.diag(np.linalg.inv(matrix))) < TOLERANCE


def test_whiten_is_a_root_of_the_inverse(problem):
    precision, matrix, _ = problem
    root = jax.vmap(precision.whiten)(jnp.eye(len(matrix)))
    assert dense.relative_error(root @ root.T, np.linalg.inv(matrix)) < TOLERANCE


def test_correct_is_the_exact_low_rank_change(problem):
    precision, matrix, _ = problem
    rng = np.random.default_rng(0)
    columns, target = rng.normal(size=(3, len(matrix))), rng.normal(size=3)
    changed = matrix + columns.T @ columns
    correction = precision.correct(jnp.asarray(columns), jnp.asarray(target))
    step = np.linalg.solve(changed, columns.T @ target)
    assert dense.relative_error(correction.step, step) < TOLERANCE
    assert dense.relative_error(correction.quadratic, (columns.T @ target) @ step) < TOLERANCE
    assert dense.relative_error(correction.logdet, dense.logdet(changed) - dense.logdet(matrix)) < TOLERANCE


def test_add_without_truncation_is_the_sum(problem):
    precision, matrix, _ = problem
    total, share = precision.add(precision, rank=2 * precision.rank, residual="drop", metric="relative")
    assert dense.relative_error(dense.matrix(*total), 2 * matrix) < TOLERANCE
    assert share == 0


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_rank_counts_the_vectors_of_the_factor(rank):
    assert lf.DiagLowRank(jnp.ones(6), jnp.zeros((rank, 6))).rank == rank
