"""Run lengths side by side, against the sum over all sequences of changes."""

import itertools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")

D, T = 2, 5
R, NOISE, DECAY, CENTER, PRIOR, HAZARD = 0.3, 0.05, 0.9, 0.2, 0.7, 0.2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(T, D))
Y = np.sum(X * np.where(np.arange(T)[:, None] < 3, [1.0, -2.0], [-2.0, 1.0]), axis=1)


def net(params, x):
    return x @ params[:, None]


# The plain step, exact for these, is traced in a third of the time.
INNER = lf.extended_filter(
    net, lf.Gaussian(R), rank=T, precision=PRIOR, process_noise=NOISE, transition=DECAY, center=CENTER, iterations=0
)


def built(count, hazard=HAZARD, reset="prior"):
    return lf.changepoint_filter(INNER, hazard, hypotheses=count, reset=reset)


@pytest.fixture(scope="module")
def step():
    """Compiled once for each number of hypotheses."""
    return jax.jit(
        lambda state, x, y, mask, hazard: built(len(state.log_weights), hazard).step(state, x, y, mask),
    )


def start(count):
    return built(count).init(jnp.full(D, 0.5))


def run(step, count, mask=None, hazard=HAZARD):
    state, found = start(count), []
    for t in range(T):
        present = None if mask is None else mask[t, None]
        state, info = step(state, X[t, None], Y[t, None], present, hazard)
        found.append(info)
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def enumerated(present=None):
    """Log evidence, run-length posterior and mean after each step: one dense Kalman filter for every sequence."""
    joint = [np.zeros(t + 2) for t in range(T)]
    means = [np.zeros(D) for _ in range(T)]
    for changes in itertools.product([False, True], repeat=T):
        mean, covariance, weight, length = np.full(D, 0.5), np.eye(D) / PRIOR, 1.0, 0
        for t, change in enumerate(changes):
            weight *= HAZARD if change else 1 - HAZARD
            if change:
                mean, covariance, length = np.full(D, 0.5), np.eye(D) / PRIOR, 0
            else:
                mean, length = CENTER + DECAY * (mean - CENTER), length + 1
                covariance = DECAY**2 * covariance + NOISE * np.eye(D)
            if present is None or present[t]:
                variance = X[t] @ covariance @ X[t] + R
                weight *= np.exp(dense.gaussian_log_density(np.array([Y[t] - X[t] @ mean]), np.array([[variance]])))
                gain = covariance @ X[t] / variance
                mean, covariance = mean + gain * (Y[t] - X[t] @ mean), covariance - np.outer(gain, gain) * variance
            rest = 2.0 ** -(T - 1 - t)  # as many sequences agree up to here
            joint[t][length] += weight * rest
            means[t] += weight * rest * mean
    evidence = np.log([j.sum() for j in joint])
    posteriors = [j / j.sum() for j in joint]
    return np.diff(evidence, prepend=0), posteriors, [m / j.sum() for m, j in zip(means, joint, strict=True)]


def posterior(state):
    found = np.zeros(T + 1)
    np.add.at(found, np.asarray(state.run_lengths), np.exp(np.asarray(state.log_weights)))
    return found


