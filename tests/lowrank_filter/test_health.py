"""The health record against dense linear algebra, outliers of bounded influence, and nothing of either when off."""

import re

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")

D, K, N, R, THRESHOLD = 6, 2, 3, 0.3, 4.0
RNG = np.random.default_rng(0)
DIAG, FACTOR = dense.random_precision(RNG, D, K)
with jax.enable_x64(True):
    BELIEF = lf.Belief(jnp.asarray(RNG.normal(size=D)), lf.DiagLowRank(jnp.asarray(DIAG), jnp.asarray(FACTOR)))
    X, Y = jnp.asarray(RNG.normal(size=(N, D))), jnp.asarray(RNG.normal(size=N))
OPTIONS = {"plain": {}, "health": {"health": True}, "threshold": {"outlier_threshold": THRESHOLD}}


def linear(params, x):
    return x @ params[:, None]


def function(**options):
    return lambda belief, x, y: lf.update(belief, linear, lf.Gaussian(R), x, y, **options)


UPDATES = {name: jax.jit(function(**options)) for name, options in OPTIONS.items()}


def test_the_innovation_is_measured_against_its_predicted_covariance():
    _, info = UPDATES["health"](BELIEF, X, Y)
    residual = np.asarray(Y - X @ BELIEF.mean)
    covariance = R * np.eye(N) + X @ np.linalg.solve(dense.matrix(DIAG, FACTOR), X.T)
    assert abs(info.health.innovation - residual @ np.linalg.solve(covariance, residual) / N) < 1e-12
    assert info.health.residuals == N
    assert info.health.truncated == info.truncated > 0


def test_the_condition_is_the_worst_pivot_of_the_small_matrix():
    _, info = UPDATES["health"](BELIEF, X, Y)
    columns = np.concatenate([FACTOR, X / np.sqrt(R)]) / np.sqrt(DIAG)
    small = np.eye(K + N) + columns @ columns.T
    assert abs(info.health.condition / (np.diag(small) / np.diag(np.linalg.cholesky(small)) ** 2).max() - 1) < 1e-9
    parallel = X.at[1].set(X[0] * (1 + 1e-7)) * 1e4
    _, worse = UPDATES["health"](BELIEF, parallel, Y)
    assert worse.health.condition > 1e6 > 10 > info.health.condition


def test_right_models_have_an_innovation_of_one_and_wrong_ones_do_not():
    steps = 600
    x = RNG.normal(size=(steps, D))
    truth = np.cumsum(0.1 * RNG.normal(size=(steps, D)), axis=0)
    y = np.einsum("td,td->t", x, truth) + np.sqrt(R) * RNG.normal(size=steps)

    @jax.jit
    def innovations(variance):
        built = lf.extended_filter(linear, lf.Gaussian(variance), rank=D, process_noise=0.01, health=True, iterations=0)
        _, stream = lf.filter_stream(built, built.init(jnp.zeros(D)), jnp.asarray(x), jnp.asarray(y))
        return lf.sliding_health(stream.info.health, 400).innovation[-1]

    # Of 400 squares of standard normals: 1 ± √(2/400), four of those.
    assert abs(innovations(R) - 1) < 4 * np.sqrt(2 / 400)
    assert innovations(R / 20) > 2


def test_the_sliding_record_looks_back_over_its_window():
    steps, window = 50, 7
    values = RNG.uniform(1, 2, (3, steps))
    values[0, 10] = 1e12  # gone without a trace once it has left the window
    residuals = RNG.integers(0, 3, steps).astype(float)
    came = lf.sliding_health(lf.Health(*map(jnp.asarray, values), jnp.asarray(residuals)), window)
    for t in range(steps):
        part = slice(max(0, t - window + 1), t + 1)
        weights = residuals[part]
        expected = (weights * values[0, part]).sum() / max(weights.sum(), 1)
        assert abs(came.innovation[t] - expected) < 1e-12 * max(1, expected)
        assert came.condition[t] == values[1, part].max()
        assert abs(came.truncated[t] - values[2, part].mean()) < 1e-12
        assert came.residuals[t] == weights.sum()


def test_an_outlier_counts_as_one_of_larger_variance():
    """The Kalman update with each observation's variance divided by its weight."""
    y = Y.at[1].add(50.0)
    after, info = UPDATES["threshold"](BELIEF, X, y)
    residual = np.asarray(y - X @ BELIEF.mean)
    weight = 1 / (1 + residual**2 / R / THRESHOLD**2)
    prior = dense.matrix(DIAG, FACTOR)
    mean, posterior = dense.update(
        np.asarray(BELIEF.mean), prior, np.asarray(X), np.diag(weight / R), -weight * residual / R
    )
    assert dense.relative_error(after.mean, mean) < 1e-12
    assert abs(info.discounted - (1 - weight).sum()) < 1e-12
    assert dense.relative_error(np.diag(dense.matrix(*after.precision)), np.diag(posterior)) < 1e-12


@pytest.mark.parametrize("dtype", fast([np.float32, np.float64], np.float32))
def test_no_outlier_moves_the_mean_further_than_the_threshold(dtype):
    """By P⁻¹a √w u at most: however far it is, infinitely many standard deviations excepted, which are invalid."""
    belief, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (BELIEF, X[:1]))
    single = jax.jit(function(**OPTIONS["threshold"]))
    step = np.linalg.solve(dense.matrix(DIAG, FACTOR), np.asarray(X[0]) / np.sqrt(R))
    for size in (1e2, 1e6, 1e12, 1e18):
        after, info = single(belief, x, jnp.asarray([size], dtype))
        assert np.isfinite(info.log_evidence)
        moved = np.abs(np.asarray(after.mean - belief.mean))
        assert (moved <= THRESHOLD * np.abs(step) * 1.01).all()
        assert info.discounted > 0.99
    plain, _ = UPDATES["plain"](BELIEF, X[:1], jnp.asarray([1e6]))
    assert np.abs(plain.mean - BELIEF.mean).max() > 1e3 * THRESHOLD * np.abs(step).max()


def operations(update):
    text = jax.jit(update).lower(BELIEF, X, Y).as_text()
    return sum(" = stablehlo." in line for line in text.splitlines())


@pytest.mark.slow
def test_what_is_not_asked_for_is_not_computed():
    """The programs differ by the record's own few operations, and by nothing that the belief is made of."""
    plain, asked = UPDATES["plain"](BELIEF, X, Y), UPDATES["health"](BELIEF, X, Y)
    assert plain[1].health is None and plain[1].discounted is None
    assert len(jax.tree.leaves(asked)) == len(jax.tree.leaves(plain)) + 4
    for a, b in zip(jax.tree.leaves(plain[0]), jax.tree.leaves(asked[0]), strict=True):
        np.testing.assert_array_equal(a, b)

    def without_the_record(*arguments):
        belief, info = function(health=True)(*arguments)
        return belief, info._replace(health=None)

    # What is left of the record where nobody takes it is removed by the compiler: the same program, operation for one.
    assert len(optimised(function())) > 50
    assert optimised(without_the_record) == optimised(function())
    assert operations(function()) < operations(function(health=True))


def optimised(update):
    text = jax.jit(update).lower(BELIEF, X, Y).compile().as_text()
    return sorted(re.findall(r" = \S+ ([a-z-]+)\(", text))
