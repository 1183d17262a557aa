"""Single targets missing, examples of several counts, steps of their own noise: against the same data spelt out."""

import functools
import itertools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from suites import fast

import lowrank_filter as lf

pytestmark = pytest.mark.usefixtures("x64")

IN, OUT, B = 3, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, IN))
MASK = RNG.uniform(size=(B, OUT)) < 0.6
MASK[1] = False  # an example of which nothing was seen
LIKELIHOODS = {
    "gaussian scalar": (lf.Gaussian(0.3), RNG.normal(size=(B, OUT))),
    "gaussian vector": (lf.Gaussian(jnp.asarray([0.1, 0.2, 0.3, 0.4])), RNG.normal(size=(B, OUT))),
    "bernoulli": (lf.Bernoulli(), RNG.integers(0, 2, (B, OUT)).astype(float)),
    "poisson": (lf.Poisson(), RNG.integers(0, 30, (B, OUT)).astype(float)),
    "heteroscedastic": (lf.HeteroscedasticGaussian(), RNG.normal(size=(B, OUT // 2))),
}


def network(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


def start():
    rng = np.random.default_rng(1)
    params = {"w": jnp.asarray(rng.normal(size=(IN, OUT))), "b": jnp.asarray(rng.normal(size=OUT))}
    return lf.init(params, 1.5, rank=B * OUT)


def update(belief, likelihood, x, y, **options):
    belief, info = lf.update(belief, network, likelihood, x, y, health=True, iterations=0, **options)
    return belief, info._replace(health=info.health._replace(condition=0.0))


def laplace(belief, likelihood, x, y, **options):
    params = jax.tree.map(lambda leaf: leaf + 0.1, belief.mean)
    return lf.laplace_update(belief, params, network, likelihood, x, y, batch_size=2, **options)


def fitted(belief, likelihood, x, y, **options):
    return lf.fit(belief, network, likelihood, x, y, optimizer=optax.sgd(1e-3), steps=3, **options)


KERNELS = {"update": update, "laplace_update": laplace, "fit": fitted}


@functools.partial(jax.jit, static_argnames="kernel")
def run(kernel, belief, likelihood, x, y, **options):
    return KERNELS[kernel](belief, likelihood, x, y, **options)


def picture(out):
    """What does not depend on the order of a factor's columns."""
    belief, info = out
    if not isinstance(belief, lf.Belief):
        return belief, info
    matrices = [jax.tree.map(lambda d, w: d + jnp.sum(w * w, axis=0), *p) for p in (belief.precision, info.site)]
    return belief.mean, matrices, lf.logdet(belief.precision), info.log_evidence, info.loss


def assert_same(came, expected):
    for a, b in zip(jax.tree.leaves(picture(came)), jax.tree.leaves(picture(expected)), strict=True):
        assert dense.relative_error(a, b) < 1e-9


@pytest.mark.parametrize(
    ("name", "kernel"),
    fast(
        itertools.product(LIKELIHOODS, KERNELS),
        ("gaussian vector", "update"),
        ("bernoulli", "laplace_update"),
        ("poisson", "fit"),
        ("heteroscedastic", "update"),
    ),
)
def test_missing_targets(name, kernel):
    """What stands in their place is nothing, and the rest is the sum over one target at a time."""
    likelihood, y = LIKELIHOODS[name]
    mask = MASK[:, : y.shape[1]]
    came = run(kernel, start(), likelihood, X, np.where(mask, y, np.nan), mask=mask)
    if kernel != "update":
        other = run(kernel, start(), likelihood, X, np.where(mask, y, 1.0), mask=mask)
        assert_same(came, other)
        return
    # One column of A for each target that was seen, of the network that has it as its only output.
    outputs = jax.vmap(likelihood.root)(network(start().mean, X), y)
    columns = np.asarray(jax.jit(jax.jacobian(lambda p: network(p, X)))(start().mean)["b"])
    seen = np.tile(mask, (1, OUT // y.shape[1]))
    information = np.einsum("bcp,bcr,br->p", columns**2, np.asarray(outputs) ** 2, seen)
    site = came[1].site
    assert dense.relative_error(site.diag["b"] + np.sum(site.factor["b"] ** 2, axis=0), information) < 1e-9
    assert came[1].health.residuals == seen.sum()
    loss = np.sum(np.asarray(jax.vmap(likelihood.terms)(network(start().mean, X), y)) * mask)
    assert dense.relative_error(came[1].loss, loss) < 1e-9
    assert came[1].invalid == 0


def test_missing_targets_of_a_linear_model_are_those_of_the_others():
    """Two outputs with parameters of their own: a missing target is an example less for one of them."""
    y = RNG.normal(size=(B, 2))
    mask = np.array([[1, 1], [1, 0], [0, 0], [0, 1], [1, 1]], bool)
    start = np.random.default_rng(1).normal(size=(IN, 2))  # at 0 a missing target would be its own prediction
    prior = lf.init(jnp.asarray(start), rank=2 * B)
    both = jax.jit(lambda y: lf.update(prior, lambda p, x: x @ p, lf.Gaussian(0.3), X, y, mask=mask))
    after, info = both(np.where(mask, y, np.inf))
    evidence = 0.0
    for output in range(2):
        rows = X[mask[:, output]]
        residual = y[mask[:, output], output] - rows @ start[:, output]
        mean, _ = dense.update(start[:, output], np.eye(IN), rows, np.eye(len(rows)) / 0.3, -residual / 0.3)
        assert dense.relative_error(after.mean[:, output], mean) < 1e-9
        covariance = 0.3 * np.eye(len(rows)) + rows @ rows.T
        evidence += dense.gaussian_log_density(residual, covariance)
    assert dense.relative_error(info.log_evidence, evidence) < 1e-9


@pytest.mark.parametrize(
    ("kernel", "structure"),
    fast(
        itertools.product(KERNELS, ["network", "kronecker"]),
        ("update", "network"),
        ("laplace_update", "network"),
        ("laplace_update", "kronecker"),
        ("fit", "network"),
    ),
)
def test_an_example_of_weight_two_is_there_twice(kernel, structure):
    likelihood, y = LIKELIHOODS["bernoulli"]
    weights = np.array([1, 2, 0, 1, 3])
    repeated = np.repeat(np.arange(B), weights)
    belief = start() if structure == "network" else lf.init(start().mean, 1.5, structure="kronecker")
    came = run(kernel, belief, likelihood, X, y, weights=weights)
    expected = run(kernel, belief, likelihood, X[repeated], y[repeated])
    if structure == "network":
        assert_same(came, expected)
    else:
        means = [out[0].mean if isinstance(out[0], lf.Belief) else out[0] for out in (came, expected)]
        for a, b in zip(*map(jax.tree.leaves, means), strict=True):
            assert dense.relative_error(a, b) < 1e-9
        if kernel == "laplace_update":
            assert dense.relative_error(came[1].log_evidence, expected[1].log_evidence) < 1e-9


def test_a_stream_with_steps_of_their_own():
    """Noise and decay for each step, weights and a mask of single targets, against the kernels one by one."""
    likelihood, y = LIKELIHOODS["gaussian scalar"]
    noise, decay = RNG.uniform(0.01, 0.1, B), {"w": RNG.uniform(0.5, 1, B), "b": 0.9}
    weights = RNG.uniform(0.5, 2, B)
    built = lf.extended_filter(network, likelihood, rank=4, iterations=0)
    options = {"mask": MASK, "weights": weights, "process_noise": noise, "transition": decay}
    came, stream = jax.jit(lambda: lf.filter_stream(built, built.init(start().mean), X, y, **options))()
    belief = built.init(start().mean)
    one = jax.jit(lf.predict)
    for t in range(B):
        belief = one(belief, noise[t], {"w": decay["w"][t], "b": 0.9})
        belief, info = built.update(belief, X[t : t + 1], y[t : t + 1], MASK[t : t + 1], weights[t : t + 1])
        assert dense.relative_error(stream.info.log_evidence[t], info.log_evidence) < 1e-9
    for a, b in zip(jax.tree.leaves(came.mean), jax.tree.leaves(belief.mean), strict=True):
        assert dense.relative_error(a, b) < 1e-9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": np.ones((B, 2), bool)}, "mask: expected shape"),
        ({"mask": np.ones(B - 1, bool)}, "mask: expected shape"),
        ({"weights": np.ones(B - 1)}, "weights: expected shape"),
        ({"weights": -np.ones(B)}, "weights: expected non-negative"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lf.update(start(), network, *LIKELIHOODS["bernoulli"][:1], X, LIKELIHOODS["bernoulli"][1], **options)


@pytest.mark.parametrize("likelihood", [lf.Categorical(), lf.Gaussian(jnp.eye(OUT))])
def test_targets_that_depend_on_each_other_have_one_mask(likelihood):
    y = np.zeros(B, int) if isinstance(likelihood, lf.Categorical) else np.zeros((B, OUT))
    with pytest.raises(ValueError, match="not independent given the outputs"):
        lf.update(start(), network, likelihood, X, y, mask=MASK)


def test_noise_of_another_number_of_steps_is_refused():
    built = lf.extended_filter(network, lf.Gaussian(0.3), rank=2)
    with pytest.raises(ValueError, match="stacked along T = 5"):
        lf.filter_stream(built, built.init(start().mean), X, np.zeros((B, OUT)), process_noise=np.ones(B + 1))
