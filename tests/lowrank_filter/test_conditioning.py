"""Conditioning in both widths: against the plain reference, and where data say much more than the prior, say almost the
same twice, or are more than the parameters, against dense float64 for the same numbers."""

import functools
import itertools

import dense
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf
from lowrank_filter.algebra import diag_low_rank, reference, small_matrices, truncation
from lowrank_filter.algebra.diag_low_rank import with_policy
from lowrank_filter.algebra.example_gradients import Stack


def linear(params, x):
    return x @ params[:, None]


@functools.partial(jax.jit, static_argnames=("rank",))
def update(belief, x, y, variance, rank):
    return lf.update(with_policy(belief, rank=rank), linear, lf.Gaussian(variance), x, y, health=True)


@functools.partial(jax.jit, static_argnames=("rank",))
def one_by_one(belief, x, y, variance, rank):
    built = lf.extended_filter(linear, lf.Gaussian(variance), rank=rank, health=True)
    belief, stream = lf.filter_stream(built, belief, x, y)
    return belief, stream.info._replace(log_evidence=jnp.sum(stream.info.log_evidence))


class Errors:
    """Distance of the mean in posterior standard deviations, of a variance in itself, of the evidence in nats."""

    def __init__(self, belief, info, prior, x, y, variance):
        """The oracle: least squares by QR in float64, whose condition is the root of the precision's."""
        prior, x, y, variance = (np.float64(a) for a in (prior, x, y, variance))
        rows = np.concatenate([x / np.sqrt(variance), np.diag(np.sqrt(prior))])
        right = np.concatenate([y / np.sqrt(variance), np.zeros(len(prior))])
        basis, upper = np.linalg.qr(rows)
        mean = np.linalg.solve(upper, basis.T @ right)
        covariance = np.sum(np.linalg.inv(upper) ** 2, axis=1)
        grown = 2 * np.log(np.abs(np.diag(upper))).sum() - np.log(prior).sum()
        rest = np.sum((right - rows @ mean) ** 2)
        evidence = -0.5 * (rest + grown + len(y) * np.log(2 * np.pi * variance))
        self.mean = np.linalg.norm(upper @ (np.asarray(belief.mean, np.float64) - mean))
        self.variance = np.abs(np.asarray(lf.inverse_diagonal(belief.precision)) / covariance - 1).max()
        self.evidence = abs(float(info.log_evidence) - evidence)


