"""Every kernel under jit, vmap over seeds, grad and scan: equal to the plain call, traced once."""

import functools

import chex
import dense
import jax
import jax.numpy as jnp
import latent
import numpy as np
import pytest
from suites import fast

import latenttrack as lt

pytestmark = pytest.mark.usefixtures("x64")

SEEDS, VALUES, STEPS = np.arange(3), np.linspace(0.3, 1.1, 3), 6
MOVED = ("summary", "mean")
MODEL = lt.build(lt.Config(**latent.SIZES), latent.X, latent.Y)


def spread(shape, seed, scale=1.0):
    """Numbers from an integer that may be traced. Not drawn: that takes longer to compile than what is tested."""
    return scale * jnp.sin(1.7 * jnp.arange(np.prod(shape, dtype=int), dtype=float) + seed).reshape(shape)


def params_of(seed, value):
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: spread(leaf.shape, seed, 0.6 * value), shapes)


def inputs(seed):
    return spread((STEPS, latent.X), seed), spread((STEPS, latent.Y), seed + 1)


def begin(seed, value):
    """A state as after some steps."""
    params, (xs, ys) = params_of(seed, value), inputs(seed)
    state = MODEL.initial_state(params)
    moved = {name: getattr(state, name) + spread(getattr(state, name).shape, seed, value) for name in MOVED}
    return params, state._replace(step=state.step + 1, **moved), xs, ys


def step(seed, value):
    """Predict, generate, emit and update."""
    params, state, xs, ys = begin(seed, value)
    prior = MODEL.predict(params, state)
    emitted = MODEL.emit(MODEL.generate(params, prior.mean, state), xs[1])
    seen = MODEL.update(params, state, xs[1], ys[1], mask=seed == 1)
    return prior, emitted, seen.summary, seen.mean, seen.root


def rollout(seed, value):
    params, state, xs, ys = begin(seed, value)
    mask = jnp.arange(STEPS) != 2
    after, outputs = MODEL.rollout(params, jax.random.key(seed), xs, ys, state, samples=2, mask=mask)
    return after.mean, outputs._replace(log_prob=jnp.where(mask, outputs.log_prob, 0))


def loss(seed, value):
    params, state, xs, ys = begin(seed, value)
    total, aux = MODEL.loss(params, jax.random.key(seed), xs, ys, state, beta=value, predictive=value / 2)
    return total, aux.state.mean


def forecast(seed, value):
    params, state, xs, ys = begin(seed, value)
    ahead = lt.forecast(MODEL, params, jax.random.key(seed), state, xs[:2], samples=3, components=1)
    return ahead.samples, ahead.crps(ys[:2]), ahead.mean(), ahead.interval(0.5)


def metrics(seed, value):
    _, ys = inputs(seed)
    mean = spread((STEPS, 2, latent.Y), seed)
    variance = value + spread(mean.shape, seed + 1) ** 2
    scores = lt.metrics
    q = jnp.asarray([0.1, 0.6])
    quantiles = scores.quantile(mean, variance, q)
    return (
        *(score(ys, mean, variance) for score in (scores.nll, scores.crps, scores.pit)),
        *(quantiles, scores.interval(mean, variance, 0.8), scores.weighted_quantile_loss(ys, quantiles, q)),
        *(scores.mase(ys, mean[:, 0], ys), scores.energy_score(ys, jnp.swapaxes(mean, 0, 1))),
    )


KERNELS = {f.__name__: f for f in (step, rollout, loss, forecast, metrics)}


@functools.cache
def compiled(name):
    """Traced once, or an error."""
    return jax.jit(chex.assert_max_traces(KERNELS[name], n=1))


@functools.cache
def lanes(name):
    with jax.enable_x64(True):
        return [compiled(name)(seed, value) for seed, value in zip(SEEDS, VALUES, strict=True)]


def assert_lanes(came, name):
    for index in range(len(SEEDS)):
        for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(lanes(name)[index]), strict=True):
            assert dense.relative_error(a[index], b) < 1e-9


def total(tree):
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(tree))


def assert_slope(name, slope):
    if name == "loss":
        return  # its state is cut off from the gradient: see below
    difference = dense.finite_difference(lambda at: float(total(compiled(name)(SEEDS[1], at))), VALUES[1], 1e-4)
    assert slope != 0
    assert abs(slope - difference) < 1e-6 * max(1, abs(difference))


@pytest.mark.parametrize("name", fast(KERNELS, "step", "loss", "forecast", "metrics"))
def test_all_together(name):
    """A scan of a vmap of values and their gradients, in one program."""

    def both(seed, value):
        came = KERNELS[name](seed, value)
        return total(came), came

    graded = jax.vmap(jax.value_and_grad(both, 1, has_aux=True))
    scanned = jax.jit(lambda *args: jax.lax.scan(lambda _, lane: (None, graded(*lane)), None, args)[1])
    (_, came), slopes = jax.tree.map(lambda leaf: leaf[0], scanned(SEEDS[None], VALUES[None]))
    assert_lanes(came, name)
    assert_slope(name, slopes[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_vmap(name):
    assert_lanes(jax.jit(jax.vmap(KERNELS[name]))(SEEDS, VALUES), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_scan(name):
    came = jax.jit(lambda *args: jax.lax.scan(lambda c, a: (c, KERNELS[name](*a)), 0, args)[1])(SEEDS, VALUES)
    assert_lanes(came, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_grad(name):
    value, slope = jax.jit(jax.value_and_grad(lambda value: total(KERNELS[name](SEEDS[1], value))))(VALUES[1])
    assert dense.relative_error(value, total(lanes(name)[1])) < 1e-9
    assert_slope(name, slope)


@pytest.mark.slow
def test_gradient_of_the_loss_in_its_parameters():
    params, state, xs, ys = begin(1, 0.7)
    direction = latent.params(MODEL, 3)

    @jax.jit
    def value(step):
        moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
        return MODEL.loss(moved, jax.random.key(0), xs, ys, state, beta=0.7)[0]

    assert abs(jax.grad(value)(0.0) - dense.finite_difference(lambda at: float(value(at)), 0.0, 1e-4)) < 1e-6
    slope = jax.grad(lambda state: MODEL.loss(params, jax.random.key(0), xs, ys, state)[0], allow_int=True)(state)
    assert jnp.all(slope.summary == 0) and jnp.all(slope.mean == 0)


@pytest.mark.slow
def test_plain_calls():
    for name, kernel in KERNELS.items():
        for a, b in zip(jax.tree.leaves(kernel(SEEDS[1], VALUES[1])), jax.tree.leaves(lanes(name)[1]), strict=True):
            assert dense.relative_error(a, b) < 1e-9
