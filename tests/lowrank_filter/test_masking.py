"""Missing examples change nothing, whatever their slots contain; what only a trace can see is counted."""

import functools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import lowrank_filter as lf

IN, OUT, B = 4, 3, 6
MASK = np.array([True, False, True, True, False, True])


def network(params, x):
    return jnp.tanh(x @ params["w"]) + params["b"]


def normalised(params, x):
    """A network without a derivative at x = 0, where padding would put it."""
    return network(params, x / jnp.linalg.norm(x, axis=1, keepdims=True))


@pytest.fixture(params=[2])
def belief(request):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(IN, OUT)).astype(np.float32), "b": rng.normal(size=OUT).astype(np.float32)}
    start = lf.init(params, 1.5, rank=request.param)
    factor = jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), w.dtype), start.precision.factor)
    return start._replace(precision=start.precision._replace(factor=factor))


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(B, IN)).astype(np.float32), rng.integers(0, OUT, B)


def update(belief, apply_fn, x, y, mask):
    return lf.update(belief, apply_fn, lf.Categorical(), x, y, mask=mask)


def laplace(belief, apply_fn, x, y, mask):
    return lf.laplace_update(belief, belief.mean, apply_fn, lf.Categorical(), x, y, mask=mask, batch_size=4)


def fitted(belief, apply_fn, x, y, mask):
    return lf.fit(belief, apply_fn, lf.Categorical(), x, y, mask=mask, optimizer=optax.sgd(0.01), steps=2)


KERNELS = {"update": update, "laplace_update": laplace, "fit": fitted}


@functools.cache
def compiled(name, apply_fn):
    return jax.jit(lambda belief, x, y, mask: KERNELS[name](belief, apply_fn, x, y, mask))


def assert_bits(came, expected):
    for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_close(came, expected):
    for a, b in zip(jax.tree.leaves(came), jax.tree.leaves(expected), strict=True):
        assert dense.relative_error(a, b) < 1e-5


@pytest.mark.parametrize("belief", [pytest.param(0, marks=pytest.mark.slow), 2], indirect=True)
@pytest.mark.parametrize("name", ["update", "laplace_update"])
@pytest.mark.parametrize("apply_fn", [network, pytest.param(normalised, marks=pytest.mark.slow)])
def test_all_masked_is_a_no_op_bit_for_bit(name, apply_fn, belief, data):
    predicted = lf.predict(belief, 0.1)
    came, info = compiled(name, apply_fn)(predicted, *data, np.zeros(B, bool))
    assert_bits(came, predicted)
    assert_bits(info.site, lf.zero_site(predicted))
    assert info.log_evidence == 0 and info.loss == 0 and info.invalid == 0 and info.truncated == 0


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("apply_fn", [network, normalised])
def test_content_of_masked_slots_does_not_matter(name, apply_fn, belief, data):
    x, y = data
    run = compiled(name, apply_fn)
    expected = run(belief, x, y, MASK)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    for value, label in ((np.nan, -1), (np.inf, 10**6), (0.0, 0)):
        spoiled, labels = x.copy(), y.copy()
        spoiled[~MASK], labels[~MASK] = value, label
        assert_bits(run(belief, spoiled, labels, MASK), expected)


@pytest.mark.parametrize("name", ["update", "laplace_update"])
def test_masking_is_leaving_out(name, belief, data):
    x, y = data
    came = compiled(name, network)(belief, x, y, MASK)
    without = jax.jit(lambda belief, x, y: KERNELS[name](belief, network, x, y, None))
    left_out = without(belief, x[MASK], y[MASK])
    (came_belief, came_info), (belief_out, info_out) = came, left_out
    # Factors may differ by a rotation.
    assert_close(came_belief.mean, belief_out.mean)
    # Of an update by points, which are others where there are more outputs.
    tolerance = 0.02 if name == "update" else 1e-5 * abs(info_out.log_evidence)
    assert abs(came_info.log_evidence - info_out.log_evidence) < tolerance
    # Whole matrices: one vector's product can cancel to a small part of them.
    flat, unravel = ravel_pytree(belief.mean)
    matrix = jax.jit(lambda precision: jax.vmap(lambda row: lf.matvec(precision, unravel(row)))(jnp.eye(flat.size)))
    for a, b in ((came_belief.precision, belief_out.precision), (came_info.site, info_out.site)):
        entries = (
            np.concatenate([leaf.reshape(flat.size, -1) for leaf in jax.tree.leaves(matrix(p))], 1) for p in (a, b)
        )
        assert dense.relative_error(*entries) < 1e-5


