"""A prior precision that is the network's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import datasets
from suites import fast

import lowrank_filter as lf

PARAMS = {"a": {"w": jnp.ones((3, 5)) / 3, "b": jnp.zeros(5)}, "c": {"w": jnp.ones((5, 2)) / 2}}
X = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)), jnp.float32)


def net(params, x):
    return jnp.tanh(x @ params["a"]["w"] + params["a"]["b"]) @ params["c"]["w"]


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_outputs_have_the_variance_asked_for(per_layer):
    belief = lf.init(PARAMS, lf.scaled(net, X, variance=3.0, per_layer=per_layer), rank=0)
    covariance = lf.predictive(belief, net, X).covariance
    assert abs(np.trace(covariance, axis1=1, axis2=2).mean() / 2 - 3.0) < 1e-4
    precisions = [np.unique(leaf) for leaf in jax.tree.leaves(belief.precision.diag)]
    assert all(len(values) == 1 for values in precisions)
    assert (precisions[0] == precisions[1]).all()
    assert (precisions[0] == precisions[2]).all() != per_layer


def test_a_slope_that_ends_at_once_is_not_believed():
    """That of a normalisation where there is nothing to normalise: it would hold all others to its own precision."""

    def steep(params, x):
        blank = params["blank"]
        return net(params["net"], x) + 0.05 * blank / jnp.sqrt(blank**2 + 1e-10)

    params = {"net": PARAMS, "blank": jnp.zeros(2)}
    came = lf.init(params, lf.scaled(steep, X, variance=3.0), rank=0).precision.diag
    alone = lf.init(PARAMS, lf.scaled(net, X, variance=3.0), rank=0).precision.diag
    # Its slope has a square of 2.5·10⁷; what it does move an output by, .05, is a thousandth of the variance.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01), came["net"], alone)
    assert (
        jax.grad(lambda v: lf.init(params, lf.scaled(steep, X, variance=v), rank=0).precision.diag["blank"][0])(3.0) < 0
    )


def test_a_filter_takes_it_by_itself():
    filter = lf.extended_filter(net, lf.Categorical(), rank=1)
    expected = lf.init(PARAMS, lf.scaled(net, X), rank=1)
    jax.tree.map(np.testing.assert_array_equal, filter.init(PARAMS, X), expected)
    jax.tree.map(np.testing.assert_array_equal, filter.init(PARAMS), lf.init(PARAMS, rank=1))
    given = lf.extended_filter(net, lf.Categorical(), rank=1, precision=2.0)
    jax.tree.map(np.testing.assert_array_equal, given.init(PARAMS, X), lf.init(PARAMS, 2.0, rank=1))
    bernoulli = lf.extended_filter(net, lf.Bernoulli(), rank=1).init(PARAMS, X).precision.diag
    narrower = jax.tree.map(lambda leaf: leaf * 10 / (np.pi**2 / 3), lf.init(PARAMS, lf.scaled(net, X)).precision.diag)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), bernoulli, narrower)
    kronecker = lf.extended_filter(net, lf.Categorical(), structure="kronecker").init(PARAMS, X)
    expected = lf.init(PARAMS, lf.scaled(net, X), structure="kronecker")
    jax.tree.map(np.testing.assert_array_equal, kronecker, expected)


class Wide(lf.Gaussian):
    """Says for itself how far its outputs vary, with targets and without."""

    prior_variance = 40.0
    prior_variance_with_targets = 4.0


def test_a_likelihood_says_its_prior_variance():
    y = np.asarray(X[:, :2])
    for likelihood, without, with_targets in [
        (lf.Gaussian(1.0), 10, 1),
        (Wide(1.0), 40, 4),
        (lf.HeteroscedasticGaussian(), 10, 10),
        (lf.Bernoulli(), np.pi**2 / 3, np.pi**2 / 3),
    ]:
        assert lf.scaled(net, X, likelihood=likelihood).variance == without
        assert lf.scaled(net, X, y, likelihood=likelihood).variance == with_targets
    assert lf.scaled(net, X).variance == 10 and lf.scaled(net, X, variance=3.0).variance == 3.0


def test_traced():
    diag = jax.jit(lambda p, x, v: lf.init(p, lf.scaled(net, x, variance=v), rank=0).precision.diag)(PARAMS, X, 3.0)
    expected = lf.init(PARAMS, lf.scaled(net, X, variance=3.0), rank=0).precision.diag
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), diag, expected)


def test_parameters_that_the_outputs_do_not_see():
    belief = lf.init(PARAMS, lf.scaled(lambda p, x: x[:, :2], X), rank=0)
    np.testing.assert_array_equal(belief.precision.diag["a"]["w"], 1)


def test_a_rank_that_is_not_given_is_ten():
    assert lf.init(PARAMS).precision.rank == 10
    built = lf.extended_filter(net, lf.Categorical())
    belief, _ = built.step(built.init(PARAMS, X), X[:2], jnp.zeros(2, int))
    assert belief.precision.rank == 10
    assert lf.init(PARAMS, structure="kronecker").precision.rank == 0


@pytest.mark.parametrize("per_layer", [False, True])
def test_parameters_in_float32_where_float64_is_on(per_layer):
    expected = lf.init(PARAMS, lf.scaled(net, X, per_layer=per_layer), rank=0).precision.diag
    with jax.enable_x64(True):
        came = lf.init(PARAMS, lf.scaled(net, np.float64(X), per_layer=per_layer), rank=0).precision.diag
    assert {leaf.dtype for leaf in jax.tree.leaves(came)} == {np.dtype("float32")}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), came, expected)


RAW = np.random.default_rng(1).normal([150.0, -2.0], [77.0, 0.1], size=(7, 2)).astype(np.float32)
WITH_BIAS = PARAMS | {"c": PARAMS["c"] | {"b": jnp.zeros(2)}}


def biased(params, x):
    return net(params, x) + params["c"]["b"]


def smooth_net(params, x):
    return 30 * jnp.tanh(biased(params, x) / 30)


@pytest.mark.parametrize("per_layer", fast([False, True], True))
def test_targets_bring_their_units(per_layer):
    """A layer of two outputs takes a variance of its own for each, its bias the shift too, the layer before neither."""
    likelihood, options = lf.Gaussian(1.0), {"per_layer": per_layer}
    base = lf.init(WITH_BIAS, lf.scaled(biased, X, variance=1.0, **options), rank=0).precision.diag
    came = lf.init(WITH_BIAS, lf.scaled(biased, X, RAW, likelihood=likelihood, **options), rank=0).precision.diag
    residual = RAW - np.asarray(biased(WITH_BIAS, X))
    shift, variance = residual.mean(0), residual.var(0)
    expected = {
        "a": base["a"],
        "c": {"w": base["c"]["w"] / variance, "b": 1 / (variance / base["c"]["b"] + shift**2)},
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), came, expected)


def test_targets_without_a_bias_or_a_last_layer():
    """The shift is variance where nothing can take it alone; all parameters are in the targets' units where no leaf
    enters linearly."""
    likelihood = lf.Gaussian(1.0)
    square = ((RAW - np.asarray(net(PARAMS, X))) ** 2).mean(0)
    base = lf.init(PARAMS, lf.scaled(net, X, variance=1.0), rank=0).precision.diag
    came = lf.init(PARAMS, lf.scaled(net, X, RAW, likelihood=likelihood), rank=0).precision.diag
    np.testing.assert_allclose(came["c"]["w"], base["c"]["w"] / square, rtol=1e-4)
    np.testing.assert_array_equal(came["a"]["w"], base["a"]["w"])
    one, y = lambda params, x: smooth_net(params, x)[:, :1], RAW[:, :1]
    base = lf.init(WITH_BIAS, lf.scaled(one, X, variance=1.0), rank=0).precision.diag
    came = lf.init(WITH_BIAS, lf.scaled(one, X, y, likelihood=likelihood), rank=0).precision.diag
    square = ((y - np.asarray(one(WITH_BIAS, X))) ** 2).mean()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b / square, rtol=1e-4), came, base)


UNITS = {
    "gaussian": (lf.Gaussian(3.0), RAW, RAW.mean(0), RAW.var(0)),
    "constant": (lf.Gaussian(3.0), np.full((7, 2), 5.0), [5.0, 5.0], [25.0, 25.0]),
    "zero": (lf.Gaussian(3.0), np.zeros((7, 2)), [0.0, 0.0], [1.0, 1.0]),
    "heteroscedastic": (
        lf.HeteroscedasticGaussian(),
        RAW[:, :1],
        [RAW[:, 0].mean(), np.log(RAW[:, 0].var())],
        [RAW[:, 0].var(), 1.0],
    ),
    "poisson": (lf.Poisson(), np.abs(np.round(RAW)), np.log(np.abs(np.round(RAW)).mean(0)), [1.0, 1.0]),
    "no counts": (lf.Poisson(), np.zeros((7, 2)), np.log([0.5 / 7, 0.5 / 7]), [1.0, 1.0]),
    "bernoulli": (lf.Bernoulli(), np.ones((7, 2)), None, None),
    "categorical": (lf.Categorical(), np.ones(7, int), None, None),
}


@pytest.mark.parametrize("name", UNITS)
def test_what_targets_ask_of_outputs(name):
    """And an example that cannot be used asks nothing."""
    likelihood, y, shift, variance = UNITS[name]
    usable = jnp.arange(9) < 7
    y = jnp.asarray(np.concatenate([y, y[:2]]))
    if jnp.issubdtype(y.dtype, jnp.floating):
        y = y.at[7:].set(jnp.nan)
    found = likelihood.target_units(jnp.full((9, 2), 0.25), y, usable)
    if shift is None:
        assert found is None
        return
    np.testing.assert_allclose(found.shift, np.asarray(shift) - 0.25, rtol=1e-5, atol=1e-6)
    if name in ("constant", "zero"):
        variance = found.shift**2
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5)


def test_filters_take_a_first_batch_of_targets():
    likelihood = lf.Gaussian(1.0)
    built = lf.extended_filter(biased, likelihood, rank=1)
    expected = lf.init(WITH_BIAS, lf.scaled(biased, X, RAW, likelihood=likelihood), rank=1)
    same = lambda came: jax.tree.map(np.testing.assert_array_equal, came, expected)  # noqa: E731
    same(built.init(WITH_BIAS, X, RAW))
    same(lf.laplace_filter(biased, likelihood, optax.sgd(0.1), steps=1, rank=1).init(WITH_BIAS, X, RAW))
    same(lf.adaptive_filter(built).init(WITH_BIAS, X, RAW).belief)
    same(lf.changepoint_filter(built, 0.1).init(WITH_BIAS, X, RAW).prior)
    traced = jax.jit(built.init)(WITH_BIAS, X, RAW)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), traced, expected)
    given = lf.extended_filter(biased, likelihood, rank=1, precision=2.0)
    jax.tree.map(np.testing.assert_array_equal, given.init(WITH_BIAS, X, RAW), lf.init(WITH_BIAS, 2.0, rank=1))
    classes = lf.extended_filter(biased, lf.Categorical(), rank=1)
    args = [jax.tree.leaves(classes.init(WITH_BIAS, *batch)) for batch in ((X,), (X, np.zeros(7, int)))]
    jax.tree.map(np.testing.assert_array_equal, *args)
    with pytest.raises(ValueError, match=r"y: expected targets in the domain of Categorical with 2 outputs, got 3"):
        classes.init(WITH_BIAS, X, 1 + np.arange(7) % 2)
    with pytest.raises(ValueError, match=r"x: expected the inputs of y, got None; give init both"):
        built.init(WITH_BIAS, None, RAW)
    with pytest.raises(ValueError, match=r"y: expected a leading axis of 7 like x, got shape \(3, 2\)"):
        built.init(WITH_BIAS, X, RAW[:3])


def test_what_is_masked_out_does_not_choose_the_prior():
    """Of examples and of single targets, whatever stands there; in every filter, traced too."""
    mask = np.arange(7) % 3 > 0
    x, y = np.where(mask[:, None], X, np.nan), np.where(mask[:, None], RAW, 1e9)
    built = lf.extended_filter(biased, lf.Gaussian(1.0), rank=1)
    expected = built.init(WITH_BIAS, X[mask], RAW[mask])
    for came in (
        built.init(WITH_BIAS, x, y, mask),
        jax.jit(built.init)(WITH_BIAS, x, y, mask),
        lf.adaptive_filter(built).init(WITH_BIAS, x, y, mask).belief,
        lf.changepoint_filter(built, 0.1).init(WITH_BIAS, x, y, mask).prior,
    ):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), came, expected)
    labels = lf.extended_filter(biased, lf.Categorical(), rank=1)
    some = labels.init(WITH_BIAS, x, np.where(mask, 0, -1), mask)  # no label where there is none
    jax.tree.map(np.testing.assert_array_equal, some, labels.init(WITH_BIAS, x))
    with pytest.raises(ValueError, match=r"mask: expected shape \(7,\), got \(3,\); one boolean"):
        built.init(WITH_BIAS, X, mask=mask[:3])


@pytest.mark.parametrize("likelihood", [lf.Gaussian(1.0), lf.HeteroscedasticGaussian(), lf.Poisson()])
def test_targets_that_are_seen_by_turns_have_their_own_units(likelihood):
    def network(params, x):
        outputs = biased(params, x)
        return jnp.tile(outputs, 2) if isinstance(likelihood, lf.HeteroscedasticGaussian) else outputs

    counts = np.round(np.abs(RAW))
    turns = np.arange(len(X))[:, None] % 2 == np.arange(2)

    def diagonal(y, mask):
        prior = lf.scaled(network, X, y, mask=mask, likelihood=likelihood)
        return jax.tree.leaves(lf.init(WITH_BIAS, prior, rank=0).precision.diag)

    some = diagonal(np.where(turns, counts, 0), turns)
    for a, b, c, d in zip(
        some,
        diagonal(np.where(turns, counts, 1e6), turns),
        diagonal(counts, None),
        diagonal(counts, np.ones_like(turns)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(c, d, rtol=1e-5)
        assert (np.abs(np.log(a / c)) < np.log(10)).all()


# Share of the targets' variance that is noise; what the last half is to be explained of by default.
STREAMS = {"diabetes": (1.0, 0.5, 0.38), "diabetes, grams": (1e3, 0.5, 0.38), "friedman": (1.0, 0.1, 0.7)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrong"), [(n, w) for n in STREAMS for w in (1, 100, 0.01)])
def test_raw_targets(name, wrong):
    """Of any unit, nothing chosen but the noise; which is told where it is wrong."""
    unit, share, least = STREAMS[name]
    if name == "friedman":
        x, y = datasets.make_friedman1(1000, n_features=10, noise=1.0, random_state=0)
    else:
        x, y = datasets.load_diabetes(return_X_y=True)
        x = (x - x.mean(0)) / x.std(0)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    x, y = x[order].astype(np.float32), (unit * y[order]).astype(np.float32)
    width = x.shape[1]
    params = {
        "a": jnp.asarray(rng.normal(size=(width, 20)) / np.sqrt(width), jnp.float32),
        "b": jnp.zeros(20),
        "c": jnp.asarray(rng.normal(size=(20, 1)) / np.sqrt(20), jnp.float32),
        "d": jnp.zeros(1),
    }

    def apply_fn(params, x):
        return jax.nn.gelu(x @ params["a"] + params["b"]) @ params["c"] + params["d"]

    built = lf.extended_filter(apply_fn, lf.Gaussian(wrong * share * y.var()))
    start = built.init(params, x[:100], y[:100])
    _, steps = jax.jit(lambda belief: lf.filter_stream(built, belief, x, y))(start)
    half = len(y) // 2
    error = np.mean((np.asarray(steps.info.outputs[:, 0, 0]) - y)[half:] ** 2)
    surprise = np.mean(steps.info.surprise[half:])
    assert 1 - error / y[half:].var() > (least if wrong == 1 else least - 0.15)
    assert np.isfinite(steps.info.log_evidence).all() and not steps.info.diverged.any()
    assert {1: abs(surprise) < 0.2, 100: surprise < -0.6, 0.01: surprise > 0.7}[wrong]
