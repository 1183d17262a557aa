"""Updates of many classes by the structure of the network's last layer, against dense matrices of a small one."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf
from lowrank_filter.algebra import diag_low_rank
from lowrank_filter.algebra.diag_low_rank import with_policy
from lowrank_filter.algebra.last_layer import Shares
from lowrank_filter.kernels import many_outputs
from lowrank_filter.kernels.linearisation import Linearisation

INPUTS, HIDDEN, CLASSES, RANK, TEMPERATURE = 4, 3, 18, 4, 0.7
X64 = pytest.mark.usefixtures("x64")


def network(params, x):
    hidden = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"])
    return hidden @ params["b"]["kernel"] + params["b"]["bias"]


def problem(size, rank=RANK, dtype=float):
    rng = np.random.default_rng(size)
    shapes = {
        "a": {"kernel": (INPUTS, HIDDEN), "bias": (HIDDEN,)},
        "b": {"kernel": (HIDDEN, CLASSES), "bias": (CLASSES,)},
    }
    belief = lf.init(over(shapes, lambda shape: jnp.asarray(rng.normal(size=shape), dtype)), rank=rank)
    precision = belief.precision._replace(
        diag=over(shapes, lambda shape: jnp.asarray(rng.uniform(0.5, 2, shape), dtype)),
        factor=over(shapes, lambda shape: jnp.asarray(rng.normal(size=(rank, *shape)), dtype)),
    )
    x, y = rng.normal(size=(size, INPUTS)), rng.integers(0, CLASSES, size)
    return belief._replace(precision=precision), jnp.asarray(x, dtype), jnp.asarray(y)


def over(shapes, function):
    return jax.tree.map(function, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))


def flat(vector):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(vector)])


def matrix(precision):
    if precision.rank == 0:
        return np.diag(flat(precision.diag))
    factor = [np.reshape(w, (precision.rank, -1)) for w in jax.tree.leaves(precision.factor)]
    return dense.matrix(flat(precision.diag), np.concatenate(factor, axis=1))


@pytest.fixture
def forced(monkeypatch):
    """However few outputs there are."""
    monkeypatch.setattr(many_outputs, "_OUTPUTS", 0)
    monkeypatch.setattr(diag_low_rank, "_ROOM", 0)
    found = []
    monkeypatch.setattr(
        diag_low_rank.DiagLowRank,
        "outputs_covariance",
        lambda self, *args, original=diag_low_rank.DiagLowRank.outputs_covariance, **options: (
            found.append(1) or original(self, *args, **options)
        ),
    )
    yield
    assert found


def compiled(**options):
    """An update that no test has compiled before."""

    def net(params, x):
        return network(params, x)

    def call(belief, x, y, mask=None, noise=None):
        return lf.update(
            belief, net, lf.Categorical(), x, y, mask=mask, process_noise=noise, temperature=TEMPERATURE, **options
        )

    return jax.jit(call)


def linearised(belief, x):
    outputs = np.asarray(network(belief.mean, x))
    jacobian = jax.jit(jax.jacobian(network))(belief.mean, x)
    leaves = [np.reshape(leaf, (outputs.size, -1)) for leaf in jax.tree.leaves(jacobian)]
    return outputs, np.concatenate(leaves, axis=1)


def curvature(outputs):
    p = np.asarray(jax.nn.softmax(jnp.asarray(outputs)))
    return dense.block_diagonal([np.diag(q) - np.outer(q, q) for q in p]) / TEMPERATURE


def loss(outputs, y):
    return float(jnp.sum(jax.jit(jax.vmap(lf.Categorical().nll))(jnp.asarray(outputs), y))) / TEMPERATURE


def slope(outputs, y):
    p = np.asarray(jax.nn.softmax(jnp.asarray(outputs)))
    return (p - np.eye(CLASSES)[np.asarray(y)]).ravel() / TEMPERATURE


@X64
@pytest.mark.parametrize(
    ("size", "metric", "noise"),
    fast([(1, "relative", None), (2, "relative", 0.3), (2, "euclidean", None)]),
)
def test_a_plain_step(size, metric, noise, forced):
    belief, x, y = problem(size)
    given = with_policy(belief, metric=metric)
    updated, info = compiled(iterations=0)(given, x, y, noise=noise)
    before = lf.predict(belief, noise).precision if noise else belief.precision
    prior, diag = matrix(before), flat(before.diag)
    outputs, jacobian = linearised(belief, x)
    hessian, gradient = curvature(outputs), slope(outputs, y)
    mean, posterior = dense.update(flat(belief.mean), prior, jacobian, hessian, gradient)
    assert dense.relative_error(flat(updated.mean), mean) < 1e-10
    pulled = jacobian.T @ gradient
    evidence = -loss(outputs, y) + 0.5 * pulled @ np.linalg.solve(posterior, pulled)
    evidence += 0.5 * (dense.logdet(prior) - dense.logdet(posterior))
    assert abs(info.log_evidence - evidence) < 1e-9
    # Whatever is kept, the diagonal is that of the whole.
    assert dense.relative_error(np.diag(matrix(updated.precision)), np.diag(posterior)) < 1e-10
    assert dense.relative_error(np.diag(matrix(info.site)), np.diag(posterior - prior)) < 1e-10
    scale = np.sqrt(diag) if metric == "relative" else np.ones(len(diag))
    for came, exact in ((updated.precision, posterior - np.diag(diag)), (info.site, posterior - prior)):
        values, vectors = np.linalg.eigh(exact / np.outer(scale, scale))
        kept = (vectors[:, -RANK:] * values[-RANK:]) @ vectors[:, -RANK:].T * np.outer(scale, scale)
        low_rank = matrix(came) - np.diag(flat(came.diag))
        assert dense.relative_error(low_rank, kept) < 2e-3
        if came is updated.precision:
            assert abs(info.truncated - values[:-RANK].sum() / values.sum()) < 1e-6


@X64
@pytest.mark.parametrize(("size", "rank"), fast([(1, RANK), (2, RANK), (2, 0)], (2, RANK)))
def test_a_guarded_step(size, rank, forced):
    belief, x, y = problem(size, rank)
    step = compiled(health=True)
    updated, info = step(belief, x, y, mask=jnp.ones(size, bool))
    prior = matrix(belief.precision)
    outputs, jacobian = linearised(belief, x)
    moved = (flat(updated.mean) - flat(belief.mean)) / float(info.step_size)
    there = outputs + (jacobian @ moved).reshape(outputs.shape)
    assert np.abs(prior @ moved + jacobian.T @ slope(there, y)).max() < 1e-7
    posterior = prior + jacobian.T @ curvature(there) @ jacobian
    assert dense.relative_error(np.diag(matrix(updated.precision)), np.diag(posterior)) < 1e-7
    if size > 1:  # Laplace's approximation
        evidence = -loss(there, y) - 0.5 * moved @ prior @ moved
        evidence += 0.5 * (dense.logdet(prior) - dense.logdet(posterior))
        assert abs(info.log_evidence - evidence) < 1e-7
    assert info.health.condition >= 1 and np.isfinite(info.health.condition)
    # Without data not a bit changes, and what is masked is as if it were not there.
    nothing, info = step(belief, x, y, mask=jnp.zeros(size, bool))
    for came, expected in zip(jax.tree.leaves(nothing), jax.tree.leaves(belief), strict=True):
        np.testing.assert_array_equal(came, expected)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(info.site))
    if size > 1:
        masked, _ = step(belief, x.at[1].set(jnp.nan), y, mask=jnp.asarray([True, False]))
        outputs, jacobian = linearised(belief, x[:1])
        moved = flat(masked.mean) - flat(belief.mean)
        there = outputs + (jacobian @ moved).reshape(outputs.shape)
        assert np.abs(prior @ moved + jacobian.T @ slope(there, y[:1])).max() < 1e-7
        posterior = prior + jacobian.T @ curvature(there) @ jacobian
        assert dense.relative_error(np.diag(matrix(masked.precision)), np.diag(posterior)) < 1e-7


@pytest.mark.slow
@X64
def test_the_evidence_of_one_example(forced):
    """By 128 points, to their error; the truth by many draws."""
    belief, x, y = problem(1)
    _, info = compiled()(belief, x, y)
    outputs, jacobian = linearised(belief, x)
    covariance = jacobian @ np.linalg.solve(matrix(belief.precision), jacobian.T)
    draws = np.random.default_rng(0).multivariate_normal(outputs[0], covariance, 400_000)
    losses = np.asarray(jax.vmap(lf.Categorical().nll, (0, None))(jnp.asarray(draws), y[0])) / TEMPERATURE
    assert abs(info.log_evidence - np.log(np.mean(np.exp(-losses)))) < 0.1


@pytest.mark.slow
@X64
def test_two_linearisations_are_those_by_all_outputs(forced, monkeypatch):
    belief, x, y = problem(2)
    options = {"iterations": 2, "outlier_threshold": 1.5, "weights": jnp.asarray([0.5, 2.0])}
    updated, info = compiled(**options)(belief, x, y)
    monkeypatch.setattr(many_outputs, "_OUTPUTS", 10**9)
    expected, other = compiled(**options)(belief, x, y)
    assert dense.relative_error(flat(updated.mean), flat(expected.mean)) < 1e-8
    assert dense.relative_error(flat(updated.precision.diag), flat(expected.precision.diag)) < 1e-3
    assert info.step_size == other.step_size
    assert abs(info.surprise - other.surprise) < 1e-9
    assert abs(info.discounted - other.discounted) < 1e-9
    assert info.discounted > 0.1


@pytest.mark.slow
@X64
def test_derivatives_go_through_the_map(forced):
    belief, x, y = problem(2)
    step = compiled()

    def total(noise):
        updated, info = step(belief, x, y, noise=noise)
        return info.log_evidence + jnp.sum(jnp.sin(flat_of(updated.mean)))

    def flat_of(vector):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(vector)])

    expected = dense.finite_difference(jax.jit(total), 0.3, 1e-4)
    assert abs(jax.jit(jax.grad(total))(0.3) - expected) < 1e-6 * abs(expected)


@pytest.mark.slow
def test_streams_and_seeds_in_float32(forced):
    """A scan of steps, many of them at once, is each by itself; and that is the one in float64."""

    def net(params, x):
        return network(params, x)

    filter = lf.extended_filter(net, lf.Categorical(), rank=RANK, process_noise=1e-3)

    def run(belief, x, y):
        last, steps = lf.filter_stream(filter, belief, x, y)
        return last.mean, steps.info.log_evidence, steps.info.diverged

    belief, x, _ = problem(6, dtype=np.float32)
    labels = jnp.asarray(np.random.default_rng(0).integers(0, CLASSES, (3, 6)))
    together = jax.jit(jax.vmap(run, (None, None, 0)))(belief, x, labels)
    alone = [jax.jit(run)(belief, x, y) for y in labels]
    assert not together[2].any()
    for number, one in enumerate(alone):
        assert dense.relative_error(flat([m[number] for m in jax.tree.leaves(together[0])]), flat(one[0])) < 1e-4
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float64), (belief, x))
        exact = jax.jit(run)(*wide, labels[0])
    assert dense.relative_error(flat(alone[0][0]), flat(exact[0])) < 1e-4
    # Another root of a covariance moves the points by its rounding's root.
    np.testing.assert_allclose(alone[0][1], exact[1], atol=0.05)


@pytest.mark.slow
def test_nothing_of_a_strong_factor_is_left_in_the_diagonal(forced):
    """Its squares are ten digits above what is added, and float32 has seven."""

    def diagonal(dtype):
        belief, x, y = problem(1, dtype=dtype)
        factor = jax.tree.map(lambda w: 1e4 * w, belief.precision.factor)
        return flat(step(belief._replace(precision=belief.precision._replace(factor=factor)), x, y)[0].precision.diag)

    step = compiled(iterations=0)
    with jax.enable_x64(True):
        exact = diagonal(np.float64)
    assert dense.relative_error(diagonal(np.float32), exact) < 1e-3


def last(apply_fn, params):
    return Linearisation(apply_fn, params, jnp.ones((3, INPUTS))).features


def test_where_there_is_a_last_layer():
    params = problem(1, dtype=np.float32)[0].mean

    def hidden(params, x):
        return jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"])

    assert last(network, params) == HIDDEN
    assert last(lambda p, x: hidden(p, x) @ p["b"]["kernel"], params) == HIDDEN
    assert last(lambda p, x: jax.vmap(lambda one: hidden(p, one) @ p["b"]["kernel"] + p["b"]["bias"])(x), params)
    assert last(lambda p, x: jax.nn.log_softmax(network(p, x)), params) is None
    assert last(lambda p, x: network(p, x)[:, ::-1], params) is None
    assert last(lambda p, x: network(p, x) + jnp.sum(p["b"]["bias"]), params) is None
    assert last(lambda p, x: hidden(p, x) @ p["b"]["kernel"][:, :7], params) is None


@pytest.mark.slow
@X64
def test_a_last_layer_is_the_jacobian():
    belief, x, _ = problem(3)
    outputs, layer = Linearisation(network, belief.mean, x).last_layer(x)
    expected, jacobian = linearised(belief, x)
    assert dense.relative_error(outputs, expected) < 1e-12
    size, diag = outputs.size, flat(belief.precision.diag)
    built = layer.combine(jnp.eye(size))
    came = np.concatenate([np.reshape(leaf, (size, -1)) for leaf in jax.tree.leaves(built)], axis=1)
    assert dense.relative_error(came, jacobian) < 1e-12
    for weight, scale in ((belief.precision.diag, diag), (None, np.ones_like(diag))):
        gram = layer.gram(weight)
        exact = (jacobian * scale) @ jacobian.T
        product = gram.times(jnp.eye(size).reshape(size, *outputs.shape)).reshape(size, size)
        assert dense.relative_error(product, exact) < 1e-12
        assert dense.relative_error(gram.diagonal().ravel(), np.diag(exact)) < 1e-12
    shares = Shares(jnp.sqrt(jax.nn.softmax(outputs)), jnp.full(3, TEMPERATURE**-0.5))
    squares = np.diag(jacobian.T @ curvature(outputs) @ jacobian)
    assert dense.relative_error(flat(layer.squares(shares)), squares) < 1e-10


def test_a_likelihood_with_another_root_has_no_shares():
    class Softer(lf.Categorical):
        def root(self, output, target):
            return super().root(output, target) / 2

    assert many_outputs.has_shares(lf.Categorical(), CLASSES)
    assert not many_outputs.has_shares(Softer(), CLASSES)
    assert not many_outputs.has_shares(lf.Gaussian(1.0), CLASSES)
