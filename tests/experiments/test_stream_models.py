"""Every model of the comparison: causal, resumable in chunks, blind to masked targets, and with finite gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamax.linear_gaussian_ssm.inference import lgssm_filter, make_lgssm_params
from suites import fast

import latenttrack as lt
from experiments.streaming.models import (
    bayes_by_backprop,
    discriminative,
    dssm,
    ensemble,
    gaussian_process,
    gru,
    kalman,
    known,
    mc_dropout,
    mlp,
    parts,
    persistence,
    vrnn,
    weight_filter,
)

X, T, K = 3, 12, 4
LATENT = lt.Config(
    latent_dim=2, hidden_dim=5, encoder_dim=4, generator_hidden=(3,), predictor_hidden=(4,), prior_samples=3
)
BUILDERS = {
    "gru_mixture": lambda: gru.build(X, 1, hidden=5, encoder=4, width=4, components=3),
    "gru_adapted": lambda: gru.build(X, 1, hidden=5, encoder=4, width=4, components=3, adapt=True),
    "lt_unstructured": lambda: lt.build(dataclasses.replace(LATENT, transition="unstructured", points="random"), X, 1),
    "vrnn": lambda: vrnn.build(X, 1, latent=2, hidden=5, encoder=4, width=4),
    "dssm": lambda: dssm.build(X, 1, latent=2, hidden=5, encoder=4, width=4),
    "ensemble": lambda: ensemble.build(X, 1, members=2, hidden=(5,)),
    "mc_dropout": lambda: mc_dropout.build(X, 1, hidden=(5,), rate=0.3),
    "bbb": lambda: bayes_by_backprop.build(X, 1, steps=100, hidden=(5,)),
    "kalman": lambda: kalman.build(X, 1, latent=2),
    "gp": lambda: gaussian_process.build(X, 1),
    "discriminative": lambda: discriminative.build(X, 1, latent=2, hidden=(5,)),
    "weight_filter": lambda: weight_filter.build(X, 1, rank=2, hidden=(4,)),
    "persistence": lambda: persistence.build(X, 1),
}
"""One of each kind: a Gaussian head is a mixture of one, a perceptron an ensemble of one."""
SCORED = {
    "gru": lambda: gru.build(X, 1, hidden=5, encoder=4, width=4),
    "mlp": lambda: mlp.build(X, 1, hidden=(5,)),
    "gru_mixture": BUILDERS["gru_mixture"],
    "kalman": BUILDERS["kalman"],
    "gp": BUILDERS["gp"],
    "discriminative": BUILDERS["discriminative"],
}
"""Nothing is sampled: their loss is what is scored."""
UNTRAINED = ("weight_filter", "persistence")
# With nothing that a chunk hands on.
STATELESS = {"ensemble", "mc_dropout", "bbb"}
# One of each mechanism is fast: filters of weights, Gaussian processes and the discriminative update have their own
# tests, DSSM and VRNN are trained alike, and so are networks whose weights are drawn.
LONG = {"weight_filter", "gru_adapted", "gp", "dssm", "ensemble", "mc_dropout", "discriminative"}
pytestmark = pytest.mark.filterwarnings("ignore:Emission covariance has shape")


@functools.cache
def prepared(name: str):
    model = BUILDERS[name]()
    params = jax.jit(model.init)(jax.random.key(1))
    rolled = jax.jit(lambda xs, ys, state, mask: model.rollout(params, jax.random.key(2), xs, ys, state, K, mask))

    fresh = jax.jit(model.initial_state)(params)

    def run(xs, ys, state, mask):
        return rolled(xs, ys, fresh if state is None else state, mask)

    return model, params, run


def stream(seed: int = 0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(T, X)), jnp.float32), jnp.asarray(rng.normal(size=(T, 1)), jnp.float32)


def everything():
    return jnp.ones(T, bool)


@pytest.mark.parametrize("name", fast(BUILDERS, *set(BUILDERS) - LONG))
def test_predictions_know_only_the_past(name: str) -> None:
    _, _, run = prepared(name)
    start = run(*stream(), None, everything())[0]
    xs, ys = stream(1)
    at = 7
    _, base = run(xs, ys, start, everything())
    _, other = run(xs.at[at + 1 :].add(3.0), ys.at[at:].add(3.0), start, everything())
    for field in ("mean", "variance"):
        np.testing.assert_array_equal(getattr(base, field)[: at + 1], getattr(other, field)[: at + 1])
    np.testing.assert_array_equal(base.log_prob[:at], other.log_prob[:at])
    _, moved = run(xs.at[at].add(3.0), ys, start, everything())
    np.testing.assert_array_equal(base.mean[:at], moved.mean[:at])
    if name != "persistence":
        assert not np.array_equal(base.mean[at], moved.mean[at])


@pytest.mark.parametrize("name", fast(BUILDERS, *set(BUILDERS) - LONG - STATELESS))
def test_chunks_give_what_one_piece_gives(name: str) -> None:
    _, _, run = prepared(name)
    start = run(*stream(), None, everything())[0]
    (xs, ys), mask = stream(1), everything()
    state, whole = run(xs, ys, start, mask)
    half = T // 2  # one more program for both chunks
    middle, first = run(xs[:half], ys[:half], start, mask[:half])
    last, second = run(xs[half:], ys[half:], middle, mask[half:])
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), (whole, state), (joined, last))


MASKED = [name for name in BUILDERS if name not in ("kalman", "persistence")]


@pytest.mark.parametrize("name", fast(MASKED, *set(MASKED) - LONG))
def test_a_masked_target_changes_nothing_whatever_it_holds(name: str) -> None:
    _, _, run = prepared(name)
    xs, ys = stream()
    mask = everything().at[4].set(False)
    one = run(xs, ys.at[4].set(jnp.nan), None, mask)
    other = run(xs, ys.at[4].set(9.0), None, mask)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert one[1].log_prob[4] == 0 or np.isnan(one[1].log_prob[4])  # nothing is scored
    kept = one[1]._replace(log_prob=one[1].log_prob[~np.isin(np.arange(T), 4)])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


TRAINED = [name for name in BUILDERS if name not in UNTRAINED]


@pytest.mark.parametrize("name", fast(TRAINED, *set(TRAINED) - LONG))
def test_the_loss_has_finite_gradients_and_carries_the_state(name: str) -> None:
    model, params, _ = prepared(name)
    xs, ys = stream()
    state = jax.jit(model.initial_state)(params)

    @jax.jit
    def gradient(params, mask):
        return jax.value_and_grad(
            lambda p: model.loss(p, jax.random.key(0), xs, ys, state, mask, beta=0.5, weights=jnp.ones(T)), has_aux=True
        )(params)

    (value, aux), slopes = gradient(params, everything())
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(slopes))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.shape(a), np.shape(b)), aux.state, state)


@pytest.mark.parametrize("name", fast(SCORED, "gru_mixture", "kalman"))
def test_the_loss_is_what_is_scored_where_nothing_is_sampled(name: str) -> None:
    model = SCORED[name]()
    params, (xs, ys) = jax.jit(model.init)(jax.random.key(1)), stream()

    @jax.jit
    def both(params, xs, ys):
        value, _ = model.loss(params, jax.random.key(0), xs, ys, model.initial_state(params))
        return value, model.rollout(params, jax.random.key(0), xs, ys)[1].log_prob

    value, score = both(params, xs, ys)  # the rollout without a state: from the initial one
    np.testing.assert_allclose(value, -jnp.mean(score), rtol=1e-5)


def test_the_kalman_filter_scores_as_dynamax_does() -> None:
    model, params, run = prepared("kalman")
    xs, ys = stream()

    def soft(leaf):
        return jnp.square(jax.nn.softplus(leaf))

    reference = make_lgssm_params(
        *model.initial_state(params),
        params["transition"],
        jnp.diag(1e-6 + soft(params["process"])),
        params["emission"],
        jnp.diag(parts.FLOOR + soft(params["noise"])),
        emissions_bias=params["bias"],
        emissions_input_weights=params["input"],
    )
    _, outputs = run(xs, ys, None, everything())
    np.testing.assert_allclose(jnp.sum(outputs.log_prob), lgssm_filter(reference, ys, xs).marginal_loglik, rtol=1e-4)


@pytest.mark.parametrize("name", fast(sorted(set(known()) - {"kalman", "gp", *UNTRAINED}), "lt_structured", "vrnn"))
def test_models_have_about_twenty_thousand_parameters(name: str) -> None:
    params = jax.eval_shape(known()[name].model(10, 1000).init, jax.random.key(0))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    assert 15_000 < count < 22_000
