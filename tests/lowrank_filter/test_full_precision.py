"""On an accelerator a float32 product may keep ten bits: every product of a kernel's own asks for all of them."""

import jax
import jax.numpy as jnp
import pytest

import lowrank_filter as lf

PARAMS = {"gain": jnp.ones(3), "shift": jnp.zeros(3)}
BELIEFS = {
    "network": lf.init(PARAMS, rank=2),
    "many": lf.init({"gain": jnp.ones(60), "shift": jnp.zeros(60)}, rank=2),
    "kronecker": lf.init({"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}, structure="kronecker"),
}


def net(params, x):
    """Without a product of its own, whatever the parameters."""
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)) * jnp.sin(x)


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from products(getattr(inner, "jaxpr", inner))


X, Y = jnp.ones((2, 3)), jnp.array([0, 1])
KERNELS = {
    "predict": lambda b: lf.predict(b, 0.1),
    "plain update": lambda b: lf.update(b, net, lf.Categorical(), X, Y, process_noise=0.1, iterations=0),
    "update": lambda b: lf.update(b, net, lf.Categorical(), X, Y, process_noise=0.1),
    "laplace_update": lambda b: lf.laplace_update(b, b.mean, net, lf.Categorical(), X, Y),
    "sample": lambda b: lf.sample(jax.random.key(0), b, 2),
    "predictive": lambda b: lf.predictive(b, net, X, likelihood=lf.Categorical()),
    "penalty": lambda b: lf.penalty(b, b.mean),
    "smooth": lambda b: lf.smooth(*(jax.tree.map(lambda v: jnp.stack([v, v]), t) for t in (b, b.precision)), 0.1),
}


CASES = [(kernel, name) for kernel in KERNELS for name in BELIEFS if (kernel, name) != ("laplace_update", "kronecker")]


@pytest.mark.parametrize(("kernel", "structure"), CASES)
def test_products_ask_for_all_digits(kernel, structure):
    found = list(products(jax.make_jaxpr(KERNELS[kernel])(BELIEFS[structure]).jaxpr))
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert [str(equation) for equation in found if equation.params["precision"] != highest] == []
