"""Smoothing against the dense Rauch-Tung-Striebel recursion."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy

pytestmark = pytest.mark.usefixtures("x64")

D, T, K = 5, 4, 2
FULL = K + 2 * T  # no truncation: the prior's rank, and two columns for each step, here and to come

# Compiled once for each shape: an eager scan would be compiled at every call.
predict = jax.jit(lf.predict)
update = jax.jit(lf.update, static_argnums=(1,))


@functools.partial(jax.jit, static_argnames=("rank",))
def smooth(beliefs, sites, *dynamics, rank=None, **options):
    return lf.smooth(*with_policy((beliefs, sites), rank=rank), *dynamics, **options)


def apply_fn(params, x):
    return x @ params.reshape(D, 1)


def filtered(steps, noises, transitions, *, rank=FULL, prior_rank=K, without=(), center=None):
    """Beliefs and sites of a linear-Gaussian model with two observations each step; some steps have none."""
    rng = np.random.default_rng(steps)
    diag, factor = dense.random_precision(rng, D, prior_rank)
    precision = lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(np.pad(factor, ((0, rank - prior_rank), (0, 0)))))
    belief = lf.Belief(jnp.asarray(rng.normal(size=D)), precision)
    beliefs, sites = [], []
    for t in range(steps):
        belief = predict(belief, noises[t], transitions[t], center)
        site = lf.zero_site(belief)
        x, y = jnp.asarray(rng.normal(size=(2, D))), jnp.asarray(rng.normal(size=2))
        if t not in without:
            belief, info = update(belief, apply_fn, lf.Gaussian(0.3), x, y)
            site = info.site
        beliefs.append(belief)
        sites.append(site)
    return [jax.tree.map(lambda *leaves: jnp.stack(leaves), *many) for many in (beliefs, sites)]


def expected(beliefs, noises, transitions, center=0.0):
    precisions = [dense.matrix(d, w) for d, w in zip(*beliefs.precision, strict=True)]
    return dense.smooth(np.asarray(beliefs.mean), precisions, np.asarray(noises), np.asarray(transitions), center)


def assert_smoothed(smoothed, means, covariances, tolerance=1e-9):
    came = [np.linalg.inv(dense.matrix(d, w)) for d, w in zip(*smoothed.precision, strict=True)]
    assert dense.relative_error(smoothed.mean, means) < tolerance
    assert dense.relative_error(came, covariances) < tolerance


EACH = np.random.default_rng(0).uniform(0.1, 1.0, (T, D))
NOISES = {
    "scalar": np.full(T, 0.2),
    "per step": np.linspace(0.05, 0.9, T),
    "per step and parameter": EACH,
    "some zeros": np.where(EACH < 0.5, 0, EACH),
    "none": np.zeros(T),
}


@pytest.mark.parametrize("noises", NOISES.values(), ids=NOISES.keys())
def test_equals_rauch_tung_striebel(noises):
    beliefs, sites = filtered(T, noises, np.ones(T))
    smoothed = smooth(beliefs, sites, jnp.asarray(noises), 1.0, rank=2 * FULL)
    assert_smoothed(smoothed, *expected(beliefs, noises, np.ones(T)))


@pytest.mark.parametrize("transitions", [np.full(T, 0.8), np.linspace(0.5, 1.2, T)], ids=["decay", "per step"])
def test_with_decay(transitions):
    noises = np.linspace(0.05, 0.9, T)
    beliefs, sites = filtered(T, noises, transitions)
    smoothed = smooth(beliefs, sites, jnp.asarray(noises), jnp.asarray(transitions), rank=2 * FULL)
    assert_smoothed(smoothed, *expected(beliefs, noises, transitions))


@pytest.mark.parametrize("center", [0.5, np.linspace(-1, 1, D)], ids=["scalar", "each"])
def test_towards_a_centre(center):
    noises, transitions, center = np.full(T, 0.2), np.linspace(0.5, 1.2, T), jnp.asarray(center)
    beliefs, sites = filtered(T, noises, transitions, center=center)
    options = {"rank": 2 * FULL, "center": center}
    smoothed = smooth(beliefs, sites, jnp.asarray(noises), jnp.asarray(transitions), **options)
    assert_smoothed(smoothed, *expected(beliefs, noises, transitions, np.asarray(center)))
    stacked = smooth(
        beliefs, sites, jnp.asarray(noises), jnp.asarray(transitions), **options | {"center": center * jnp.ones((T, D))}
    )
    np.testing.assert_allclose(stacked.mean, smoothed.mean, rtol=1e-12)


def test_total_forgetting_leaves_the_past_as_it_was():
    transitions = np.array([1.0, 1.0, 0.0, 1.0])
    noises = np.full(T, 0.3)
    beliefs, sites = filtered(T, noises, transitions)
    smoothed = smooth(beliefs, sites, jnp.asarray(noises), jnp.asarray(transitions), rank=2 * FULL)
    assert_smoothed(smoothed, *expected(beliefs, noises, transitions))


@pytest.mark.parametrize("without", [(1,), (0, 3), (0, 1, 2, 3)])
def test_steps_without_data(without):
    noises = np.full(T, 0.2)
    beliefs, sites = filtered(T, noises, np.ones(T), without=without)
    smoothed = smooth(beliefs, sites, jnp.full(T, 0.2), 1.0, rank=2 * FULL)
    assert_smoothed(smoothed, *expected(beliefs, noises, np.ones(T)))


@pytest.mark.parametrize("prior_rank", [0, K])
def test_one_step(prior_rank):
    beliefs, sites = filtered(1, [0.2], [1.0], prior_rank=prior_rank)
    smoothed = smooth(beliefs, sites, 0.2, 1.0, rank=FULL)
    assert_smoothed(smoothed, *expected(beliefs, [0.2], [1.0]))


def test_the_last_belief_is_the_filtered_one():
    beliefs, sites = filtered(T, np.full(T, 0.2), np.ones(T))
    smoothed = smooth(beliefs, sites, jnp.full(T, 0.2), 1.0, rank=2 * FULL)
    np.testing.assert_array_equal(smoothed.mean[-1], beliefs.mean[-1])
    np.testing.assert_array_equal(smoothed.precision.factor[-1, :FULL], beliefs.precision.factor[-1])
    np.testing.assert_array_equal(smoothed.precision.factor[-1, FULL:], 0)


def test_without_noise_every_step_takes_the_final_value():
    beliefs, sites = filtered(T, np.zeros(T), np.ones(T))
    smoothed = smooth(beliefs, sites, jnp.zeros(T), 1.0, rank=2 * FULL)
    for mean in smoothed.mean:
        assert dense.relative_error(mean, beliefs.mean[-1]) < 1e-12


def test_smoothing_adds_information():
    beliefs, sites = filtered(T, np.full(T, 0.2), np.ones(T))
    smoothed = smooth(beliefs, sites, jnp.full(T, 0.2), 1.0, rank=2 * FULL)
    for t in range(T - 1):
        gained = dense.matrix(*(p[t] for p in smoothed.precision)) - dense.matrix(*(p[t] for p in beliefs.precision))
        assert np.linalg.eigvalsh(gained).min() > -1e-12
        assert np.linalg.eigvalsh(gained).max() > 0.1


@pytest.mark.parametrize("rank", fast([0, 1, 3], 1))
def test_by_default_the_rank_is_that_of_the_beliefs(rank):
    beliefs, sites = filtered(T, np.full(T, 0.2), np.ones(T), rank=rank, prior_rank=0)
    smoothed = smooth(beliefs, sites, 0.2)
    assert smoothed.precision.factor.shape == (T, rank, D)


def test_truncation_keeps_the_diagonal_sound():
    """Truncated with the diagonal of the rest added: the smoothed precision's diagonal is still finite and larger."""
    beliefs, sites = filtered(T, np.full(T, 0.2), np.ones(T), rank=2)
    smoothed = smooth(beliefs, sites, 0.2, rank=2)
    for t in range(T):
        before = np.diag(dense.matrix(*(p[t] for p in beliefs.precision)))
        after = np.diag(dense.matrix(*(p[t] for p in smoothed.precision)))
        assert (after >= before * (1 - 1e-12)).all()


def test_noise_stacked_for_one_leaf_and_constant_for_another():
    """A pytree prefix may mix: stacked where its first axis is T, the same for all steps elsewhere."""
    params = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(7)}
    beliefs, sites = [], []
    belief = lf.init(params, rank=2)
    noises = {"a": np.linspace(0.1, 0.4, T), "b": 0.3}
    for t in range(T):
        belief = lf.predict(belief, {"a": noises["a"][t], "b": 0.3})
        beliefs.append(belief)
        sites.append(lf.zero_site(belief)._replace(diag=jax.tree.map(jnp.ones_like, params)))
    stack = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *many) for many in (beliefs, sites)]
    mixed = smooth(*stack, {"a": jnp.asarray(noises["a"]), "b": 0.3})
    full = {"a": jnp.broadcast_to(noises["a"][:, None, None], (T, 3, 2)), "b": jnp.full((T, 7), 0.3)}
    for a, b in zip(jax.tree.leaves(mixed), jax.tree.leaves(smooth(*stack, full)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
