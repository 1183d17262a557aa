"""The guarded update: the MAP of the linearised network, steps that stay in their region, and what ``info`` tells."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import LIKELIHOODS, B, problem
from scipy.stats import chi2

import lowrank_filter as lf
from lowrank_filter.algebra.diag_low_rank import with_policy
from lowrank_filter.kernels.examples import Batch
from lowrank_filter.kernels.expansion import expand
from lowrank_filter.kernels.line_search import line_search
from lowrank_filter.kernels.output_posterior import output_posterior


@functools.partial(jax.jit, static_argnums=(1,), static_argnames=("rank", "iterations"))
def update(belief, apply_fn, likelihood, x, y, rank=None, **options):
    return lf.update(with_policy(belief, rank=rank), apply_fn, likelihood, x, y, **options)


def linear(params, x):
    return x @ params["w"]


def start(inputs=1, outputs=1, precision=1.0):
    return lf.init({"w": jnp.zeros((inputs, outputs))}, precision, rank=2)


def dense_map(belief, apply_fn, likelihood, x, y):
    """argmin of the linearised network's penalised loss by gradient steps in the precision of a root, and P there."""
    prior = dense.matrix(*belief.precision)
    outputs = np.asarray(apply_fn(belief.mean, x))
    jacobian = np.asarray(jax.jit(jax.jacobian(apply_fn))(belief.mean, x)).reshape(outputs.size, -1)
    loss = jax.jit(lambda f: jnp.sum(jax.vmap(likelihood.nll)(f, y)))
    slope = jax.jit(jax.grad(loss))
    roots = jax.jit(lambda f: jax.vmap(likelihood.root)(f, y))
    shift = np.zeros(len(prior))

    def at(shift):
        return outputs + (jacobian @ shift).reshape(outputs.shape)

    def objective(shift):
        return float(loss(at(shift))) + 0.5 * shift @ prior @ shift

    for _ in range(300):
        root = np.asarray(roots(at(shift)))
        posterior = prior + jacobian.T @ dense.block_diagonal(root @ root.transpose(0, 2, 1)) @ jacobian
        gradient = jacobian.T @ np.asarray(slope(at(shift))).ravel() + prior @ shift
        step, t = np.linalg.solve(posterior, gradient), 1.0
        while objective(shift - t * step) > objective(shift) and t > 1e-9:
            t /= 2
        shift = shift - t * step
    return np.asarray(belief.mean) + shift, posterior, -objective(shift), gradient


