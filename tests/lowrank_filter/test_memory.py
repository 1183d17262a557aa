"""The memory of a Laplace update does not grow with the number of examples: compiled, not run."""

import itertools

import jax
import jax.numpy as jnp
import pytest

import lowrank_filter as lf

WIDTHS = (784, 100, 100, 10)
RANK = 20


def network(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def temporary_bytes(examples):
    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype)

    params = [{"kernel": shape(i, o), "bias": shape(o)} for i, o in itertools.pairwise(WIDTHS)]
    belief = jax.eval_shape(lambda p: lf.init(p, rank=RANK), params)

    def step(belief, params, x, y):
        return lf.laplace_update(belief, params, network, lf.Categorical(), x, y)

    data = shape(examples, WIDTHS[0]), shape(examples, dtype=jnp.int32)
    return jax.jit(step).lower(belief, params, *data).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_ten_thousand_examples_fit_in_one_gibibyte():
    few, many = (temporary_bytes(examples) for examples in (1_000, 10_000))
    data = 10_000 * WIDTHS[0] * 4
    assert many + data < 2**30
    # It grows by a copy or two of the inputs (masked, split into micro-batches): nothing of examples × parameters.
    assert many - few < 4 * data


def test_activations_are_those_of_a_micro_batch():
    """A convolution's outputs are 32 times its inputs here, and never there for all examples."""

    def convolution(params, x):
        kernel = params["kernel"]
        hidden = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(hidden).reshape(len(x), -1) @ params["last"]

    def used(examples):
        def shape(*sizes, dtype=jnp.float32):
            return jax.ShapeDtypeStruct(sizes, dtype)

        params = {"kernel": shape(3, 3, 1, 32), "last": shape(14 * 14 * 32, 10)}
        belief = jax.eval_shape(lambda p: lf.init(p, rank=4), params)

        def step(belief, params, x, y):
            return lf.laplace_update(belief, params, convolution, lf.Categorical(), x, y, batch_size=50)

        data = shape(examples, 14, 14, 1), shape(examples, dtype=jnp.int32)
        return jax.jit(step).lower(belief, params, *data).compile().memory_analysis().temp_size_in_bytes

    few, many = used(100), used(10_000)
    # What grows are copies of the inputs and the Krylov space's numbers for each example and output.
    assert many - few < 10 * 10_000 * 14 * 14 * 4


@pytest.mark.slow
@pytest.mark.parametrize(("examples", "iterations", "most"), [(1, 1, 10), (1, 0, 10), (16, 1, 125)])
def test_no_matrix_of_a_thousand_classes_is_built(examples, iterations, most):
    """An update holds a few times the parameters, where one matrix of outputs by outputs is twenty (of one example)."""
    widths = (32, 45, 1000)

    def shape(*sizes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(sizes, dtype)

    params = [{"kernel": shape(i, o), "bias": shape(o)} for i, o in itertools.pairwise(widths)]
    belief = jax.eval_shape(lambda p: lf.init(p, rank=10), params)
    step = jax.jit(lambda belief, x, y: lf.update(belief, network, lf.Categorical(), x, y, iterations=iterations))
    compiled = step.lower(belief, shape(examples, widths[0]), shape(examples, dtype=jnp.int32)).compile()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert compiled.memory_analysis().temp_size_in_bytes < most * parameters * 4
