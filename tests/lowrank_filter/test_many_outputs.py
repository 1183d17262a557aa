"""A thousand classes: nothing is as large as a class by class matrix for each example, and the results are the same."""

import dense
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core

import lowrank_filter as lf

CLASSES, EXAMPLES, FEATURES = 300, 40, 3
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(EXAMPLES, FEATURES)).astype(np.float32), RNG.integers(0, CLASSES, EXAMPLES)


def network(params, x):
    return x @ params["kernel"] + params["bias"]


def belief(structure):
    params = {"kernel": jnp.asarray(RNG.normal(size=(FEATURES, CLASSES)), jnp.float32), "bias": jnp.zeros(CLASSES)}
    if structure == "kronecker":
        return lf.init(params, structure="kronecker")
    return lf.init(params, rank=3, structure=structure)


def fitted(belief, x, y):
    return lf.fit(belief, network, lf.Categorical(), x, y, optimizer=optax.sgd(0.1), steps=2, batch_size=16,
                  key=jax.random.key(0))  # fmt: skip


def laplace(belief, x, y):
    return lf.laplace_update(belief, belief.mean, network, lf.Categorical(), x, y, batch_size=8)


def largest(jaxpr):
    """Elements of the largest array in a program and all that it calls."""
    sizes = [variable.aval.size for equation in jaxpr.eqns for variable in equation.outvars]
    values = [value for equation in jaxpr.eqns for value in jax.tree.leaves(list(equation.params.values()))]
    inner = [value.jaxpr if isinstance(value, core.ClosedJaxpr) else value for value in values]
    return max(sizes + [largest(each) for each in inner if isinstance(each, core.Jaxpr)], default=0)


@pytest.mark.parametrize("structure", ["network", "layer", "unit"])
@pytest.mark.parametrize("kernel", [fitted, laplace])
def test_nothing_has_a_matrix_of_classes_for_each_example(kernel, structure):
    if kernel is fitted and structure != "network":
        pytest.skip("the structure is met in the penalty alone")
    start = belief(structure)
    program = jax.make_jaxpr(kernel)(start, X, Y).jaxpr
    outputs, blocks = EXAMPLES * CLASSES, 8 * CLASSES * 64 * (FEATURES + 1)
    assert largest(program) <= (2 * outputs if kernel is fitted else blocks) < EXAMPLES * CLASSES**2


def test_checks_hold_no_more_than_the_outputs():
    from lowrank_filter.kernels.examples import check_examples, prepare  # noqa: PLC0415

    params = belief("network").mean

    def checked(params, x, y):
        return prepare(params, network, lf.Categorical(), check_examples(params, network, lf.Categorical(), x, y, None))

    program = jax.make_jaxpr(checked)(params, X, Y)
    assert largest(program.jaxpr) <= EXAMPLES * CLASSES


@pytest.mark.parametrize("structure", ["network", pytest.param("unit", marks=pytest.mark.slow), "kronecker"])
def test_columns_in_pieces_are_all_of_them(structure, monkeypatch):
    from lowrank_filter.kernels import ggn  # noqa: PLC0415

    start = belief(structure)
    pieces, info = jax.jit(laplace)(start, X[:10], Y[:10])
    monkeypatch.setattr(ggn, "_COLUMNS", CLASSES)
    whole, exact = jax.jit(lambda *data: laplace(*data))(start, X[:10], Y[:10])
    for a, b in zip(*(jax.tree.leaves(lf.inverse_diagonal(b.precision)) for b in (pieces, whole)), strict=True):
        assert dense.relative_error(a, b) < 1e-4
    assert dense.relative_error(info.log_evidence, exact.log_evidence) < 1e-4


@pytest.mark.parametrize("structure", ["network", pytest.param("kronecker", marks=pytest.mark.slow)])
def test_sampled_roots_are_right_on_average(structure):
    """Of one example many times, for what signs do to its curvature to average out."""
    start, count = belief(structure), 2000
    start = lf.init(start.mean, rank=0) if structure == "network" else start
    data = jnp.broadcast_to(X[:1], (count, FEATURES)), jnp.zeros(count, int)

    def found(roots):
        _, info = lf.laplace_update(start, start.mean, network, lf.Categorical(), *data, roots=roots)
        parts = getattr(info.site, "parts", ())
        return [part.partial_traces()[0] for part in parts] or jax.tree.leaves(info.site.diag)

    for sampled, exact in zip(found(2), found(None), strict=True):
        assert 0 < dense.relative_error(sampled, exact) < 0.1


@pytest.mark.usefixtures("x64")
def test_products_with_a_root_are_products_with_the_root():
    likelihood, output, weights = lf.Categorical(), jnp.asarray(RNG.normal(size=7)), jnp.asarray(RNG.normal(size=7))
    root = likelihood.root(output, 2)
    assert dense.relative_error(likelihood.root_product(output, 2, weights), root @ weights) < 1e-12
    assert dense.relative_error(likelihood.root_transposed_product(output, 2, weights), root.T @ weights) < 1e-12
    index = jnp.asarray([5, 6, 7, 8])
    assert dense.relative_error(likelihood.root_columns(output, 2, index)[:, :2], root[:, 5:7]) < 1e-12
    assert (likelihood.root_columns(output, 2, index)[:, 2:] == 0).all()
    assert dense.relative_error(likelihood.curvature(output, 2), jnp.sum(root**2)) < 1e-12