def surprise(prior, apply_fn, likelihood, mean, x, y):
    """1 − 2 P(less probable), by loops over labels; χ² of the innovation for what is no label."""
    outputs = np.asarray(apply_fn(mean, x))
    jacobian = np.asarray(jax.jit(jax.jacobian(apply_fn))(mean, x)).reshape(outputs.size, -1)
    covariance = jacobian @ np.linalg.solve(prior, jacobian.T)
    if not likelihood.classes:
        root = dense.block_diagonal(np.asarray(jax.jit(jax.vmap(likelihood.root))(outputs, y)))
        u = np.asarray(jax.jit(jax.vmap(likelihood.whitened_score))(outputs, y)).ravel()
        return 1 - 2 * chi2.sf(u @ np.linalg.solve(np.eye(len(u)) + root.T @ covariance @ root, u), len(u))
    found = []
    wide = outputs / np.sqrt(1 + np.pi / 8 * np.diag(covariance).reshape(outputs.shape))
    for p, label in zip(np.asarray(jax.jit(jax.vmap(likelihood.moments))(wide)[0]), np.asarray(y), strict=True):
        for of_each, own in (
            [(p, label)] if label.ndim == 0 else [((1 - q, q), int(one)) for q, one in zip(p, label, strict=True)]
        ):
            below = sum(q for q in of_each if q < of_each[own]) + 0.5 * sum(q for q in of_each if q == of_each[own])
            found.append(1 - 2 * below)
    return np.mean(found)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "name",
    [
        name if name == "categorical" else pytest.param(name, marks=pytest.mark.slow)
        for name in LIKELIHOODS
        if name != "heteroscedastic"
    ],
)
def test_the_map_of_the_linearised_network(name):
    belief, apply_fn, likelihood, x, y = problem(name, 2)
    mean, posterior, value, gradient = dense_map(belief, apply_fn, likelihood, x, y)
    assert np.abs(gradient).max() < 1e-6
    updated, info = update(belief, apply_fn, likelihood, x, y, rank=2 + B * 4)
    assert dense.relative_error(info.outputs, apply_fn(belief.mean, x)) < 1e-12
    step = np.asarray(updated.mean - belief.mean)
    assert dense.relative_error(step, float(info.step_size) * (mean - np.asarray(belief.mean))) < 1e-5
    assert dense.relative_error(dense.matrix(*updated.precision), posterior) < 1e-5
    prior = dense.matrix(*belief.precision)
    if not likelihood.discrete:  # Laplace's approximation
        evidence = value + 0.5 * (dense.logdet(prior) - dense.logdet(posterior))
        assert dense.relative_error(info.log_evidence, evidence) < 1e-5
    assert not info.diverged
    expected = surprise(prior, apply_fn, likelihood, belief.mean, x, y)
    assert abs(info.surprise - expected) < (1e-9 if likelihood.classes else 0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_gradient_through_the_gaussian_nearest_to_a_posterior():
    """Where rounds converge fast and where they are slow, to what the search leaves: it ends where rounding hides that
    the objective falls, √eps from where it is least."""
    rng = np.random.default_rng(1)
    outputs, y, root = rng.normal(size=(2, 2)), rng.normal(size=(2, 1)), rng.normal(size=(4, 4))
    here = jnp.ones(2, bool)

    def at(outputs, spread):
        return expand(lf.HeteroscedasticGaussian(), outputs, Batch(None, y, here, here), here, 1.0, None, spread)

    @jax.jit
    def value(t, scale):
        covariance = scale * (1 + t) * jnp.asarray(root @ root.T / 2 + 0.1 * np.eye(4))
        a, spread = output_posterior(at, outputs * (1 + t), covariance)
        return jnp.sum(jnp.sin(a)) + jnp.sum(jnp.cos(spread))

    slope = jax.jit(jax.grad(value))
    for scale in (0.1, 10.0):
        expected = dense.finite_difference(lambda t, scale=scale: value(t, scale), 0.0, 1e-3)
        assert dense.relative_error(slope(0.0, scale), expected) < 1e-5


@pytest.mark.usefixtures("x64")
def test_the_gaussian_nearest_to_a_posterior_of_unknown_noise():
    """a = −E ∇ℓ and P⁺ = P + Jᵀ(E H)J under the outputs' own posterior; the expectations by quadrature."""
    belief, apply_fn, likelihood, x, y = problem("heteroscedastic", 2)
    updated, info = update(belief, apply_fn, likelihood, x, y, rank=2 + B * 4)
    assert info.step_size == 1
    prior, posterior = dense.matrix(*belief.precision), dense.matrix(*updated.precision)
    step = np.asarray(updated.mean - belief.mean)
    outputs = np.asarray(apply_fn(belief.mean, x))
    jacobian = np.asarray(jax.jit(jax.jacobian(apply_fn))(belief.mean, x))
    covariance = np.linalg.inv(posterior)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    grid = np.stack(np.meshgrid(*[nodes] * 4), -1).reshape(-1, 4)
    weights = np.stack(np.meshgrid(*[weights / weights.sum()] * 4), -1).reshape(-1, 4).prod(1)
    slope, hessian, loss = np.zeros(len(step)), np.zeros_like(prior), 0.0
    gradient = jax.jit(jax.vmap(jax.value_and_grad(likelihood.nll), (0, None)))
    for f, j, target in zip(outputs, jacobian, np.asarray(y), strict=True):
        points = f + j @ step + grid @ np.linalg.cholesky(j @ covariance @ j.T).T
        losses, slopes = gradient(jnp.asarray(points), jnp.asarray(target))
        loss += weights @ np.asarray(losses)
        slope += j.T @ (weights @ np.asarray(slopes))
        hessian += j.T @ np.diag([*(weights @ np.exp(-points[:, 2:])), 0.5, 0.5]) @ j
    assert np.abs(prior @ step + slope).max() < 1e-4 * np.abs(slope).max()
    assert dense.relative_error(posterior, prior + hessian) < 1e-5
    divergence = 0.5 * (step @ prior @ step + np.trace(prior @ covariance) - len(prior))
    divergence += 0.5 * (dense.logdet(posterior) - dense.logdet(prior))
    assert dense.relative_error(info.log_evidence, -loss - divergence) < 1e-5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [pytest.param("gaussian", marks=pytest.mark.slow), "categorical"])
def test_iterations_approach_the_map_of_the_network(name):
    belief, apply_fn, likelihood, x, y = problem(name, 2)

    def loss(params):
        return jnp.sum(jax.vmap(likelihood.nll)(apply_fn(params, x), y)) + lf.penalty(belief, params)

    slopes = []
    for iterations in (1, 6):
        updated, info = update(belief, apply_fn, likelihood, x, y, iterations=iterations)
        mean = updated.mean
        assert dense.relative_error(info.outputs, apply_fn(belief.mean, x)) < 1e-12
        slopes.append(float(jnp.linalg.norm(jax.grad(loss)(mean))))
    assert slopes[1] < 0.3 * slopes[0]


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_gradient_goes_through_the_map():
    belief, apply_fn, likelihood, x, y = problem("categorical", 2)

    def total(noise):
        updated, info = lf.update(belief, apply_fn, likelihood, x, y, process_noise=noise)
        return info.log_evidence + jnp.sum(jnp.sin(updated.mean))

    slope = jax.jit(jax.grad(total))(0.3)
    assert abs(slope - dense.finite_difference(jax.jit(total), 0.3, 1e-4)) < 1e-6 * abs(slope)


