"""Every public kernel under jit, vmap over seeds, vmap over hyperparameters, grad and scan: equal to the plain call,
compiled once."""

import functools

import chex
import dense
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")

D, K, B, LANES = 6, 2, 2, 3
LIKELIHOOD = lf.Gaussian(0.3)
OPTIMIZER = optax.sgd(0.01)
TOLERANCE = 1e-9


def net(params, x):
    return jnp.tanh(x @ params.reshape(3, 2))


def belief_of(seed):
    """A belief, drawn from an integer that may be traced."""
    drawn = jax.random.normal(jax.random.key(seed), (K + 2, D))  # one draw: each is a long program
    return lf.Belief(drawn[0], lf.DiagLowRank(0.5 + 1.5 * jax.nn.sigmoid(drawn[1]), drawn[2:]))


def data_of(seed):
    drawn = jax.random.normal(jax.random.key(100 + seed), (B, 5))
    return drawn[:, :3], drawn[:, 3:]


def action(precision):
    """What does not depend on signs and rotations of the factor."""
    return lf.matvec(precision, jnp.arange(1.0, D + 1))


def seen(belief):
    return belief.mean, action(belief.precision)


def told(belief, info):
    return seen(belief), action(info.site), info.log_evidence, info.loss


def init(seed, value):
    return seen(lf.init(belief_of(seed).mean, value, rank=K))


def predict(seed, value):
    return seen(lf.predict(belief_of(seed), value, value))


def update(seed, value):
    likelihood = lf.Gaussian(value)
    return told(*lf.update(belief_of(seed), net, likelihood, *data_of(seed), temperature=value))


def laplace_update(seed, value):
    belief = belief_of(seed)
    return told(
        *lf.laplace_update(
            belief, belief.mean + 0.1, net, LIKELIHOOD, *data_of(seed), curvature_scale=value, batch_size=1
        )
    )


def fit(seed, value):
    key = jax.random.key(seed)
    options = {"optimizer": OPTIMIZER, "steps": 3, "batch_size": 1, "key": key, "temperature": value}
    return lf.fit(belief_of(seed), net, LIKELIHOOD, *data_of(seed), **options)


def smooth(seed, value):
    beliefs = jax.vmap(belief_of)(seed + jnp.arange(3))
    sites = jax.vmap(belief_of)(seed + 10 + jnp.arange(3)).precision
    smoothed = lf.smooth(beliefs, sites, value)
    return smoothed.mean, jax.vmap(action)(smoothed.precision)


def penalty(seed, value):
    return lf.penalty(belief_of(seed), value * jnp.ones(D))


def sample(seed, value):
    return lf.sample(jax.random.key(seed), lf.predict(belief_of(seed), value), 2)


def predictive(seed, value):
    return lf.predictive(lf.predict(belief_of(seed), value), net, data_of(seed)[0])


def algebra(seed, value):
    precision = lf.predict(belief_of(seed), value).precision
    vector = belief_of(seed).mean
    return (
        lf.matvec(precision, vector),
        lf.solve(precision, vector),
        lf.logdet(precision),
        lf.inverse_diagonal(precision),
    )


def truncate(seed, value):
    return action(lf.truncate(lf.predict(belief_of(seed), value).precision, 1))


def stream(seed, value):
    # The plain step is traced in a third of the time; the guarded one is `update`'s.
    built = lf.extended_filter(net, LIKELIHOOD, rank=K, process_noise=value, iterations=0)
    belief, kept = lf.filter_stream(built, belief_of(seed), *data_of(seed), history="all")
    return seen(belief), kept.beliefs.mean, kept.info.log_evidence


def adaptive(seed, value):
    built = lf.adaptive_filter(
        lf.extended_filter(net, LIKELIHOOD, rank=K), learning_rate=value / 10, process_noise=value, transition=0.9
    )
    state = built.init(belief_of(seed).mean)
    # Two steps of both examples: the second moves the noise by more than the sign of its gradient.
    for t in range(2):
        state, info = built.step(state, *data_of(seed + t))
    return seen(state.belief), state.dynamics, info.log_evidence


def changepoint(seed, value):
    built = lf.changepoint_filter(lf.extended_filter(net, LIKELIHOOD, rank=K), value / 3, hypotheses=2)
    state, kept = lf.filter_stream(built, built.init(belief_of(seed).mean), *data_of(seed))
    return state.mean, state.log_weights, kept.info.log_evidence