@pytest.mark.parametrize("masked", fast([False, True], True))
def test_with_room_for_every_run_length_it_is_exact(step, masked):
    mask = np.arange(T) != 1 if masked else None
    evidence, posteriors, means = enumerated(mask)
    state, infos = run(step, T + 1, mask)
    ahead = built(T + 1).predict(start(T + 1)).mean
    np.testing.assert_allclose(infos.outputs[0, 0], X[0] @ ahead, rtol=0, atol=1e-11)
    np.testing.assert_allclose(infos.log_evidence, evidence, rtol=0, atol=1e-11)
    np.testing.assert_allclose(posterior(state), posteriors[-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(state.mean, means[-1], rtol=0, atol=1e-11)
    np.testing.assert_allclose(infos.dynamics["change"], [p[0] for p in posteriors], rtol=0, atol=1e-12)
    assert infos.dynamics["run_length"].tolist() == [int(p.argmax()) for p in posteriors]


@pytest.mark.slow
def test_as_many_as_steps_are_enough_for_the_evidence(step):
    np.testing.assert_allclose(run(step, T)[1].log_evidence, enumerated()[0], rtol=0, atol=1e-11)


@pytest.mark.slow
def test_pruned_it_keeps_the_most_probable(step):
    state, infos = run(step, 3)
    assert np.all(np.diff(state.log_weights) <= 0)
    np.testing.assert_allclose(np.exp(state.log_weights).sum(), 1, rtol=1e-12)
    assert abs(infos.log_evidence - enumerated()[0]).max() < 1  # what was dropped was not likely
    assert posterior(state).argmax() == enumerated()[1][-1].argmax()


@pytest.mark.slow
def test_a_step_is_a_prediction_and_an_update(step):
    method, state = built(3), start(3)
    two = jax.jit(lambda state, x, y: method.update(method.predict(state), x, y))
    for t in range(T):
        came, _ = two(state, X[t, None], Y[t, None])
        state, _ = step(state, X[t, None], Y[t, None], None, HAZARD)
        for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_predictions_follow_each_other():
    """Steps without data, by predict alone: the weights are those of the hazard."""
    method = built(3)
    state = jax.jit(lambda state: method.predict(method.predict(state)))(start(3))
    stay = 1 - HAZARD
    np.testing.assert_allclose(posterior(state)[:3], [HAZARD, HAZARD * stay, stay**2], rtol=1e-12)


@pytest.mark.parametrize("hazard", fast([0.0, 1.0], 1.0))
def test_at_the_ends_of_the_hazard(step, hazard):
    """Never: the filter itself. Always: every step is the first."""
    state, infos = run(step, 3, hazard=hazard)
    belief, evidence = INNER.init(jnp.full(D, 0.5)), []
    advance = jax.jit(INNER.update if hazard else INNER.step)
    for t in range(T):
        belief = INNER.init(jnp.full(D, 0.5)) if hazard else belief
        belief, info = advance(belief, X[t, None], Y[t, None])
        evidence.append(info.log_evidence)
    np.testing.assert_allclose(infos.log_evidence, evidence, rtol=1e-10)
    np.testing.assert_allclose(state.mean, belief.mean, rtol=1e-10)


def test_inflating_keeps_the_mean():
    method = built(3, reset="inflate")
    state, _ = jax.jit(lambda: lf.filter_stream(method, start(3), X, Y))()
    changed = jax.tree.map(lambda leaf: leaf[-1], jax.jit(method.predict)(state).hypotheses)
    np.testing.assert_array_equal(changed.mean, state.belief.mean)
    np.testing.assert_array_equal(changed.precision.diag, np.full(D, PRIOR))
    assert not np.array_equal(state.mean, state.belief.mean)


def test_a_hypothesis_that_breaks_loses_its_weight():
    """Where none can take the data, the weights stay as they were."""
    update, state = jax.jit(built(3).update), start(3)
    state = state._replace(log_weights=jnp.log(jnp.asarray([0.5, 0.3, 0.2])))

    def with_means(where):
        return state._replace(hypotheses=state.hypotheses._replace(mean=state.hypotheses.mean.at[where].set(jnp.inf)))

    after, info = update(with_means(0), X[:1], Y[:1])
    np.testing.assert_allclose(np.exp(after.log_weights), [0.6, 0.4, 0], atol=1e-12)
    assert np.isfinite(info.log_evidence)
    after, info = update(with_means(slice(None)), X[:1], Y[:1])
    np.testing.assert_allclose(np.exp(after.log_weights), [0.5, 0.3, 0.2], rtol=1e-12)
    assert info.diverged and info.log_evidence == -np.inf


def test_states_of_a_history_have_a_mean_each(step):
    """As ``steps.beliefs`` of ``history="all"`` has them."""
    states = [start(3)]
    for t in range(T):
        states.append(step(states[-1], X[t, None], Y[t, None], None, HAZARD)[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    np.testing.assert_allclose(stacked.mean, [state.mean for state in states], rtol=1e-12)
    np.testing.assert_array_equal(stacked.belief.mean, [state.belief.mean for state in states])
    np.testing.assert_array_equal(stacked.precision.diag, [state.belief.precision.diag for state in states])


def test_the_mixtures_prediction_has_its_moments(step):
    state, _ = run(step, 3)
    came = state.predictive(net, X)
    weights = np.exp(state.log_weights)
    outputs = np.asarray(state.hypotheses.mean) @ X.T
    each = [lf.predictive(jax.tree.map(lambda leaf, k=k: leaf[k], state.hypotheses), net, X) for k in range(3)]
    second = sum(w * (p.covariance[:, 0, 0] + p.mean[:, 0] ** 2) for w, p in zip(weights, each, strict=True))
    np.testing.assert_allclose(came.mean[:, 0], weights @ outputs, rtol=1e-10)
    np.testing.assert_allclose(came.covariance[:, 0, 0], second - (weights @ outputs) ** 2, rtol=1e-9)
    assert state.predictive(net, X, likelihood=lf.Gaussian(R)).log_prob(Y[:, None]).shape == (T,)