def test_one_count_of_a_thousand():
    updated, info = update(start(), linear, lf.Poisson(), jnp.ones((1, 1)), jnp.asarray([[1000.0]]))
    assert abs(float(updated.mean["w"][0, 0]) - 6.90082) < 1e-4  # θ = 1000 − exp θ
    assert not info.diverged
    assert info.log_evidence < 0


# A surprising example, and then two hundred ordinary ones.
SHOCKS = {
    "a count of a thousand": (lf.Poisson(), 1, [1000.0], [1.0]),
    "a thousand standard deviations": (lf.HeteroscedasticGaussian(), 2, [1e3], [0.5]),
    "a label that was impossible": (lf.Bernoulli(), 1, [0.0], [1.0]),
}


@pytest.mark.slow  # a count of a thousand is one step above; the streams below are guarded too
@pytest.mark.parametrize("name", SHOCKS)
def test_recovers_from_a_shock(name):
    likelihood, outputs, shock, usual = SHOCKS[name]
    rng = np.random.default_rng(0)

    def net(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"] + params["c"]

    params = {
        "a": jnp.asarray(rng.normal(size=(3, 8)), jnp.float32),
        "b": jnp.zeros((8, outputs)),
        "c": jnp.zeros(outputs),
    }
    x = np.asarray(rng.normal(size=(601, 3)), np.float32)
    y = np.tile(np.asarray(usual, np.float32), (601, 1))
    y[300] = shock
    filter = lf.extended_filter(net, likelihood, rank=4, process_noise=1e-4)
    belief, steps = jax.jit(lambda b: lf.filter_stream(filter, b, x, y))(filter.init(params))
    loss = np.asarray(steps.info.loss)
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(belief)])).all()
    assert not steps.info.invalid.any()
    assert loss[300] > loss[500:].max() + 2
    assert loss[500:].mean() < loss[250:300].mean() + 0.5


@pytest.mark.slow
def told(surprise, steps=20):
    """Where the mean over the last steps is above three standard errors of a uniform law on [−1, 1]."""
    return np.convolve(np.asarray(surprise), np.ones(steps) / steps)[: len(surprise)] > np.sqrt(3 / steps)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_digits_are_told_within_twenty_steps(seed):
    """And nothing else in a stream of 1,297 is."""
    from benchmarks import defaults  # noqa: PLC0415  of no other test

    x, y, _, _ = defaults.split(jax.random.key(seed))
    model = defaults.mlp(jax.nn.relu, 64, 50, 50, 10)
    built = lf.extended_filter(model.apply, lf.Categorical())
    seen = np.array(y)
    seen[600:700] = np.random.default_rng(seed).permutation(seen[600:700])
    stream = jax.jit(lambda belief, y: lf.filter_stream(built, belief, x, y)[1].info.surprise)
    belief = built.init(model.initial(jax.random.key(seed)), x[:100])
    clean, shuffled = (told(stream(belief, labels)) for labels in (y, jnp.asarray(seen)))
    assert not clean.any()
    assert shuffled[600:620].any() and not shuffled[:600].any()


@pytest.mark.slow
def test_shuffled_labels_are_survived():
    """By default; ``info`` tells by its surprise: no step diverges, none has to be shortened."""
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=600)
    angle = 2 * np.pi * y / 3
    x = 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.7 * rng.normal(size=(600, 2))
    x, seen = x.astype(np.float32), y.copy()
    seen[250:350] = rng.permutation(y[250:350])
    params = {"a": jnp.asarray(rng.normal(size=(2, 8)), jnp.float32), "b": jnp.zeros((8, 3))}

    def net(params, x):
        return jnp.tanh(x @ params["a"]) @ params["b"]

    filter = lf.extended_filter(net, lf.Categorical(), rank=4)
    start = filter.init(params, x[:100])
    belief, steps = jax.jit(lambda b: lf.filter_stream(filter, b, x, seen))(start)
    right = np.argmax(steps.info.outputs[1:, 0], axis=1) == y[1:]
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(belief)])).all()
    assert right[150:249].mean() > 0.9
    assert right[450:].mean() > 0.9
    alarms = told(steps.info.surprise, 50)
    assert alarms[250:350].any() and not alarms[:250].any() and not alarms[400:].any()
    assert not steps.info.diverged.any() and not steps.info.invalid.any()


