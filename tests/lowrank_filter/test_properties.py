"""Laws that hold for every shape and scale, searched by hypothesis."""

import dense
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, note

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy

# Few shapes, so that little is compiled; k = 0, k > D and D = 1 among them.
SHAPES = [(1, 0), (1, 3), (4, 0), (4, 2), (4, 7), (9, 3)]
SCALES = st.sampled_from([1e-3, 1e-1, 1.0, 1e1, 1e3])


@st.composite
def problems(draw):
    dimension, rank = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    diag, factor = dense.random_precision(rng, dimension, rank)
    diag, factor = diag * draw(SCALES), factor * draw(SCALES)
    zeros = draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
    factor[np.asarray(zeros, bool)] = 0
    noise = rng.uniform(0, 1, dimension) * draw(SCALES)
    noise[rng.uniform(size=dimension) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    note(f"diag {diag}, factor {factor}, noise {noise}")
    return diag, factor, noise, rng.normal(size=dimension)


@jax.jit
def operations(diag, factor, noise, vector):
    precision = lf.predict(lf.Belief(vector, lf.DiagLowRank(diag, factor)), noise).precision
    return precision, lf.solve(precision, vector), lf.logdet(precision), lf.inverse_diagonal(precision)


def run(problem, dtype=float):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, operations(*(jnp.asarray(part, dtype) for part in problem)))


@given(problems())
def test_prediction_adds_the_noise_to_the_covariance(problem):
    diag, factor, noise, vector = problem
    _, solved, logdet, variances = run(problem)
    prior = dense.matrix(diag, factor)
    covariance = np.linalg.inv(prior) + np.diag(noise)
    # Each is as well determined as the prior's condition number lets it be, in the oracle as in the library.
    tolerance = 1e-9 + 1e-14 * np.linalg.cond(prior)
    assert dense.relative_error(solved, covariance @ vector) < tolerance
    assert dense.relative_error(variances, np.diag(covariance)) < tolerance
    assert abs(logdet + dense.logdet(covariance)) < tolerance * max(1, abs(logdet))


@given(problems())
def test_prediction_never_gains_information(problem):
    diag, factor, _, _ = problem
    precision, *_ = run(problem)
    prior = dense.matrix(diag, factor)
    lost = prior - dense.matrix(precision.diag, precision.factor)
    assert np.linalg.eigvalsh(lost).min() >= -1e-12 * np.abs(prior).max()


@given(problems())
def test_float32_is_always_finite_and_positive(problem):
    precision, solved, logdet, variances = run(problem, np.float32)
    assert variances.dtype == np.float32
    assert all(np.isfinite(leaf).all() for leaf in (*precision, solved, logdet, variances))
    assert (precision.diag > 0).all() and (variances > 0).all()


@jax.jit
def one_value(diag, factor):
    precision = lf.DiagLowRank(diag, factor)
    options = [(r, m) for r in ("diagonal", "drop") for m in ("relative", "euclidean")]
    return [lf.truncate(precision, 2, residual=r, metric=m) for r, m in options]


@given(problems(), st.sampled_from([np.float32, np.float64]))
def test_truncation_keeps_the_diagonal_and_drop_never_overestimates(problem, dtype):
    diag, factor = (part.astype(dtype) for part in problem[:2])
    with jax.enable_x64(True):
        truncated = jax.tree.map(np.asarray, one_value(jnp.asarray(diag), jnp.asarray(factor)))
    whole = dense.matrix(diag, factor)
    tolerance = 100 * np.finfo(dtype).eps * np.abs(whole).max()
    for index, came in enumerate(truncated):
        assert all(np.isfinite(part).all() for part in came)
        assert came.factor.shape == (2, len(diag))
        if index < 2:
            assert np.abs(np.diag(dense.matrix(*came)) - np.diag(whole)).max() <= tolerance
        else:
            assert np.linalg.eigvalsh(whole - dense.matrix(*came)).min() >= -tolerance


@jax.jit
def updated(diag, factor, mean, x, y):
    belief = with_policy(lf.Belief(mean, lf.DiagLowRank(diag, factor)), rank=factor.shape[0] + 2)
    return lf.update(belief, lambda p, x: x @ p[:, None], lf.Gaussian(0.5), x, y)


@pytest.mark.slow  # against dense matrices in test_update and test_conditioning
@pytest.mark.usefixtures("x64")
@given(problems(), SCALES)
def test_an_update_adds_information_and_is_the_dense_one(problem, scale):
    diag, factor, _, mean = problem
    rng = np.random.default_rng(0)
    x, y = scale * rng.normal(size=(2, len(diag))), rng.normal(size=2)
    with jax.enable_x64(True):
        belief, info = jax.tree.map(np.asarray, updated(*(jnp.asarray(a) for a in (diag, factor, mean, x, y))))
    prior = dense.matrix(diag, factor)
    exact_mean, posterior = dense.update(mean, prior, x, 2 * np.eye(2), 2 * (x @ mean - y))
    assert dense.relative_error(dense.matrix(*belief.precision), posterior) < 1e-12
    tolerance = 1e-9 + 1e-14 * np.linalg.cond(posterior) * max(1, scale**2)
    assert dense.relative_error(belief.mean, exact_mean) < tolerance
    evidence = dense.gaussian_log_density(y - x @ mean, 0.5 * np.eye(2) + x @ np.linalg.solve(prior, x.T))
    assert abs(info.log_evidence - evidence) < tolerance * max(1, abs(evidence), abs(info.loss))
