"""Prediction against dense float64: random walks with decay."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")

RNG = np.random.default_rng(1)
D = 7
NOISES = {
    "zero": 0.0,
    "scalar": 0.3,
    "vector": RNG.uniform(0.1, 2, D),
    "vector with zeros": np.where(np.arange(D) % 2, 0.0, RNG.uniform(0.1, 2, D)),
    "huge": 1e6,
}


def belief_of(dimension, rank):
    rng = np.random.default_rng(dimension + 100 * rank)
    diag, factor = dense.random_precision(rng, dimension, rank)
    mean = rng.normal(size=dimension)
    return lf.Belief(jnp.asarray(mean), lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)))


@pytest.mark.parametrize("rank", [0, 1, 3, 7, 12])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
@pytest.mark.parametrize("transition", [1.0, 0.9, -0.5, np.linspace(0.2, 1.1, D)], ids=["one", "decay", "sign", "each"])
def test_predict(rank, noise, transition):
    belief = belief_of(D, rank)
    predicted = lf.predict(belief, jnp.asarray(noise), jnp.asarray(transition))
    expected = dense.predict(dense.matrix(*belief.precision), noise, transition)
    assert dense.relative_error(predicted.mean, transition * np.asarray(belief.mean)) < 1e-15
    assert dense.relative_error(dense.matrix(*predicted.precision), expected) < 1e-9
    assert predicted.precision.rank == rank


CENTRES = {"zero": 0.0, "scalar": 0.7, "vector": RNG.normal(size=D)}


@pytest.mark.parametrize("center", CENTRES.values(), ids=CENTRES.keys())
@pytest.mark.parametrize("transition", [1.0, 0.9, 0.0, np.linspace(0.2, 1.1, D)], ids=["one", "decay", "all", "each"])
def test_towards_a_centre(center, transition):
    """E θ' = c + a (m − c); the precision does not know of c."""
    belief, center = belief_of(D, 3), jnp.asarray(center)
    predicted, free = (lf.predict(belief, 0.3, transition, c) for c in (center, None))
    expected = center + transition * (np.asarray(belief.mean) - center)
    assert dense.relative_error(predicted.mean, expected) < 1e-15
    if np.all(transition == 1) or np.all(center == 0):
        np.testing.assert_array_equal(predicted.mean, free.mean)
    for came, without in zip(predicted.precision, free.precision, strict=True):
        np.testing.assert_array_equal(came, without)


STRUCTURES = {
    "network": functools.partial(lf.init, rank=2),
    "unit": functools.partial(lf.init, rank=2, structure="unit"),
    "kronecker": functools.partial(lf.init, structure="kronecker"),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_prior_is_stationary(structure):
    """q = (1 − a²)/p around the prior's mean: nothing changes, and what was learned fades."""
    params, precision, decay = {"w": jnp.full((3, 2), 0.5), "b": jnp.full(2, -1.0)}, 4.0, 0.9
    prior = STRUCTURES[structure](params, precision)
    noise = (1 - decay**2) / precision
    came = lf.predict(prior, noise, decay, params)
    for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(prior), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    learned = prior._replace(mean=jax.tree.map(lambda p: p + 1, params))
    for _ in range(3):
        learned = lf.predict(learned, noise, decay, center=params)
    assert dense.relative_error(learned.mean["w"] - params["w"], np.full((3, 2), decay**3)) < 1e-13


@pytest.mark.parametrize("rank", [0, 3])
def test_total_forgetting(rank):
    predicted = lf.predict(belief_of(D, rank), 0.25, 0.0)
    np.testing.assert_array_equal(predicted.mean, np.zeros(D))
    np.testing.assert_allclose(dense.matrix(*predicted.precision), 4 * np.eye(D), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [0, 4])
def test_without_noise_and_decay_nothing_changes(rank, dtype):
    belief = lf.Belief(*belief_of(D, rank))
    belief = lf.Belief(belief.mean.astype(dtype), lf.DiagLowRank(*(part.astype(dtype) for part in belief.precision)))
    # A zero gram has a Cholesky factor of exactly one.
    predicted = lf.predict(belief, 0.0)
    np.testing.assert_array_equal(predicted.mean, belief.mean)
    np.testing.assert_array_equal(predicted.precision.diag, belief.precision.diag)
    np.testing.assert_array_equal(predicted.precision.factor, belief.precision.factor)


def test_two_steps_are_one_with_twice_the_noise():
    belief = belief_of(D, 3)
    twice = lf.predict(lf.predict(belief, 0.2), 0.2)
    once = lf.predict(belief, 0.4)
    assert dense.relative_error(dense.matrix(*twice.precision), dense.matrix(*once.precision)) < 1e-12


def test_noise_loses_information_about_every_direction():
    belief = belief_of(D, 3)
    lost = dense.matrix(*belief.precision) - dense.matrix(*lf.predict(belief, 0.1).precision)
    assert np.linalg.eigvalsh(lost).min() > 1e-3


def test_a_precision_with_zero_diagonal_stays_semidefinite():
    factor = np.random.default_rng(3).normal(size=(2, D))
    message = lf.DiagLowRank(jnp.zeros(D), jnp.asarray(factor)).propagate(jnp.full(D, 0.5), jnp.ones(D))
    # (P⁺ + Q)⁻¹ on the range of P: W (I + WᵀQW)⁻¹ Wᵀ
    expected = factor.T @ np.linalg.inv(np.eye(2) + 0.5 * factor @ factor.T) @ factor
    assert dense.relative_error(dense.matrix(*message), expected) < 1e-9


@pytest.mark.parametrize("transition", [1.0, 0.8])
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES.keys())
def test_smoothing_gain(noise, transition):
    belief = belief_of(D, 3)
    vector = np.random.default_rng(4).normal(size=D)
    covariance = np.linalg.inv(dense.matrix(*belief.precision))
    predicted = transition**2 * covariance + np.diag(noise * np.ones(D))
    expected = transition * covariance @ np.linalg.solve(predicted, vector)
    ones = jnp.ones(D)
    gain = belief.precision.smoothing_gain(jnp.asarray(vector), noise * ones, transition * ones)
    assert dense.relative_error(gain, expected) < 1e-9
