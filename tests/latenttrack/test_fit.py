"""Training: improves, keeps the best, resumes bit for bit, seeds either way, any model."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import latent
import numpy as np
import optax
import pytest
from suites import fast

import latenttrack as lt

MODEL = latent.model(generator_hidden=(), predictor_hidden=())
OPTIONS = {"window": 16, "batch": 3, "updates": 30, "evaluate_every": 10, "samples": 4, "warmup": 5}


@functools.cache
def data():
    """With missing targets everywhere, so that one program serves all."""
    xs, ys = (leaf.astype(jnp.float32) for leaf in latent.stream(300))
    seen = jnp.asarray(np.random.default_rng(0).uniform(size=300) < 0.8)
    return (xs[:200], ys[:200], seen[:200]), (xs[200:], ys[200:], seen[200:])


def fit(key=0, model=MODEL, **options):
    train, validation = data()
    key = jax.random.key(key) if isinstance(key, int) else key
    return lt.fit(model, key, *train, **{"validation": validation, **OPTIONS, **options})


@functools.cache
def fitted():
    return fit()


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_it_learns():
    history = fitted().history
    assert np.mean(history.loss[-5:]) < np.mean(history.loss[:5]) - 0.3
    assert history.loss.shape == (30,) and history.validation.shape == (3,) and history.skipped == 0


def test_the_best_parameters_are_kept():
    (_, validation), came = data(), fit(learning_rate=0.3, clip=1e3)
    assert came.best == np.min(came.history.validation)
    assert np.argmin(came.history.validation) < 2  # a rate that spoils what it had found
    xs, ys, mask = validation
    _, outputs = MODEL.rollout(came.params, jax.random.key(9), xs, ys, samples=4, mask=mask)
    assert abs(-np.nanmean(outputs.log_prob) - came.best) < 0.3 * abs(came.best) + 0.2


SGD = optax.sgd(1e-3)


def test_without_validation_the_last_are_returned():
    came = fit(optimizer=SGD, validation=None)
    assert_same(came.params, came.last)
    assert np.isinf(came.best) and np.all(np.isnan(came.history.validation))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", ["vmap", "map"])
def test_seeds(seeds):
    keys = jnp.stack([jax.random.key(7), jax.random.key(0)])
    came = fit(keys, seeds=seeds)
    assert came.history.loss.shape == (2, 30)
    for a, b in zip(jax.tree.leaves(came.params), jax.tree.leaves(fitted().params), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=0.02, atol=2e-3)
    assert jnp.any(came.history.loss[0] != came.history.loss[1])


@pytest.mark.slow
def test_windows_side_by_side_or_one_after_another():
    one, other = fit(windows="vmap"), fit(windows="map")
    np.testing.assert_allclose(one.history.loss[:5], other.history.loss[:5], rtol=1e-4)


@pytest.mark.slow
def test_a_grid_of_rates_is_a_vmap():
    rates = jnp.asarray([1e-4, 5e-3])
    came = jax.vmap(lambda rate: fit(learning_rate=rate).history.loss)(rates)
    np.testing.assert_allclose(came[1, :10], fitted().history.loss[:10], rtol=1e-3)
    assert came[0, -1] > came[1, -1]


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("keys", fast([0, 2], 0))
def test_it_resumes_bit_for_bit(tmp_path, keys):
    key = jax.random.split(jax.random.key(0), keys) if keys else jax.random.key(0)

    def stop(done, scores):
        assert jnp.shape(scores) == ((keys,) if keys else ())
        if done == 20:
            raise _StoppedError

    unbroken = fit(key, checkpoint=tmp_path / "whole")
    with pytest.raises(_StoppedError):
        fit(key, checkpoint=tmp_path / "broken", progress=stop)
    seen = []
    resumed = fit(key, checkpoint=tmp_path / "broken", progress=lambda done, _: seen.append(done))
    assert seen == [30]
    assert_same(resumed, unbroken)
    assert_same(fit(key, checkpoint=tmp_path / "broken"), unbroken)  # finished: nothing is left to do
    alone = fit(key) if keys else fitted()
    np.testing.assert_allclose(unbroken.history.loss, alone.history.loss, rtol=1e-3)


def test_missing_targets_are_never_used():
    (xs, ys, seen), (vx, vy, held) = data()
    filled = [
        lt.fit(
            *(MODEL, jax.random.key(0), xs, jnp.where(seen[:, None], ys, value), seen),
            validation=(vx, jnp.where(held[:, None], vy, value), held),
            **OPTIONS,
        )
        for value in (jnp.nan, 3.0)
    ]
    assert_same(*filled)
    assert jnp.isfinite(filled[0].best) and filled[0].history.skipped == 0


def test_updates_without_a_finite_gradient_are_skipped_and_counted():
    (xs, ys, seen), _ = data()
    assert seen[100]
    came = fit(optimizer=SGD, validation=None)
    assert came.history.skipped == 0
    came = lt.fit(MODEL, jax.random.key(0), xs, ys.at[100].set(1e30), seen, optimizer=SGD, **OPTIONS)
    assert 0 < came.history.skipped < 30
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(came.params))


class Constant(NamedTuple):
    """The least that a model of a stream can be: a mean and a variance, without a state."""

    init: object = staticmethod(lambda key: {"mean": jnp.zeros(latent.Y), "log_variance": jnp.zeros(latent.Y)})
    initial_state: object = staticmethod(lambda params: jnp.zeros(()))

    @staticmethod
    def rollout(params, key, xs, ys, state=None, samples=1, mask=None):
        shape = (len(xs), 1, latent.Y)
        mean, variance = (jnp.broadcast_to(a, shape) for a in (params["mean"], jnp.exp(params["log_variance"])))
        return state, lt.Outputs(mean, variance, -lt.metrics.nll(ys, mean, variance))

    @staticmethod
    def loss(params, key, xs, ys, state, mask=None, *, beta=1.0, weights=None, shrinkage=0.0):
        _, outputs = Constant.rollout(params, key, xs, ys)
        share = weights / jnp.sum(weights)
        value = -jnp.sum(share * outputs.log_prob) + shrinkage * jnp.sum(params["mean"] ** 2)
        return value, lt.Aux(value, jnp.zeros(()), state)


def test_another_runs_checkpoint_is_refused(tmp_path):
    run = functools.partial(fit, checkpoint=tmp_path)
    run(model=Constant())
    with pytest.raises(
        ValueError, match=r"got another one: learning_rate was 0\.005 and is 0\.001; take another folder"
    ):
        run(model=Constant(), learning_rate=1e-3)
    with pytest.raises(ValueError, match="key was"):
        run(1, model=Constant())
    with pytest.raises(ValueError, match=r"options\['shrinkage'\] was None and is 0\.9"):
        run(model=Constant(), options={"shrinkage": 0.9})
    with pytest.raises(ValueError, match="program was text"):  # what the model closes over is in no array
        run(model=Constant(initial_state=lambda params: jnp.ones(())))


def test_any_model_trains():
    came = fit(model=Constant(), updates=200, evaluate_every=100, learning_rate=0.1)
    (_, ys, _), _ = data()
    np.testing.assert_allclose(came.last["mean"], jnp.mean(ys, axis=0), atol=0.2)


def test_recency_weighs_the_windows_end():
    """The seen weights are those of the formula: with γ → 0 only the last step of each window counts."""
    seen = []

    class Spy(Constant):
        @staticmethod
        def loss(params, key, xs, ys, state, mask=None, *, beta=1.0, weights=None):
            jax.debug.callback(lambda w, b: seen.append((np.asarray(w), float(b))), weights, beta)
            return Constant.loss(params, key, xs, ys, state, mask, beta=beta, weights=weights)

    jax.block_until_ready(fit(model=Spy(), recency=0.9, beta=2.0, windows="map"))
    jax.effects_barrier()
    np.testing.assert_allclose(seen[0][0], 0.9 ** np.arange(15, -1, -1), rtol=1e-5)
    assert sorted({round(beta, 5) for _, beta in seen}) == [0.4, 0.8, 1.2, 1.6, 2.0]
