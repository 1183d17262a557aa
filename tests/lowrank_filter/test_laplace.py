"""The Laplace update against the dense Gauss-Newton matrix, and its evidence."""

import functools
import itertools

import dense
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from suites import fast

import lowrank_filter as lf
from lowrank_filter.algebra import krylov
from lowrank_filter.algebra.diag_low_rank import with_policy

pytestmark = pytest.mark.usefixtures("x64")

INPUTS, HIDDEN, CLASSES = 3, 4, 3
CUT = INPUTS * HIDDEN
D = CUT + HIDDEN * CLASSES  # 24


def apply_fn(params, x):
    return jnp.tanh(x @ params[:CUT].reshape(INPUTS, HIDDEN)) @ params[CUT:].reshape(HIDDEN, CLASSES)


@functools.partial(jax.jit, static_argnames=("rank", "residual", "metric", "batch_size", "iterations"))
def laplace_update(belief, params, x, y, rank=None, residual="diagonal", metric="relative", **options):
    belief = with_policy(belief, rank=rank, residual=residual, metric=metric)
    return lf.laplace_update(belief, params, apply_fn, lf.Categorical(), x, y, **options)


def problem(prior_rank, size):
    rng = np.random.default_rng(prior_rank)
    diag, factor = dense.random_precision(rng, D, prior_rank)
    belief = lf.Belief(jnp.asarray(rng.normal(size=D)), lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)))
    params = belief.mean + 0.1 * rng.normal(size=D)
    return belief, params, jnp.asarray(rng.normal(size=(size, INPUTS))), jnp.asarray(rng.integers(0, CLASSES, size))


def oracle(belief, params, x, y, temperature=1.0, scale=1.0):
    outputs = apply_fn(params, x)
    jacobian = np.asarray(jax.jit(jax.jacobian(apply_fn))(params, x)).reshape(outputs.size, D)
    hessian = dense.block_diagonal(np.asarray(jax.jit(jax.vmap(jax.hessian(lf.Categorical().nll)))(outputs, y)))
    curvature = jacobian.T @ hessian @ jacobian * scale / temperature
    loss = float(jax.jit(jax.vmap(lf.Categorical().nll))(outputs, y).sum()) / temperature
    prior = dense.matrix(*belief.precision)
    shift = np.asarray(params - belief.mean)
    return curvature, loss, dense.laplace_evidence(loss, shift, prior, prior + curvature)


@pytest.mark.parametrize(
    ("prior_rank", "size", "metric"), fast([(0, 5, "relative"), (3, 20, "euclidean")], (3, 20, "euclidean"))
)
def test_without_truncation(prior_rank, size, metric):
    """Fewer root columns than parameters (size 5), and more (size 20)."""
    belief, params, x, y = problem(prior_rank, size)
    came, info = laplace_update(
        belief, params, x, y, rank=D + prior_rank, metric=metric, temperature=0.7, curvature_scale=3.0, batch_size=3
    )
    curvature, loss, evidence = oracle(belief, params, x, y, 0.7, 3.0)
    np.testing.assert_array_equal(came.mean, params)
    assert dense.relative_error(dense.matrix(*info.site), curvature) < 1e-9
    assert dense.relative_error(dense.matrix(*came.precision), dense.matrix(*belief.precision) + curvature) < 1e-9
    assert dense.relative_error(info.loss, loss) < 1e-9
    assert dense.relative_error(info.log_evidence, evidence) < 1e-9


@pytest.mark.parametrize(
    ("residual", "metric"),
    fast(
        itertools.product(["diagonal", "drop"], ["relative", "euclidean"]),
        ("diagonal", "relative"),
        ("drop", "euclidean"),
    ),
)
def test_truncated(residual, metric):
    rank = 4
    belief, params, x, y = problem(0, 20)
    came, info = laplace_update(belief, params, x, y, rank=rank, residual=residual, metric=metric, iterations=4)
    curvature, _, _ = oracle(belief, params, x, y)
    scale = np.sqrt(belief.precision.diag) if metric == "relative" else np.ones(D)
    values, vectors = np.linalg.eigh(curvature / np.outer(scale, scale))
    kept = (vectors[:, -rank:] * values[-rank:]) @ vectors[:, -rank:].T * np.outer(scale, scale)
    rest = np.diag(np.diag(curvature - kept)) if residual == "diagonal" else 0
    # Block Krylov iteration ends short of the eigenvectors.
    assert dense.relative_error(dense.matrix(*info.site), kept + rest) < 1e-4
    assert dense.relative_error(dense.matrix(*came.precision), dense.matrix(*belief.precision) + kept + rest) < 1e-4
    if residual == "diagonal":
        diagonal = np.diag(dense.matrix(*belief.precision) + curvature)
        assert dense.relative_error(np.diag(dense.matrix(*came.precision)), diagonal) < 1e-9