def structured(start):
    """A filter and smoother over two tasks with another structure of the precision."""

    def run(seed, value):
        params = {"w": belief_of(seed).mean.reshape(3, 2), "b": jnp.zeros(2)}

        def layer(params, x):
            return jnp.tanh(x @ params["w"] + params["b"])

        beliefs, sites, evidence = [], [], 0.0
        belief = start(params, value)
        # Before any truncation: later, draws depend on the signs of the vectors kept.
        draws = lf.sample(jax.random.key(seed), belief, 2)
        for t in range(2):
            belief = lf.predict(belief, value, 0.9)
            target = jax.tree.map(lambda m: m + 0.1, belief.mean)
            belief, info = lf.laplace_update(belief, target, layer, LIKELIHOOD, *data_of(seed + t), temperature=value)
            beliefs.append(belief)
            sites.append(info.site)
            evidence += info.log_evidence
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *beliefs)
        smoothed = lf.smooth(stacked, jax.tree.map(lambda *leaves: jnp.stack(leaves), *sites), value, 0.9)
        covariance = lf.predictive(belief, layer, data_of(seed)[0]).covariance
        streamed, _ = lf.update(belief, layer, LIKELIHOOD, *data_of(seed + 2))
        action = jax.vmap(lambda b, p: b.precision.matvec(p), (0, None))(smoothed, params)
        return smoothed.mean, action, evidence, draws, covariance, streamed.mean, streamed.precision.matvec(params)

    return run


def unit(seed, value):
    return structured(lambda params, value: lf.init(params, value, rank=K, structure="unit"))(seed, value)


def kronecker(seed, value):
    return structured(functools.partial(lf.init, structure="kronecker"))(seed, value)


def parts(seed, value):
    return structured(functools.partial(lf.init, structure={"w": lf.LowRank(K), "b": lf.Dense()}))(seed, value)


def frozen(seed, value):
    return structured(functools.partial(lf.init, structure={"w": lf.Dense(), "b": lf.Frozen()}))(seed, value)


KERNELS = {
    function.__name__: function
    for function in (
        init, predict, update, laplace_update, fit, smooth, penalty, sample, predictive, algebra, truncate, stream,
        adaptive, changepoint, unit, kronecker, parts, frozen,
    )
}  # fmt: skip

# Whole steps of two structures and of filters around filters, which compile for twenty seconds each: in the slow suite.
LONG = ("unit", "kronecker", "parts", "frozen", "adaptive", "changepoint")
MOST = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in KERNELS]
# One transformation at a time is for where all of them together fail.
SMALL = ("init", "predict", "penalty", "sample", "algebra")
FEW = [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in KERNELS]

SEEDS = np.arange(LANES)
VALUES = np.linspace(0.3, 1.1, LANES)


@functools.cache
def compiled(name):
    """Traced once, or an error."""
    return jax.jit(chex.assert_max_traces(KERNELS[name], n=1))


@functools.cache
def lanes(name):
    with jax.enable_x64(True):
        return [compiled(name)(seed, value) for seed, value in zip(SEEDS, VALUES, strict=True)]


def assert_equal(came, expected):
    for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(expected), strict=True):
        assert dense.relative_error(a, b) < TOLERANCE


def lane(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def total(tree):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(tree))


def assert_slope(name, slope):
    assert slope != 0
    difference = dense.finite_difference(lambda value: float(total(compiled(name)(SEEDS[1], value))), VALUES[1], 1e-4)
    assert abs(slope - difference) < 1e-6 * max(1, abs(difference))


@pytest.mark.parametrize("name", MOST)
def test_all_together(name):
    """A scan over seeds of a vmap over hyperparameters of values and their gradients, in one program."""

    def both(seed, value):
        came = KERNELS[name](seed, value)
        return total(came), came

    graded = jax.vmap(jax.value_and_grad(both, 1, has_aux=True), (None, 0))
    scanned = jax.jit(lambda seeds, values: jax.lax.scan(lambda _, seed: (None, graded(seed, values)), None, seeds)[1])
    (_, came), slopes = scanned(SEEDS, VALUES)
    for index in range(LANES):
        assert_equal(lane(lane(came, index), index), lanes(name)[index])
    assert_slope(name, slopes[1, 1])


@pytest.mark.parametrize("name", FEW)
def test_jit_is_the_plain_call(name):
    assert_equal(lanes(name)[1], KERNELS[name](SEEDS[1], VALUES[1]))


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_vmap_over_seeds_and_hyperparameters(name):
    """Every value for every seed."""
    over_seeds = jax.vmap(chex.assert_max_traces(KERNELS[name], n=1), (0, None))
    came = jax.jit(jax.vmap(over_seeds, (None, 0)))(SEEDS, VALUES)
    for index in range(LANES):
        assert_equal(lane(lane(came, index), index), lanes(name)[index])


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_scan(name):
    def body(carry, lane):
        return carry + 1, KERNELS[name](*lane)

    count, came = jax.jit(lambda *inputs: jax.lax.scan(body, 0, inputs))(SEEDS, VALUES)
    assert count == LANES
    for index in range(LANES):
        assert_equal(lane(came, index), lanes(name)[index])


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_grad(name):
    value, slope = jax.jit(jax.value_and_grad(lambda value: total(KERNELS[name](SEEDS[1], value))))(VALUES[1])
    assert dense.relative_error(value, total(lanes(name)[1])) < TOLERANCE
    assert_slope(name, slope)