@pytest.mark.slow
def test_a_noise_that_depends_on_x():
    """Clean data, nothing chosen: a log score a tenth of a nat from the truth's after three hundred examples."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(600, 1)).astype(np.float32)
    deviation, noise = np.exp(0.7 * x - 0.5), rng.normal(size=x.shape)
    y = (np.sin(2 * x) + deviation * noise).astype(np.float32)
    truth = 0.5 * noise**2 + np.log(deviation) + 0.5 * np.log(2 * np.pi)
    params = {"a": jnp.asarray(rng.normal(size=(1, 16)), jnp.float32), "b": jnp.zeros(16), "c": jnp.zeros((16, 2))}

    def net(params, x):
        return jnp.tanh(x @ params["a"] + params["b"]) @ params["c"]

    filter = lf.extended_filter(net, lf.HeteroscedasticGaussian(), rank=10)
    _, steps = jax.jit(lambda b: lf.filter_stream(filter, b, x, y))(filter.init(params, x[:100]))
    assert abs(np.mean(steps.info.log_evidence[300:]) + truth[300:].mean()) < 0.1
    assert not steps.info.diverged.any()


@functools.partial(jax.jit, static_argnames="rank")
def step(belief, x, y, rank=2):
    return lf.update(with_policy(belief, rank=rank), linear, lf.Gaussian(1.0), x, y, process_noise=0.1)


def test_a_belief_that_is_not_finite():
    """Refused where it is seen, told apart from bad data where it is not."""
    belief = start()._replace(mean={"w": jnp.full((1, 1), jnp.nan)})
    x, y = jnp.ones((1, 1)), jnp.ones((1, 1))
    with pytest.raises(ValueError, match=r"belief.mean.*expected finite"):
        lf.update(belief, linear, lf.Gaussian(1.0), x, y)
    updated, info = step(belief, x, y)
    assert info.diverged
    assert info.invalid == 0
    assert np.isnan(updated.mean["w"]).all()


def test_bad_data_are_no_divergence():
    updated, info = step(start(), jnp.full((1, 1), jnp.nan), jnp.ones((1, 1)))
    assert info.invalid == 1
    assert not info.diverged
    assert np.isfinite(updated.mean["w"]).all()


def test_what_cannot_be_taken_leaves_the_predicted_belief():
    """A step that ends where numbers overflow."""

    def explosive(params, x):
        return jnp.where(params["w"] == 0, 0.0, jnp.nan) * x + params["w"] * x

    belief = start()
    updated, info = jax.jit(lambda b, x, y: lf.update(b, explosive, lf.Gaussian(1.0), x, y, process_noise=0.5))(
        belief, jnp.ones((1, 1)), jnp.ones((1, 1))
    )
    expected = lf.predict(belief, 0.5)
    assert info.diverged
    assert info.invalid == 0
    np.testing.assert_array_equal(updated.mean["w"], expected.mean["w"])
    np.testing.assert_array_equal(updated.precision.diag["w"], expected.precision.diag["w"])
    np.testing.assert_array_equal(info.site.diag["w"], 0)


def test_a_network_that_bends_is_guarded():
    """From a wide prior the whole step would raise the penalised loss."""

    def bent(params, x):
        return 10 * jnp.sin(params["w"] * x)

    belief = start(precision=1e-4)
    x, y, likelihood = jnp.ones((1, 1)), jnp.full((1, 1), 45.0), lf.Gaussian(1.0)
    updated, info = update(belief, bent, likelihood, x, y)
    plain, _ = update(belief, bent, likelihood, x, y, iterations=0)

    def loss(b):
        return likelihood.nll(bent(b.mean, x)[0], y[0]) + lf.penalty(belief, b.mean)

    assert info.step_size < 1
    assert loss(updated) < loss(belief) < loss(plain)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_halved_until_the_penalised_loss_falls(seed):
    """Between two points that are both away from the prior's mean, as in an update's second linearisation."""
    start, step, target = np.random.default_rng(seed).normal(size=(3, 3))
    end = start + 6 * step

    def loss(point):
        return jnp.sum((point - target) ** 4)

    products = start @ start, start @ end, end @ end
    arguments = jnp.asarray(loss(start)), jnp.asarray(start), jnp.asarray(end), tuple(map(jnp.asarray, products))
    point, length, distance, found = line_search(loss, *arguments)
    lengths = 0.5 ** np.arange(25)
    points = start + lengths[:, None] * (end - start)
    penalised = np.sum((points - target) ** 4, axis=1) + 0.5 * np.sum(points**2, axis=1)
    fell = penalised <= float(loss(start)) + 0.5 * start @ start
    assert bool(found) == fell.any()
    if fell.any():
        assert length == lengths[fell.argmax()]
    np.testing.assert_allclose(point, start + length * (end - start), rtol=1e-12)
    np.testing.assert_allclose(distance, point @ point, rtol=1e-12)