@pytest.mark.parametrize("name", [pytest.param("update", marks=pytest.mark.slow), "laplace_update", "fit"])
def test_full_mask_is_no_mask(name, belief, data):
    without = jax.jit(lambda belief, x, y: KERNELS[name](belief, network, x, y, None))
    assert_close(compiled(name, network)(belief, *data, np.ones(B, bool))[0], without(belief, *data)[0])


def spoil(x, y, what):
    x, y = x.copy(), y.copy()
    if what == "NaN input":
        x[1, 2], x[4, 0] = np.nan, np.inf
    if what == "label out of range":
        y[1], y[4] = OUT, -1
    return x, y


@pytest.mark.parametrize("what", ["NaN input", "label out of range"])
@pytest.mark.parametrize("name", ["update", "laplace_update"])
def test_invalid_under_jit_is_counted_and_left_out(name, what, belief, data):
    x, y = data
    run = compiled(name, network)
    came, info = run(belief, *spoil(x, y, what), np.ones(B, bool))
    expected, info_expected = run(belief, x, y, MASK)
    assert info.invalid == 2
    assert info_expected.invalid == 0
    assert_bits(came, expected)
    assert_bits(info.log_evidence, info_expected.log_evidence)


@pytest.mark.parametrize("name", ["update", "laplace_update"])
def test_invalid_and_masked_is_not_counted(name, belief, data):
    _, info = compiled(name, network)(belief, *spoil(*data, "NaN input"), MASK)
    assert info.invalid == 0


def logarithm(params, x):
    """NaN at a negative input, in its value and in its derivative."""
    return network({"w": params["w"], "b": params["b"]}, jnp.log(x) * jnp.sum(params["b"]))


@pytest.mark.parametrize("name", ["update", "laplace_update"])
def test_outputs_that_are_not_finite_are_counted_and_left_out(name, belief, data):
    x, y = np.abs(data[0]) + 0.1, data[1]
    run = compiled(name, logarithm)
    expected, _ = run(belief, x, y, MASK)
    x[~MASK] = -1
    came, info = run(belief, x, y, np.ones(B, bool))
    assert info.invalid == 2
    assert_close(came.mean, expected.mean)
    assert_close(came.precision, expected.precision)


@pytest.mark.parametrize("name", ["update", pytest.param("laplace_update", marks=pytest.mark.slow)])
def test_gradients_do_not_leak_either(name, belief, data):
    x, y = spoil(*data, "NaN input")

    def evidence(noise):
        return KERNELS[name](lf.predict(belief, noise), network, x, y, MASK)[1].log_evidence

    assert np.isfinite(jax.jit(jax.grad(evidence))(0.1))


@pytest.mark.slow  # test_fit_and_filters and test_run_stream have chunks that are not full
@pytest.mark.parametrize("apply_fn", [network, normalised])
def test_the_filling_of_a_streams_last_chunk_changes_nothing(apply_fn, belief, data):
    x, y = data
    rank = belief.precision.rank
    built = lf.extended_filter(apply_fn, lf.Categorical(), rank=rank, process_noise=0.1, iterations=0)

    @jax.jit
    def both(belief, x, y):
        first, _ = built.update(built.predict(belief), x[:4], y[:4])
        second, _ = built.update(built.predict(first), x[4:], y[4:])
        return lf.filter_stream(built, belief, x, y, chunk_size=4)[0], second

    came, expected = both(belief, x, y)
    assert_close(came.mean, expected.mean)