def data(seed, size, dimension, variance, spread=None, prior=1.0):
    """Inputs that all differ, or by ``spread`` only; targets of parameters drawn from the prior."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, dimension))
    if spread is not None:
        x = x[:1] + spread * rng.normal(size=(size, dimension))
    x = x.astype(np.float32)
    truth = rng.normal(size=dimension) / np.sqrt(prior)
    return x, (x @ truth + np.sqrt(variance) * rng.normal(size=size)).astype(np.float32)


def errors(kernel, rank, size, dimension, variance, prior=1.0, spread=None, seed=0):
    variance, prior = np.float32(variance), np.full(dimension, prior, np.float32)
    x, y = data(seed, size, dimension, variance, spread, prior[0])
    belief, info = kernel(lf.init(jnp.zeros(dimension), prior, rank=rank), x, y, variance, rank)
    return Errors(belief, info, prior, x, y, variance), info


@pytest.mark.parametrize(
    ("size", "dimension", "variance", "prior"),
    [(500, 4, 0.01, 1.0), (20, 4, 1.0, 1e-6), (2, 4, 1.0, 1e-6), (3, 1, 0.01, 1.0), (60, 40, 0.01, 1.0)],
)
def test_much_data_on_few_parameters(size, dimension, variance, prior):
    """Off by 2.4 nats, 1 posterior standard deviation and a factor of 36 in a variance when a Gram matrix did it."""
    came, info = errors(update, min(dimension, size), size, dimension, variance, prior)
    assert came.mean < 1e-3 and came.variance < 1e-3 and came.evidence < 0.02
    assert not info.health.ruined


@pytest.mark.parametrize(
    ("kernel", "variance", "size", "mean"),
    [
        (update, 1e-4, 4, 1e-3),
        (one_by_one, 1e-6, 16, 2e-2),
        pytest.param(update, 1e-6, 16, 2e-2, marks=pytest.mark.slow),
        pytest.param(one_by_one, 1e-4, 4, 1e-3, marks=pytest.mark.slow),
    ],
)
def test_examples_that_are_almost_the_same(kernel, variance, size, mean):
    """Inputs 1e-3 apart: 2 and 110 standard deviations off, the evidence by 10 nats, when a Gram matrix did it.

    At R = 1e-6 the rounding of whitened data alone is worth 3e-3; the QR and SVD of LAPACK in float32 end 8e-3 off.
    """
    came, info = errors(kernel, size, size, 200, variance, spread=1e-3)
    assert came.mean < mean and came.variance < 1e-3 and came.evidence < 0.02
    assert 1e5 < np.max(info.health.condition) < 1e7 and not np.any(info.health.ruined)


def network(params, x):
    hidden = jnp.tanh(x @ params["in"] + params["in bias"])
    return hidden @ params["out"] + params["out bias"]


@pytest.mark.slow
def test_a_classifier_of_320_parameters_on_1500_columns():
    """The same kernel in float64, which has digits to spare."""
    rng = np.random.default_rng(0)
    shapes = {"in": (20, 10), "in bias": (10,), "out": (10, 10), "out bias": (10,)}
    params = {name: rng.normal(size=shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
    x, y = rng.normal(size=(150, 20)), rng.integers(0, 10, 150)

    def run(dtype):
        cast = functools.partial(jax.tree.map, lambda leaf: jnp.asarray(np.float32(leaf), dtype))
        belief = with_policy(lf.init(cast(params), 0.1, rank=10), rank=0)
        after, info = jax.jit(lambda b, x: lf.update(b, network, lf.Categorical(), x, y))(belief, cast(x))
        return dense_flat(after.mean), dense_flat(after.precision.diag), float(info.log_evidence)

    came = run(jnp.float32)
    with jax.enable_x64(True):
        exact = run(jnp.float64)
    # With rank 0 the diagonal is that of the whole precision: 1/√ of it bounds a standard deviation from below.
    assert np.abs((came[0] - exact[0]) * np.sqrt(exact[1])).max() < 1e-3
    assert np.abs(came[1] / exact[1] - 1).max() < 1e-3
    assert abs(came[2] - exact[2]) < 0.02


def dense_flat(vector):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(vector)])


SHAPES = {(1, 1): 3, (4, 4): 2, (4, 3): 12, (40, 6): 6}  # parameters and rank: examples
# A program each.
WIDTHS = [((1, 1), False), ((4, 4), False), ((4, 3), True), ((40, 6), False)]


@hypothesis.settings(max_examples=15)
@hypothesis.given(
    width=st.sampled_from(WIDTHS),
    variance=st.sampled_from([1e-6, 1e-4, 1e-2, 1.0]),
    prior=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    spread=st.sampled_from([None, 1e-4, 1e-2]),
    seed=st.integers(0, 1000),
)
def test_any_scale_is_right_or_called_ruined(width, variance, prior, spread, seed):
    ((dimension, rank), wide), size = width, SHAPES[width[0]]
    variance, prior = np.float32(variance), np.full(dimension, prior, np.float32)
    x, y = data(seed, size, dimension, variance, spread, prior[0])
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        belief = lf.init(jnp.zeros(dimension, dtype), jnp.asarray(prior, dtype), rank=rank)
        belief, info = update(belief, *(jnp.asarray(a, dtype) for a in (x, y, variance)), rank)
        came = Errors(belief, info, prior, x, y, variance)
        # What the rounding of a whitened residual is worth in posterior standard deviations.
        rounding = np.finfo(dtype).eps * np.abs(y).max() / np.sqrt(variance)
        lost = np.finfo(dtype).eps * np.sqrt(float(info.health.condition))
        if not info.health.ruined:
            assert came.mean < 1e-4 + 4 * np.sqrt(size) * (rounding + lost)
            assert came.evidence < 1e-3 + 4 * size * (rounding + lost) * (1 + rounding)
            if rank >= min(size, dimension):
                assert came.variance < 1e-4 + 4 * lost


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("dimension", "repeats", "metric", "dynamics"),
    [
        (60, False, "relative", True),
        *(
            pytest.param(*rest, marks=pytest.mark.slow)
            for rest in [
                (6, False, "relative", False),
                (6, False, "relative", True),
                (60, False, "relative", False),
                (60, True, "relative", False),
                (60, True, "relative", True),
                *itertools.product((6,), (False,), ("euclidean",), (False, True)),
                *itertools.product((60,), (False, True), ("euclidean",), (False, True)),
            ]
        ),
    ],
)
def test_the_reference(dimension, repeats, metric, dynamics):
    """Fewer parameters than columns (4 old, 5 new), more, and more with columns that are almost repeated."""
    rng = np.random.default_rng(dimension)
    diag, factor = dense.random_precision(rng, dimension, 4)
    columns, target = rng.normal(size=(5, dimension)), rng.normal(size=5)
    if repeats:
        columns = 1e3 * (columns[:1] + 1e-4 * columns)
    noise, transition = rng.uniform(0, 1, dimension), rng.uniform(0.5, 1, dimension)
    precision = lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor))

    @functools.partial(jax.jit, static_argnames=("rank", "residual"))
    def condition(columns, **options):
        moved = {"noise": jnp.asarray(noise), "transition": jnp.asarray(transition)} if dynamics else {}
        told = with_policy(precision, metric=metric, **options)
        return told.condition(Stack(columns), jnp.asarray(target), **moved)

    diag, factor, columns, target, noise, transition = map(
        jnp.asarray, (diag, factor, columns, target, noise, transition)
    )
    if dynamics:
        diag, factor = reference.propagate(diag, factor, noise, transition)
    step, *numbers = reference.correct(jnp.asarray(dense.matrix(diag, factor)), columns, target)
    tolerance = 1e-7 if repeats else 1e-9  # the reference is what loses digits
    for rank, residual in ((9, "diagonal"), (3, "diagonal"), (3, "drop")):
        kept, site, correction, misfit = condition(jnp.asarray(columns), rank=rank, residual=residual)
        assert dense.relative_error(correction.step, step) < tolerance
        assert dense.relative_error(jnp.stack(correction[1:4]), jnp.stack(numbers)) < tolerance
        options = {"rank": rank, "residual": residual, "metric": metric}
        expected, left = reference.truncate(diag, jnp.concatenate([factor, columns]), diag, **options)
        assert dense.relative_error(dense.matrix(*kept), expected) < tolerance
        assert dense.relative_error(misfit.share, left.share) < tolerance
        expected, _ = reference.truncate(jnp.zeros(dimension), columns, diag, **options)
        assert dense.relative_error(dense.matrix(*site), expected) < tolerance


def test_no_digits_are_left_and_the_record_says_so():
    """The same input twice, with a variance that a float32 of the input cannot carry."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(1, 200)), 2, axis=0).astype(np.float32)
    belief = lf.init(jnp.zeros(200), 1e-6, rank=2)
    _, info = update(belief, x, x[:, 0], np.float32(1e-9), 2)
    assert info.health.ruined and info.health.condition > 1e12
    _, info = update(belief._replace(mean=jnp.full(200, 1e38)), x, x[:, 0], np.float32(1e-9), 2)
    assert info.invalid == 2 or (info.health.ruined and np.isinf(info.health.condition))


