"""The rule for dtypes: parameters × data × x64, over all kernels and structures."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from suites import fast

import lowrank_filter as lf

RNG = np.random.default_rng(0)
VALUES = {"b": RNG.normal(size=2), "w": RNG.normal(size=(3, 2))}
X, Y = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 2))
STARTS = {
    "diagonal": lambda p: lf.init(p, rank=0),
    "network": lambda p: lf.init(p, rank=4),
    "unit": lambda p: lf.init(p, rank=2, structure="unit"),
    "kronecker": lambda p: lf.init(p, structure="kronecker"),
}
NARROW = ("bfloat16", "float16", "float32")
ALL = [(False, *pair) for pair in itertools.product(NARROW, NARROW)]
ALL += [(True, *pair) for pair in itertools.product((*NARROW, "float64"), repeat=2) if "float64" in pair]
CASES = fast(
    ((structure, *pair) for structure, pair in itertools.product(STARTS, ALL)),
    ("network", False, "bfloat16", "bfloat16"),
)
# One float32 case is what the others are held to; half precision rounds what comes in and what comes back.
TOLERANCE = {"bfloat16": 3e-2, "float16": 4e-3, "float32": 1e-4, "float64": 1e-4}


def net(params, x):
    return x @ params["w"] + params["b"]


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


@jax.jit
def kernels(belief, x, y):
    likelihood = lf.Gaussian(0.3)
    predicted = lf.predict(belief, 0.1, 0.9)
    updated, info = lf.update(predicted, net, likelihood, x, y)
    params, objective = lf.fit(belief, net, likelihood, x, y, optimizer=optax.sgd(0.01), steps=2)
    laplace, about = lf.laplace_update(predicted, params, net, likelihood, x, y)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), updated, laplace)
    sites = jax.tree.map(lambda *leaves: jnp.stack(leaves), info.site, about.site)
    smoothed = lf.smooth(stacked, sites, 0.1)
    built = lf.Filter(lambda p: belief, lambda b: lf.predict(b, 0.1), lambda b, x, y, mask: lf.update(
        b, net, likelihood, x, y, mask=mask, iterations=0
    ))  # fmt: skip
    streamed, _ = lf.filter_stream(built, belief, x, y)
    drawn = lf.sample(jax.random.key(0), belief, 2)
    solved = lf.solve(updated.precision, updated.mean)
    said = lf.predictive(updated, net, x)
    beliefs = (predicted, updated, laplace, streamed, jax.tree.map(lambda leaf: leaf[0], smoothed))
    numbers = (info.log_evidence, info.loss, about.log_evidence, objective, said, lf.logdet(updated.precision))
    return beliefs, (info.site, about.site), (params, drawn), numbers, solved, lf.penalty(belief, params)


def run(structure, parameters, data):
    params = jax.tree.map(lambda v: jnp.asarray(v, parameters), VALUES)
    belief = STARTS[structure](params)
    return belief, kernels(belief, jnp.asarray(X, data), jnp.asarray(Y, data))


@pytest.mark.parametrize(("structure", "x64", "parameters", "data"), CASES)
def test_every_pair(structure, x64, parameters, data):
    with jax.enable_x64(x64):
        belief, (beliefs, sites, likes, numbers, *_) = run(structure, parameters, data)
        for one in beliefs:
            assert dtypes(one) == dtypes(belief)
        for site in sites:
            assert dtypes(site) == dtypes(belief.precision)
        for tree in likes:
            assert dtypes(tree) == dtypes(belief.mean)
        wide = jnp.result_type(jnp.float32, parameters, data)
        assert all(dtype == wide for dtype in dtypes(numbers[:3] + numbers[4:5]))
        means = [jax.tree.map(lambda leaf: np.asarray(leaf, float), one.mean) for one in beliefs]
    with jax.enable_x64(False):
        reference = [one.mean for one in run(structure, "float32", "float32")[1][0]]
    tolerance = 4 * max(TOLERANCE[parameters], TOLERANCE[data])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance), means, reference)


@pytest.mark.parametrize("structure", fast(STARTS, "network"))
def test_mixed_leaves_and_a_network_of_its_own_width(structure):
    """Leaves of several dtypes, and outputs narrower than the parameters."""
    params = {"b": jnp.zeros(2, jnp.float16), "w": jnp.asarray(VALUES["w"], jnp.float32)}
    belief = STARTS[structure](params)
    for update in (
        lambda b, f: lf.update(b, f, lf.Gaussian(0.3), X, Y),
        lambda b, f: lf.laplace_update(b, b.mean, f, lf.Gaussian(0.3), X, Y),
    ):
        after, info = update(belief, lambda p, x: net(p, x).astype(jnp.bfloat16))
        assert dtypes(after) == dtypes(belief)
        assert info.log_evidence.dtype == jnp.float32
        assert jnp.isfinite(info.log_evidence)


LABELS = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64")


@pytest.mark.parametrize("dtype", fast(LABELS, "uint8"))
def test_labels_of_any_width(dtype):
    """256 classes do not fit into the dtype of uint8 labels, nor does a count of them."""
    classes = 256 if dtype != "int8" else 128
    belief = lf.init(jnp.zeros((1, classes)), rank=1)
    x, y = np.ones((3, 1), np.float32), np.array([0, classes // 2, classes - 1], dtype)
    model = lambda p, x: x @ p  # noqa: E731

    def update(x, y):
        return lf.update(belief, model, lf.Categorical(), x, y, iterations=0)[1]

    for info in (update(x, y), jax.jit(update)(x, y)):
        assert info.invalid == 0
        np.testing.assert_allclose(info.loss, 3 * np.log(classes), rtol=1e-5)


@pytest.mark.parametrize("dtype", fast(["uint8", "int32", "bool", "float32"], "uint8"))
def test_masks_and_counts_of_any_width(dtype):
    belief = lf.init(jnp.zeros((1, 1)), rank=1)
    x, y = np.ones((300, 1), np.float32), np.full(300, 200, np.uint8)
    mask = np.arange(300) < 299

    def update(y, mask):
        return lf.update(belief, lambda p, x: x @ p, lf.Poisson(), x, y, mask=mask, iterations=0)[1]

    expected = update(y.astype(np.float32), mask)
    for run in (update, jax.jit(update)):
        info = run(y, mask.astype(dtype))
        np.testing.assert_allclose(info.loss, expected.loss, rtol=1e-5)
        assert info.invalid == 0


@pytest.mark.parametrize(
    "form",
    [
        1.0,
        0.1 * jnp.eye(3),
        *(
            pytest.param(form, marks=pytest.mark.slow)
            for form in (np.full(3, 0.1), 0.1 * np.eye(3), np.eye(3, dtype=int))
        ),
    ],
)
def test_a_likelihood_closed_over_is_looked_at_with_numpy(form):
    """A value that can be seen stays one inside a trace."""
    belief = lf.init(jnp.ones((2, 3)), rank=1)
    x, y = np.ones((2, 2), np.float32), np.ones((2, 3), np.float32)
    likelihood = lf.Gaussian(form)
    jax.jit(lambda b, x, y: lf.update(b, lambda p, x: x @ p, likelihood, x, y, iterations=0))(belief, x, y)

    def refused(wrong):
        jax.jit(lambda b: lf.update(b, lambda p, x: x @ p, lf.Gaussian(wrong), x, y))(belief)

    with pytest.raises(ValueError, match=r"(?s)^Gaussian.*expected.*positive"):
        refused(-jnp.asarray(form, float))
