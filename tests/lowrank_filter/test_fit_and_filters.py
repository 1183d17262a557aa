"""Training to the MAP, the two built filters, and a stream in one scan."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from suites import fast

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy

pytestmark = pytest.mark.usefixtures("x64")

D, K, N = 4, 2, 7
LIKELIHOOD = lf.Gaussian(0.3)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, D)), RNG.normal(size=N)
MASK = np.array([True, True, False, True, True, False, True])
NOISE, DECAY, CENTER = 0.1, 0.95, -0.4


def net(params, x):
    return x @ params[:, None]


def belief():
    diag, factor = dense.random_precision(np.random.default_rng(1), D, K)
    mean = np.random.default_rng(2).normal(size=D)
    return lf.Belief(jnp.asarray(mean), lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)))


def map_estimate(x, y, temperature=1.0):
    start = belief()
    matrix = dense.matrix(*start.precision)
    return dense.map_estimate(np.asarray(start.mean), matrix, x, y, temperature * LIKELIHOOD.covariance)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_fit_reaches_the_closed_form_map(temperature):
    came, values = lf.fit(
        belief(), net, LIKELIHOOD, X, Y, optimizer=optax.sgd(0.01), steps=3000, temperature=temperature
    )
    assert dense.relative_error(came, map_estimate(X, Y, temperature)) < 1e-6
    assert values.shape == (3000,)
    assert values[-1] < values[0]


def test_fit_leaves_masked_examples_out():
    came, _ = lf.fit(belief(), net, LIKELIHOOD, X, Y, optimizer=optax.sgd(0.01), steps=3000, mask=MASK)
    assert dense.relative_error(came, map_estimate(X[MASK], Y[MASK])) < 1e-6


def test_fit_in_mini_batches_is_unbiased():
    """Batches are scaled up to the whole sum: with a falling rate they end at the same place."""
    steps = 6000
    came, _ = lf.fit(
        belief(), net, LIKELIHOOD, X, Y, optimizer=optax.sgd(optax.cosine_decay_schedule(0.01, steps)), steps=steps,
        batch_size=1, key=jax.random.key(0),
    )  # fmt: skip
    assert dense.relative_error(came, map_estimate(X, Y)) < 0.02


def test_fit_without_data_stays_at_the_prior_mean():
    came, values = lf.fit(belief(), net, LIKELIHOOD, X, Y, optimizer=optax.sgd(0.01), steps=3, mask=np.zeros(N, bool))
    np.testing.assert_array_equal(came, belief().mean)
    np.testing.assert_array_equal(values, 0)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_fit_of_no_steps_returns_where_it_started(batch_size):
    start = jnp.ones(D)
    came, values = lf.fit(
        belief(), net, LIKELIHOOD, X, Y, optimizer=optax.sgd(0.01), steps=0, params=start, batch_size=batch_size,
        key=jax.random.key(0),
    )  # fmt: skip
    np.testing.assert_array_equal(came, start)
    assert values.shape == (0,)


def test_a_sweep_over_learning_rates_is_a_vmap():
    def end(rate):
        built = lf.laplace_filter(net, LIKELIHOOD, optax.sgd(rate), rank=K, steps=3)
        return built.update(belief(), X, Y)[0].mean

    rates = jnp.asarray([0.001, 0.01])
    for came, rate in zip(jax.jit(jax.vmap(end))(rates), rates, strict=True):
        expected, _ = lf.fit(belief(), net, LIKELIHOOD, X, Y, optimizer=optax.sgd(float(rate)), steps=3)
        assert dense.relative_error(came, expected) < 1e-12


def test_penalty():
    start, params = belief(), jnp.asarray(np.random.default_rng(3).normal(size=D))
    shift = np.asarray(params - start.mean)
    matrix = dense.matrix(*start.precision)
    assert dense.relative_error(lf.penalty(start, params), 0.5 * shift @ matrix @ shift) < 1e-12
    assert dense.relative_error(jax.grad(lf.penalty, 1)(start, params), matrix @ shift) < 1e-12
    assert lf.penalty(start, params) > 0.1
    assert lf.penalty(start, start.mean) == 0


def predictive_covariance(precision, x):
    return np.einsum("bi,ij,bj->b", x, np.linalg.inv(precision), x)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_predictive(batch_size):
    came = lf.predictive(belief(), net, X, batch_size=batch_size)
    assert dense.relative_error(came.mean[:, 0], X @ np.asarray(belief().mean)) < 1e-12
    expected = predictive_covariance(dense.matrix(*belief().precision), X)
    assert dense.relative_error(came.covariance[:, 0, 0], expected) < 1e-9


@pytest.mark.parametrize("rank", [0, 2, 9])
def test_predictive_of_several_outputs(rank):
    diag, factor = dense.random_precision(np.random.default_rng(4), 6, rank)
    start = lf.Belief(jnp.asarray(RNG.normal(size=6)), lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)))

    def apply_fn(params, x):
        return jnp.tanh(x @ params.reshape(3, 2))

    came = lf.predictive(start, apply_fn, X[:, :3])
    jacobian = np.asarray(jax.jit(jax.jacobian(apply_fn))(start.mean, X[:, :3]))
    expected = jacobian @ np.linalg.inv(dense.matrix(diag, factor)) @ jacobian.transpose(0, 2, 1)
    assert dense.relative_error(came.covariance, expected) < 1e-9


@pytest.mark.parametrize("said", [1.0, 300.0])
def test_predictive_in_single_precision(said):
    """Also where the data have said so much that a variance is a difference of numbers ten thousand times larger."""
    rng = np.random.default_rng(5)
    weights, x = rng.normal(size=(40, 3)).astype("f4"), rng.normal(size=(5, 40)).astype("f4")
    factor = (said * np.einsum("bi,cd->bcid", x, np.eye(3)).reshape(15, 40, 3)).astype("f4")
    start = lf.Belief(jnp.asarray(weights), lf.DiagLowRank(jnp.ones((40, 3), "f4"), jnp.asarray(factor)))
    came = lf.predictive(start, lambda p, x: jnp.tanh(x @ p), jnp.asarray(x)).covariance
    assert came.dtype == jnp.float32
    rows = np.asarray(jax.jit(jax.jacobian(lambda p: jnp.tanh(x @ p)))(jnp.asarray(weights, float))).reshape(15, -1)
    matrix = np.eye(120) + np.einsum("nd,ne->de", *2 * [factor.reshape(15, -1).astype(float)])
    expected = (rows @ np.linalg.solve(matrix, rows.T)).reshape(5, 3, 5, 3)
    for example in range(5):
        assert dense.relative_error(came[example], expected[example, :, example]) < 1e-2
        values = np.linalg.eigvalsh(np.asarray(came[example], float))
        assert values[0] > -1e-5 * values[-1]


# The plain step, exact for these, is traced in a third of the time.
def extended(noise=NOISE):
    return lf.extended_filter(
        net, LIKELIHOOD, rank=K, precision=2.0, process_noise=noise, transition=DECAY, center=CENTER, iterations=0
    )


def laplace(noise=NOISE):
    return lf.laplace_filter(
        net, LIKELIHOOD, OPTIMIZER, rank=K, steps=20, precision=2.0, process_noise=noise, transition=DECAY,
        center=CENTER,
    )  # fmt: skip


OPTIMIZER = optax.adam(0.05)
FILTERS = {"extended": extended, "laplace": laplace}


def assert_equal(came, expected, tolerance=1e-9):
    for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(expected), strict=True):
        assert dense.relative_error(a, b) < tolerance


@pytest.mark.parametrize("name", FILTERS)
def test_a_built_filter_equals_the_kernels(name):
    built = FILTERS[name]()
    start = built.init(jnp.ones(D))
    assert_equal(start, lf.init(jnp.ones(D), 2.0, rank=K))
    predicted = built.predict(belief())
    assert_equal(predicted, lf.predict(belief(), NOISE, DECAY, CENTER))
    came = jax.jit(built.update)(predicted, X, Y, MASK)
    data = (net, LIKELIHOOD, X, Y)
    if name == "extended":
        expected = jax.jit(lambda belief: lf.update(belief, *data, mask=MASK, iterations=0))(predicted)
    else:
        params, _ = lf.fit(predicted, *data, optimizer=OPTIMIZER, steps=20, mask=MASK)
        expected = jax.jit(lambda *known: lf.laplace_update(*known, *data, mask=MASK))(predicted, params)
    assert_equal(came, expected)


@functools.partial(jax.jit, static_argnames=("name", "chunk_size", "history"))
def stream(start, x, y, mask, *, name="extended", chunk_size=1, history="final"):
    return lf.filter_stream(FILTERS[name](), start, x, y, mask=mask, chunk_size=chunk_size, history=history)


def loop(name, chunk_size, mask):
    """What the scan should be: predict, update, chunk by chunk; the last chunk is shorter."""
    built, state, states, infos = FILTERS[name](), belief(), [], []
    step = jax.jit(lambda state, *chunk: built.update(built.predict(state), *chunk))
    for start in range(0, N, chunk_size):
        part = slice(start, start + chunk_size)
        state, info = step(state, X[part], Y[part], mask[part])
        states.append(state)
        infos.append(info)
    return state, *(jax.tree.map(lambda *leaves: jnp.stack(leaves), *many) for many in (states, infos))


@pytest.mark.parametrize(
    ("name", "chunk_size"), fast([("extended", 1), ("extended", 3), ("laplace", 3)], ("extended", 1))
)
def test_a_stream_equals_a_loop(name, chunk_size):
    came, kept = stream(belief(), X, Y, MASK, name=name, chunk_size=chunk_size, history="all")
    last, states, infos = loop(name, chunk_size, MASK)
    assert dense.relative_error(came.mean, last.mean) < 1e-9
    assert dense.relative_error(dense.matrix(*came.precision), dense.matrix(*last.precision)) < 1e-9
    assert dense.relative_error(kept.beliefs.mean, states.mean) < 1e-9
    assert dense.relative_error(kept.info.log_evidence, infos.log_evidence) < 1e-9
    if name == "extended":
        before = [belief(), *(jax.tree.map(lambda leaf, t=t: leaf[t], states) for t in range(len(states.mean) - 1))]
        ahead = [FILTERS[name]().predict(one).mean for one in before]
        expected = [net(mean, X[t * chunk_size : (t + 1) * chunk_size]).ravel() for t, mean in enumerate(ahead)]
        expected = np.where(MASK, np.concatenate(expected), 0)
        assert dense.relative_error(kept.info.outputs.ravel()[:N], expected) < 1e-9
    else:
        assert kept.info.outputs is None
    for t in range(len(states.mean)):
        pair = [dense.matrix(*(part[t] for part in info.site)) for info in (kept.info, infos)]
        assert dense.relative_error(*pair) < 1e-9


def test_each_history_is_the_same_stream():
    every, all_kept = stream(belief(), X, Y, MASK, history="all")
    for history in ("final", "means"):
        came, kept = stream(belief(), X, Y, MASK, history=history)
        assert_equal(came, every)
        assert_equal(kept.info.log_evidence, all_kept.info.log_evidence)
        assert kept.beliefs is None and kept.info.site is None
        assert (kept.means is None) == (history == "final")
        if history == "means":
            assert_equal(kept.means, all_kept.beliefs.mean)
    assert all_kept.means is None


@pytest.mark.parametrize("cut", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_a_stream_goes_on_where_it_stopped(cut):
    whole, _ = stream(belief(), X, Y, MASK, chunk_size=3)
    part, _ = stream(belief(), X[:cut], Y[:cut], MASK[:cut], chunk_size=3)
    resumed, _ = stream(part, X[cut:], Y[cut:], MASK[cut:], chunk_size=3)
    assert_equal(resumed, whole)


@pytest.mark.slow
def test_no_mask_is_all_present():
    assert_equal(stream(belief(), X, Y, None), stream(belief(), X, Y, np.ones(N, bool)))


def test_filtering_with_noise_differs_from_filtering_without():
    run = jax.jit(lambda noise: lf.filter_stream(extended(noise), belief(), X, Y)[0])
    with_noise, without = run(0.5), run(0.0)
    assert dense.relative_error(with_noise.mean, without.mean) > 0.05
    variances = [np.asarray(lf.inverse_diagonal(b.precision)) for b in (with_noise, without)]
    assert (variances[0] > 1.1 * variances[1]).all()


def test_a_stream_has_its_own_centre():
    """Given to the stream, as the parameters of a pretrained network are: traced, and no part of the program."""
    options = {"precision": 2.0, "process_noise": NOISE, "transition": DECAY, "iterations": 0}
    built = lf.extended_filter(net, LIKELIHOOD, rank=K, **options)
    run = jax.jit(lambda center: lf.filter_stream(built, belief(), X, Y, mask=MASK, center=center)[0])
    assert_equal(run(jnp.full(D, CENTER)), stream(belief(), X, Y, MASK)[0])


def test_missing_steps_forecast():
    """Past the last observation only the predictions go on."""
    mask = np.arange(N) < 3
    came, kept = stream(belief(), X, Y, mask)
    _, seen = stream(belief(), X, Y, np.ones(N, bool), history="all")
    expected = jax.tree.map(lambda leaf: leaf[2], seen.beliefs)
    for _ in range(N - 3):
        expected = lf.predict(expected, NOISE, DECAY, CENTER)
    assert_equal(came, expected)
    np.testing.assert_array_equal(kept.info.log_evidence[3:], 0)


def test_a_streams_history_can_be_smoothed():
    # No truncation is at work in the means: rank D holds every linear-Gaussian posterior's low-rank part.
    built = lf.extended_filter(net, LIKELIHOOD, rank=N + K, process_noise=NOISE, iterations=0)
    start = lf.Belief(belief().mean, lf.truncate(belief().precision, N + K))
    _, kept = jax.jit(lambda: lf.filter_stream(built, start, X, Y, mask=MASK, history="all"))()
    smoothed = jax.jit(lambda: lf.smooth(*with_policy((kept.beliefs, kept.info.site), rank=2 * N + K), NOISE))()
    precisions = [dense.matrix(d, w) for d, w in zip(*kept.beliefs.precision, strict=True)]
    ones = np.ones(N)
    means, covariances = dense.smooth(np.asarray(kept.beliefs.mean), precisions, NOISE * ones, ones)
    came = [np.linalg.inv(dense.matrix(d, w)) for d, w in zip(*smoothed.precision, strict=True)]
    assert dense.relative_error(smoothed.mean, means) < 1e-9
    assert dense.relative_error(came, covariances) < 1e-9