@pytest.mark.parametrize("rank", fast([0, 2], 2))
def test_drop_never_overestimates(rank):
    belief, params, x, y = problem(0, 20)
    _, info = laplace_update(belief, params, x, y, rank=rank, residual="drop")
    curvature, _, _ = oracle(belief, params, x, y)
    # Ritz vectors that are not quite eigenvectors overestimate in second order.
    assert np.linalg.eigvalsh(curvature - dense.matrix(*info.site)).min() > -1e-5 * np.linalg.norm(curvature, 2)


@pytest.mark.parametrize("batch_size", fast([1, 3], 3))
def test_the_micro_batch_does_not_matter(batch_size):
    belief, params, x, y = problem(3, 8)
    whole, _ = laplace_update(belief, params, x, y, rank=4)
    came, _ = laplace_update(belief, params, x, y, rank=4, batch_size=batch_size)
    assert dense.relative_error(dense.matrix(*came.precision), dense.matrix(*whole.precision)) < 1e-9


@pytest.mark.parametrize(("rank", "structure"), fast([(D + 2, None), (2, None), (0, "kronecker")], (2, None)))
def test_batches_of_an_iterable_add_up(rank, structure):
    belief, params, x, y = problem(0 if structure else 2, 8)
    network, options = apply_fn, {"temperature": 0.7, "curvature_scale": 3.0, "iterations": 6}
    if structure:
        parts = {"a": params[:CUT].reshape(INPUTS, HIDDEN), "b": params[CUT:].reshape(HIDDEN, CLASSES)}
        belief, params = lf.init(parts, 2.0, structure=structure), jax.tree.map(lambda leaf: leaf + 0.1, parts)
        network = lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]  # noqa: E731
    else:
        belief = with_policy(belief, rank=rank)
    arguments = belief, params, network, lf.Categorical()
    mask = jnp.array([True, False, True])
    whole, info = lf.laplace_update(*arguments, x, y, mask=jnp.ones(8, bool).at[4].set(False), **options)
    batches = ((x[:3], y[:3]), (x[3:6], y[3:6], mask), (x[6:], y[6:], None, jnp.ones(2)))
    came, about = lf.laplace_update(*arguments, iter(batches), **options)
    assert dense.relative_error(about.loss, info.loss) < 1e-12 and about.invalid == 0
    assert 0 <= about.truncated < 1
    if rank > D:
        assert dense.relative_error(dense.matrix(*came.precision), dense.matrix(*whole.precision)) < 1e-9
        assert dense.relative_error(dense.matrix(*about.site), dense.matrix(*info.site)) < 1e-9
        assert dense.relative_error(about.log_evidence, info.log_evidence) < 1e-9 and about.truncated < 1e-9
    elif structure is None:
        # Truncated batch by batch, so in other directions; what an update does to the diagonal is kept either way.
        kept = [np.diag(dense.matrix(*belief.precision)) for belief in (came, whole)]
        np.testing.assert_allclose(*kept, rtol=1e-9)
        assert abs(about.log_evidence - info.log_evidence) < 0.05 * abs(info.log_evidence)


def test_agrees_with_update_on_a_linear_model():
    """At the MAP of a linear-Gaussian model both are the exact posterior, with the same evidence."""
    rng = np.random.default_rng(0)
    diag, factor = dense.random_precision(rng, 4, 2)
    belief = lf.Belief(jnp.asarray(rng.normal(size=4)), lf.DiagLowRank(jnp.asarray(diag), jnp.asarray(factor)))
    belief = with_policy(belief, rank=5)
    x, y = jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(rng.normal(size=3))
    arguments = (lambda p, x: x @ p[:, None], lf.Gaussian(0.3), x, y)
    extended, extended_info = jax.jit(lambda: lf.update(belief, *arguments))()
    laplace, laplace_info = jax.jit(lambda: lf.laplace_update(belief, extended.mean, *arguments))()
    assert dense.relative_error(dense.matrix(*laplace.precision), dense.matrix(*extended.precision)) < 1e-9
    assert dense.relative_error(laplace_info.log_evidence, extended_info.log_evidence) < 1e-9


def tied(params, x):
    """One weight matrix in two layers: the square of a sum of gradients, not a sum of squares."""
    return jnp.tanh(jnp.tanh(x @ params["w"] + params["b"]) @ params["w"]) + params["b"]


@pytest.mark.parametrize("jitted", fast([False, True], True))
def test_the_diagonal_of_a_network_with_tied_weights(jitted):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 3)), jnp.float32), "b": jnp.asarray(rng.normal(size=3), jnp.float32)}
    x, y = jnp.asarray(rng.normal(size=(9, 3)), jnp.float32), jnp.asarray(rng.integers(0, 3, 9))

    def site(params):
        belief = lf.init(params, rank=0)
        return lf.laplace_update(belief, params, tied, lf.Categorical(), x, y)[1].site.diag

    came = (jax.jit(site) if jitted else site)(params)
    root = jax.vmap(lf.Categorical().root)(tied(params, x), y)
    for name, jacobian in jax.jit(jax.jacobian(tied))(params, x).items():
        columns = jnp.einsum("bc...,bcr->br...", jacobian, root)
        assert np.allclose(came[name], jnp.sum(columns**2, axis=(0, 1)), rtol=1e-4)


