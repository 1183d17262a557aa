"""Products, solves and determinants of diagonal plus low rank against dense float64."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy
from lowrank_filter.algebra.example_gradients import Stack

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = [(1, 0), (1, 1), (5, 0), (5, 2), (8, 8), (4, 9), (60, 7)]


@jax.jit
def operations(precision, vector, columns, target):
    total, misfit = with_policy(precision, rank=2 * precision.rank, residual="drop").add(precision)
    return {
        "matvec": lf.matvec(precision, vector),
        "quadratic": precision.quadratic(vector),
        "solve": lf.solve(precision, vector),
        "logdet": lf.logdet(precision),
        "inverse diagonal": lf.inverse_diagonal(precision),
        "whitening root": jax.vmap(precision.whiten)(jnp.eye(len(vector))),
        "correction": precision.condition(Stack(columns), target)[2],
        "sum": (total.diag, total.factor),
        "share discarded": misfit.share,
    }


@pytest.mark.parametrize(("dimension", "rank"), SHAPES)
def test_against_dense(dimension, rank):
    rng = np.random.default_rng(rank + 10 * dimension)
    diag, factor = dense.random_precision(rng, dimension, rank)
    vector, columns, target = rng.normal(size=dimension), rng.normal(size=(3, dimension)), rng.normal(size=3)
    came = operations(lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)), vector, columns, target)

    matrix = dense.matrix(diag, factor)
    inverse = np.linalg.inv(matrix)
    changed = matrix + columns.T @ columns
    step = np.linalg.solve(changed, columns.T @ target)
    explained = (columns.T @ target) @ step
    expected = {
        "matvec": matrix @ vector,
        "quadratic": vector @ matrix @ vector,
        "solve": np.linalg.solve(matrix, vector),
        "logdet": dense.logdet(matrix),
        "inverse diagonal": np.diag(inverse),
        "whitening root": inverse,
        "correction": (step, explained, target @ target - explained, dense.logdet(changed) - dense.logdet(matrix)),
        "sum": 2 * matrix,
        "share discarded": 0.0,
    }
    came["whitening root"] = came["whitening root"] @ came["whitening root"].T
    came["sum"], came["correction"] = dense.matrix(*came["sum"]), came["correction"][:4]
    for name, exact in expected.items():
        for a, b in zip(jax.tree.leaves(came[name]), jax.tree.leaves(exact), strict=True):
            assert dense.relative_error(a, b) < 1e-9, name


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_rank_counts_the_vectors_of_the_factor(rank):
    assert lf.DiagLowRank(jnp.ones(6), jnp.zeros((rank, 6))).rank == rank
