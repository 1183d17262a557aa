"""OSLA's two ways to keep a sum of Kronecker products, against dense matrices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lowrank_filter as lf
from experiments.continual.learners import Task, Training, osla
from experiments.continual.learners.interface import coloured
from experiments.continual.learners.osla import Product, _product, nearest
from experiments.continual.networks import Network

RNG = np.random.default_rng(0)
HYPER = {"learning_rate": 1e-2, "prior": 0.5, "curvature": 3.0}


def semidefinite(size: int) -> jax.Array:
    root = RNG.normal(size=(size, size))
    return jnp.asarray(root @ root.T)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6, 0.0])
@pytest.mark.usefixtures("x64")
def test_the_nearest_product_is_the_first_singular_pair_of_the_rearranged_sum(scale: float) -> None:
    first, second = (Product(semidefinite(3), semidefinite(4)) for _ in range(2))
    first = first._replace(units=scale * first.units)
    found = nearest(first, second)
    rearranged = sum(np.outer(np.ravel(p.units), np.ravel(p.inputs)) for p in (first, second))
    left, values, right = np.linalg.svd(rearranged)
    np.testing.assert_allclose(
        np.outer(np.ravel(found.units), np.ravel(found.inputs)), values[0] * np.outer(left[:, 0], right[0]), atol=1e-9
    )
    assert min(np.linalg.eigvalsh(factor).min() for factor in found) > -1e-9


@pytest.mark.usefixtures("x64")
def test_after_two_tasks_the_penalty_is_the_sum_of_what_the_kernels_absorbed() -> None:
    network = Network(lambda key: {"w": jax.random.normal(key, (3, 2)), "b": jnp.ones(2)}, _linear)
    task = Task(jnp.asarray(RNG.normal(size=(20, 3))), jnp.arange(20) % 2, jax.random.key(0), jnp.asarray(True))
    learner, training = osla(tasks=2), Training(5, None, 10)

    @jax.jit
    def run(task: Task, vector: jax.Array) -> tuple:
        belief = learner.init(network.init(jax.random.key(1)), HYPER)
        dense = 0.5 * jnp.eye(8)
        for _ in range(2):
            belief, _ = learner.step(network, training, belief, task, HYPER)
            prior = lf.init(belief.mean, 1.0, structure="kronecker")
            arguments = (network.apply, lf.Categorical(), task.x[:10], task.y[:10])
            _, info = lf.laplace_update(prior, belief.mean, *arguments, curvature_scale=6.0)
            dense += jax.vmap(_flat(info.site.matvec))(jnp.eye(8))
        return jax.value_and_grad(_flat_form(belief))(vector), dense

    vector = RNG.normal(size=8)
    (value, slope), dense = run(task, vector)
    assert value == pytest.approx(vector @ dense @ vector)
    np.testing.assert_allclose(slope, 2 * dense @ vector, rtol=1e-9)


def _linear(params: dict, x: jax.Array) -> jax.Array:
    return x @ params["w"] + params["b"]


def _unravel(vector: jax.Array) -> dict:
    return {"w": vector[2:].reshape(3, 2), "b": vector[:2]}


def _flat(function):
    def flat(vector: jax.Array) -> jax.Array:
        result = function(_unravel(vector))
        return jnp.concatenate([result["b"], result["w"].ravel()])

    return flat


def _flat_form(belief: lf.Belief):
    return lambda vector: belief.precision.quadratic(_unravel(vector))


@pytest.mark.parametrize("form", ["product", "kronecker", "diagonal"])
@pytest.mark.usefixtures("x64")
def test_the_penalty_of_what_is_coloured_is_half_a_square(form: str) -> None:
    params = {"b": jnp.ones(2), "w": jnp.ones((3, 2))}
    belief = lf.init(params, 0.5, structure="kronecker")
    site: lf.Kronecker = _rotated(belief)
    if form == "kronecker":
        belief = lf.Belief(params, site)
    elif form == "diagonal":
        belief = lf.init(params, {"b": jnp.array([1.0, 2.0]), "w": 3.0}, rank=0)
    else:
        start = osla().init(params, HYPER)
        belief = lf.Belief(params, start.precision.plus((_product(site.parts[0]),)))
    root = coloured(belief.precision)
    assert root is not None
    z = jnp.asarray(RNG.normal(size=8))
    assert float(belief.precision.quadratic(root(_unravel(z)))) == pytest.approx(float(z @ z))


def _rotated(belief: lf.Belief) -> lf.Kronecker:
    part = belief.precision.parts[0]
    units, inputs = (jnp.linalg.qr(jnp.asarray(RNG.normal(size=2 * [n])))[0] for n in part.scale.shape)
    scale = jnp.outer(jnp.arange(1.0, 3), jnp.arange(1.0, 5))
    return dataclasses.replace(belief.precision, parts=(type(part)(units, inputs, scale),))
