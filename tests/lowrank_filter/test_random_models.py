"""200 random linear-Gaussian models: filter, smoother and dense recursions are equal in float64."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy

pytestmark = pytest.mark.usefixtures("x64")

MODELS, D, T, K, R = 200, 4, 5, 2, 0.4
FULL = K + T  # nothing is truncated


def linear(params, x):
    return x @ params[:, None]


def both(mean, diag, factor, noise, decay, x, y, seen):
    """One model filtered and smoothed."""
    built = lf.extended_filter(linear, lf.Gaussian(R), rank=FULL, process_noise=noise, transition=decay)
    start = lf.Belief(mean, lf.DiagLowRank(diag, factor))
    _, steps = lf.filter_stream(built, start, x, y, mask=seen, history="all")
    smoothed = lf.smooth(*with_policy((steps.beliefs, steps.info.site), rank=2 * FULL), noise, decay)
    return steps.beliefs, steps.info.log_evidence, smoothed


def test_filter_smoother_and_dense_recursions_are_equal():
    rng = np.random.default_rng(0)
    diag, factor = rng.uniform(0.1, 3, (MODELS, D)), np.zeros((MODELS, FULL, D))
    factor[:, :K] = rng.normal(size=(MODELS, K, D)) * 10.0 ** rng.uniform(-1, 1, (MODELS, 1, 1))
    noise = np.where(rng.uniform(size=(MODELS, 1)) < 0.1, 0, rng.uniform(0, 1, (MODELS, D)))
    noise[rng.uniform(size=noise.shape) < 0.1] = 0
    decay = rng.uniform(0.5, 1.1, (MODELS, D))
    mean, x, y = (rng.normal(size=(MODELS, *shape)) for shape in ((D,), (T, D), (T,)))
    seen = rng.uniform(size=(MODELS, T)) < 0.8
    came = jax.jit(jax.vmap(both))(*map(jnp.asarray, (mean, diag, factor, noise, decay, x, y, seen)))
    beliefs, evidences, smoothed = jax.tree.map(np.asarray, came)
    for n in range(MODELS):
        m, p = mean[n], dense.matrix(diag[n], factor[n])
        means, precisions = [], []
        for t in range(T):
            m, p = decay[n] * m, dense.predict(p, noise[n], decay[n])
            row, evidence = x[n, t : t + 1], 0.0
            if seen[n, t]:
                residual = row @ m - y[n, t]
                evidence = dense.gaussian_log_density(residual, R * np.eye(1) + row @ np.linalg.solve(p, row.T))
                m, p = dense.update(m, p, row, np.eye(1) / R, residual / R)
            means.append(m)
            precisions.append(p)
            assert abs(evidences[n, t] - evidence) < 1e-9 * max(1, abs(evidence))
            assert dense.relative_error(beliefs.mean[n, t], m) < 1e-9
            ours = dense.matrix(beliefs.precision.diag[n, t], beliefs.precision.factor[n, t])
            assert dense.relative_error(ours, p) < 1e-9
        exact, covariances = dense.smooth(means, precisions, [noise[n]] * T, [decay[n]] * T)
        assert dense.relative_error(smoothed.mean[n], exact) < 1e-8
        for t in range(T):
            ours = dense.matrix(smoothed.precision.diag[n, t], smoothed.precision.factor[n, t])
            assert dense.relative_error(np.linalg.inv(ours), covariances[t]) < 1e-8
