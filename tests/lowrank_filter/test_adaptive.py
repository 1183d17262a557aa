"""A process noise that moves with the evidence."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf

D, R = 2, 0.1


def net(params, x):
    return x @ params["a"][:, None] + params["b"]


PARAMS = {"a": jnp.zeros(D), "b": jnp.zeros(1)}


def inner(noise=0.0, **options):
    # The plain step, exact for these, is traced in a third of the time.
    return lf.extended_filter(net, lf.Gaussian(R), rank=2, process_noise=noise, iterations=0, **options)


def walk(seed, noise, steps):
    keys = jax.random.split(jax.random.key(seed), 3)
    weights = jnp.cumsum(jnp.sqrt(noise) * jax.random.normal(keys[0], (steps, D + 1)), axis=0)
    x = jax.random.normal(keys[1], (steps, D))
    return x, jnp.sum(weights[:, :D] * x, axis=1) + weights[:, D] + jnp.sqrt(R) * jax.random.normal(keys[2], (steps,))


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None, None))
def found(seed, start, truth):
    """log q over q's true value at each step, and the evidence less that of the true noise."""
    x, y = walk(seed, truth, 2000)
    method, known = lf.adaptive_filter(inner(), process_noise=start), inner(truth)
    state, steps = lf.filter_stream(method, method.init(PARAMS), x, y)
    _, best = lf.filter_stream(known, known.init(PARAMS), x, y)
    gain = steps.info.log_evidence - best.info.log_evidence
    return jnp.log(steps.info.dynamics["process_noise"] / truth), gain, state


@pytest.mark.parametrize("start", [1e-6, 1.0])  # all in one program
def test_it_finds_the_noise_of_a_random_walk(start):
    """From a thousandth and from a thousand times what is true, and costs a hundredth of a nat a step then."""
    error, gain, state = found(jnp.arange(4), start, 1e-3)
    assert abs(error[:, 0] - np.log(start / 1e-3)).max() < 1e-4
    assert abs(error[:, 600:].mean()) < 0.4 and error[:, 600:].std() < 0.8
    assert gain[:, 600:].mean() > -0.01
    assert (state.doubt < 0.5).all()
    for came, adapted in zip(jax.tree.leaves(state.belief), jax.tree.leaves(state.adapted), strict=True):
        np.testing.assert_array_equal(came, adapted)