def test_a_rare_branch_stays_one_under_vmap():
    """One belief of three asks for the square root; the others come back as they do alone."""
    x, y = data(0, 4, 200, 1e-4, spread=1e-3)
    belief = lf.init(jnp.zeros(200), rank=4)
    variances = jnp.asarray([1.0, 1e-4, 1e2])
    batched = jax.jit(jax.vmap(lambda v: lf.update(belief, linear, lf.Gaussian(v), x, y, health=True)))
    after, info = batched(variances)
    assert " cond[" in str(jax.make_jaxpr(batched)(variances))
    assert info.health.condition[1] > 1e5 > 200 > info.health.condition[0]
    for number, variance in enumerate(variances):
        alone, _ = update(belief, x, y, variance, 4)
        distance = jnp.linalg.norm(after.mean[number] - alone.mean) / jnp.linalg.norm(alone.mean)
        assert distance < 1e-5


@pytest.mark.usefixtures("x64")
def test_a_matrix_that_needs_no_floor_gets_none():
    rng = np.random.default_rng(0)
    gram = rng.normal(size=(5, 5)) * 1e3
    gram = (gram @ gram.T).astype(np.float32)
    lower = np.asarray(small_matrices.cholesky_plus_identity(jnp.asarray(gram)), np.float64)
    error = np.abs(lower @ lower.T - np.eye(5) - gram).max() / np.abs(gram).max()
    assert error < 2 * np.finfo(np.float32).eps
    repeated = np.ones((5, 5), np.float32) * np.float32(1e12)
    assert np.isfinite(small_matrices.cholesky_plus_identity(jnp.asarray(repeated))).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("residual", ["diagonal", "drop"])
def test_columns_that_there_is_no_room_for(monkeypatch, residual):
    """Combined a few at a time, and without square roots: the same where nothing asked for those."""
    x, y = data(0, 12, 60, 1e-1)
    belief = with_policy(lf.init(jnp.zeros(60), rank=3), residual=residual)

    def found():
        return jax.jit(lambda belief: lf.update(belief, linear, lf.Gaussian(0.1), x, y))(belief)

    whole = found()
    monkeypatch.setattr(diag_low_rank, "_ROOM", 0)
    monkeypatch.setattr(truncation, "_NUMBERS", 150)
    for came, expected in zip(*map(jax.tree.leaves, (found(), whole)), strict=True):
        np.testing.assert_allclose(came, expected, rtol=1e-9, atol=1e-9)