@pytest.mark.parametrize("independent", [1, 3])
def test_a_krylov_space_in_float32_that_is_used_up(independent):
    """Blocks of four vectors that span one or three dimensions, as of a unit that one or three examples reach."""

    @jax.vmap
    def gram(key):
        first, second, third = jax.random.split(key, 3)
        normal = functools.partial(jax.random.normal, dtype=jnp.float32)
        stack = normal(first, (4, independent)) @ (
            normal(second, (independent, 785)) * jnp.exp(3 * normal(third, (785,)))
        )
        basis = krylov.reorthogonalised(stack, jnp.zeros((8, 785), jnp.float32))
        return basis @ basis.T

    grams = np.asarray(gram(jax.random.split(jax.random.key(0), 300)))
    assert np.isfinite(grams).all()
    values = np.linalg.eigvalsh(grams)
    rounding = 100 * jnp.finfo(jnp.float32).eps
    assert np.abs(np.minimum(np.abs(values), np.abs(values - 1))).max() < rounding  # each direction is there or not
    # Some of the draws are themselves nearly dependent.
    assert np.mean((values > 0.5).sum(axis=1) >= independent) > 0.99


def test_few_iterations_hold_the_rank():
    """Blocks are as wide as it takes."""
    belief, params, x, y = problem(0, 20)
    _, info = laplace_update(belief, params, x, y, rank=12, residual="drop", iterations=1)
    assert np.linalg.matrix_rank(np.asarray(info.site.factor)) == 12


@pytest.mark.slow
def test_evidence_of_a_million_parameters_in_float32():
    """The prior's log-determinant is 7 million nats, the evidence a few: it must not be their difference."""
    dimension, prior = 1_000_000, 1000.0
    rng = np.random.default_rng(0)
    with jax.enable_x64(False):
        x = rng.normal(size=(2, dimension)).astype(np.float32)
        belief = lf.init(jnp.zeros(dimension, jnp.float32), prior, rank=2)
        arguments = (lambda p, x: x @ p[:, None], lf.Gaussian(0.1), x, np.asarray([1.0, -1.0], np.float32))
        _, info = jax.jit(lambda b: lf.laplace_update(b, b.mean, *arguments))(belief)
    gram = np.eye(2) + np.float64(x) @ np.float64(x).T / prior / 0.1
    evidence = -0.5 * (2 / 0.1 + 2 * np.log(2 * np.pi * 0.1)) - 0.5 * dense.logdet(gram)
    assert info.log_evidence.dtype == jnp.float32
    assert abs(float(info.log_evidence) - evidence) < 1e-3


@pytest.mark.parametrize(
    ("blocks", "size", "residual"),
    fast(
        [("network", 2, "diagonal"), ("network", 20, "drop"), ("layer", 20, "diagonal")],
        ("network", 20, "drop"),
        ("layer", 20, "diagonal"),
    ),
)
def test_what_the_site_leaves_out_is_reported(blocks, size, residual):
    """The trace of the curvature in the metric, less that of its leading part; columns decomposed or iterated."""
    belief, params, x, y = problem(0, size)
    if blocks == "layer":
        shapes = {"kernel": (INPUTS, HIDDEN)}, {"kernel": (HIDDEN, CLASSES)}

        def unflat(v):
            return [
                {"kernel": v[:CUT].reshape(shapes[0]["kernel"])},
                {"kernel": v[CUT:].reshape(shapes[1]["kernel"])},
            ]

        def network(p, x):
            return jnp.tanh(x @ p[0]["kernel"]) @ p[1]["kernel"]

        start = lf.init(unflat(belief.mean), structure=lf.LowRank(1, residual=residual, blocks="layer"))

        def update(p):
            return lf.laplace_update(start, p, network, lf.Categorical(), x, y)

        _, info = jax.jit(update)(unflat(params))
    else:
        start = lf.init(belief.mean, rank=1)
        _, info = laplace_update(start, params, x, y, residual=residual)
    curvature, _, _ = oracle(belief, params, x, y)
    parts = [curvature] if blocks == "network" else [curvature[:CUT, :CUT], curvature[CUT:, CUT:]]
    left = whole = 0.0
    for part in parts:
        values, vectors = np.linalg.eigh(part)  # the prior is the identity, and so is the metric
        rest = np.diag(part) - values[-1] * vectors[:, -1] ** 2
        measure = 1 + (rest if residual == "diagonal" else 0)
        left, whole = left + (rest / measure).sum(), whole + (np.diag(part) / measure).sum()
    assert 0.2 < left / whole < 1
    assert abs(info.truncated - left / whole) < 1e-3