@pytest.mark.parametrize("start", [1e-3, 1.0])
def test_it_does_no_harm_where_nothing_moves(start):
    """Whatever it begins with, at every time: log 2 is what not to know the better of two costs, and .001 a step."""
    _, gain, _ = found(jnp.arange(4), start, 1e-12)
    lost = -jnp.cumsum(gain, axis=1)
    assert (lost < np.log(2) + 0.001 * jnp.arange(1, 2001) + 0.02).all()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_noise_moves_along_the_gradient_of_the_whole_evidence():
    """By finite differences of a stream with a constant noise: what q did in earlier steps counts."""
    x, y = walk(0, 0.1, 6)
    start = jax.tree.map(lambda p: p.astype(float), PARAMS)
    given = {"process_noise": {"a": 0.02, "b": 0.3}, "transition": 0.9}
    # So slow that the dynamics stay what they are.
    method = lf.adaptive_filter(inner(center=0.3), learning_rate=1e-9, **given)
    state, steps = jax.jit(lambda: lf.filter_stream(method, method.init(start), x, y, chunk_size=2))()
    for came, constant in zip(jax.tree.leaves(state.dynamics), (0.02, 0.3, 0.9), strict=True):
        assert came == pytest.approx(constant, rel=1e-7)

    @jax.jit
    def last(log_noise, logit):
        dynamics = {"process_noise": {"a": jnp.exp(log_noise), "b": 0.3}, "transition": jax.nn.sigmoid(logit)}
        known = inner(center=0.3)
        belief, found = lf.filter_stream(known, known.init(start), x, y, chunk_size=2, **dynamics)
        return belief.mean["a"], found.info.log_evidence

    at = np.log(0.02), np.log(9.0)
    squares = state.search[0].nu
    for index, known in ((0, squares["process_noise"]["a"]), (2, squares["transition"])):
        which = index > 0

        def along(value, which=which):
            mean, evidence = last(*(value if place == which else at[place] for place in range(2)))
            return np.append(evidence, mean)

        slope = dense.finite_difference(along, at[which])
        assert abs(slope[:3]).min() > 1e-4
        assert known == pytest.approx(0.01 * sum(0.99 ** (2 - t) * slope[t] ** 2 for t in range(3)), rel=1e-4)
        np.testing.assert_allclose(state.slopes[0][index], slope[3:], rtol=1e-5)
    assert dense.relative_error(state.adapted.mean["a"], last(*at)[0]) < 1e-7
    assert steps.info.dynamics["transition"].shape == (3,)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_weights_that_turn():
    """No noise in them, yet a noise is wanted, of which a step taken for itself would ask too little."""
    angle, keys = jnp.deg2rad(5.0) * jnp.arange(240), jax.random.split(jax.random.key(0))
    x = jax.random.uniform(keys[0], (240, 2), minval=-3, maxval=3)
    logit = 10 * (x[:, 0] * jnp.sin(angle) + x[:, 1] * jnp.cos(angle))
    y = jax.random.bernoulli(keys[1], jax.nn.sigmoid(logit)).astype(x.dtype)[:, None]

    def steps(method):
        return lf.filter_stream(method, method.init(jnp.zeros(2)), x, y)[1].info

    def logistic(noise=0.0):
        return lf.extended_filter(lambda weights, x: x @ weights[:, None], lf.Bernoulli(), rank=2, process_noise=noise)

    known = jax.jit(jax.vmap(lambda q: steps(logistic(q)).log_evidence))(jnp.array([1e-3, 0.3, 10.0]))[:, 120:]
    info = jax.jit(lambda: steps(lf.adaptive_filter(logistic(), learning_rate=0.1)))()
    found, noise = info.log_evidence[120:], info.dynamics["process_noise"]
    assert noise[0] == pytest.approx(1e-3) and noise[120:].min() > 0.1 and noise[120:].max() < 1.5
    assert found.mean() > known[1].mean() - 0.02  # the best of a grid
    assert found.mean() > max(known[0].mean(), known[2].mean()) + 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_step_is_a_prediction_and_an_update():
    x, y = walk(0, 0.1, 4)
    method = lf.adaptive_filter(inner(transition=0.9), process_noise=0.02)
    state = two = method.init(jax.tree.map(lambda p: p.astype(float), PARAMS))
    for t in range(2):
        data = x[2 * t : 2 * t + 2], y[2 * t : 2 * t + 2]
        state, info = method.step(state, *data)
        two, apart = method.update(method.predict(two), *data)
        assert info.log_evidence == pytest.approx(float(apart.log_evidence))
    for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_what_is_missing_moves_nothing():
    x, y = walk(0, 0.1, 6)
    method = lf.adaptive_filter(inner(), process_noise=0.01)
    state, _ = lf.filter_stream(method, method.init(PARAMS), x, y)
    after, info = lf.filter_stream(method, state, x, y, mask=np.zeros(6, bool))
    for a, b in zip(
        jax.tree.leaves((after.unconstrained, after.search, after.doubt)),
        jax.tree.leaves((state.unconstrained, state.search, state.doubt)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(info.info.log_evidence, 0)
    assert (
        lf.inverse_diagonal(after.adapted.precision)["b"]
        > lf.inverse_diagonal(state.adapted.precision)["b"] + 6 * 0.009
    )


@pytest.mark.parametrize("nested", ["adaptive in changepoint", "changepoint in adaptive"])
@pytest.mark.slow
def test_drift_and_jumps_together(nested):
    """Either way round: beside each other in one stream, cut anywhere, with a history of means."""
    if nested == "adaptive in changepoint":
        method = lf.changepoint_filter(lf.adaptive_filter(inner(), process_noise=0.01), 0.05, hypotheses=3)
    else:
        method = lf.adaptive_filter(lf.changepoint_filter(inner(), 0.05, hypotheses=3), process_noise=0.01)
    x, y = walk(0, 0.01, 40)
    y = jnp.where(jnp.arange(40) < 20, y, y + 5)
    whole, steps = lf.filter_stream(method, method.init(PARAMS), x, y, history="means")
    assert steps.means["a"].shape == (40, D) and np.isfinite(steps.info.log_evidence).all()
    assert set(steps.info.dynamics) == {"process_noise", "run_length", "change"}
    assert steps.info.dynamics["run_length"][-1] < 20
    assert abs(whole.mean["b"] - 5).max() < 1
    batches = [(x[t : t + 1], y[t : t + 1]) for t in range(40)]
    batched, _ = lf.run_stream(method, method.init(PARAMS), batches, progress=False)
    for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_its_noise_is_its_own():
    x, y = walk(0, 0.1, 4)
    method = lf.adaptive_filter(inner())
    with pytest.raises(ValueError, match="process_noise: expected none, since an adaptive filter moves its own"):
        lf.filter_stream(method, method.init(PARAMS), x, y, process_noise=0.1)
    with pytest.raises(ValueError, match="process_noise: expected a scalar or a pytree prefix"):
        lf.adaptive_filter(inner(), process_noise={"c": 1.0}).init(PARAMS)
