"""Filter and smoother equal dynamax's on a linear-Gaussian model."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy

pytestmark = pytest.mark.usefixtures("x64")

D, T, C = 4, 6, 2
NOISE, DECAY, OBSERVATION = 0.3, 0.9, 0.2
# dynamax adds 1e-9 to the diagonal of every matrix that it solves with.
TOLERANCE = 1e-8


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(T, C, D)), rng.normal(size=(T, C))


@pytest.fixture
def reference(data):
    linear_gaussian_ssm = pytest.importorskip("dynamax.linear_gaussian_ssm")
    x, y = data
    # dynamax's prior is that of the first state; ours is one prediction earlier.
    first = DECAY**2 * np.eye(D) / 2.0 + NOISE * np.eye(D)
    params = linear_gaussian_ssm.LinearGaussianSSM(D, C).initialize(
        jax.random.PRNGKey(0),
        initial_mean=jnp.full(D, DECAY),
        initial_covariance=jnp.asarray(first),
        dynamics_weights=DECAY * jnp.eye(D),
        dynamics_bias=jnp.zeros(D),
        dynamics_covariance=NOISE * jnp.eye(D),
        emission_weights=jnp.asarray(x),
        emission_bias=jnp.zeros(C),
        emission_covariance=OBSERVATION * jnp.eye(C),
    )[0]
    return linear_gaussian_ssm.lgssm_smoother(params, jnp.asarray(y))


@pytest.fixture
def stream(data):
    x, y = data
    rank = C * T
    built = lf.extended_filter(
        lambda params, x: x @ params[:, None],
        lf.Gaussian(OBSERVATION),
        rank=rank,
        precision=2.0,
        process_noise=NOISE,
        transition=DECAY,
    )
    return lf.filter_stream(
        built, built.init(jnp.ones(D)), x.reshape(T * C, D), y.reshape(T * C), chunk_size=C, history="all"
    )[1]


def covariances(beliefs):
    return [np.linalg.inv(dense.matrix(d, w)) for d, w in zip(*beliefs.precision, strict=True)]


def test_filter(stream, reference):
    assert dense.relative_error(stream.beliefs.mean, reference.filtered_means) < TOLERANCE
    assert dense.relative_error(covariances(stream.beliefs), reference.filtered_covariances) < TOLERANCE


def test_evidence(stream, reference):
    assert dense.relative_error(stream.info.log_evidence.sum(), reference.marginal_loglik) < TOLERANCE


def test_smoother(stream, reference):
    smoothed = lf.smooth(*with_policy((stream.beliefs, stream.info.site), rank=2 * C * T), NOISE, DECAY)
    assert dense.relative_error(smoothed.mean, reference.smoothed_means) < TOLERANCE
    assert dense.relative_error(covariances(smoothed), reference.smoothed_covariances) < TOLERANCE
