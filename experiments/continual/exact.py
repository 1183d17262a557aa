"""The dense Gauss-Newton posterior of a network small enough for it, 64-20-10; what each structure costs."""

import statistics
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import lowrank_filter as lf
from experiments.continual.networks import flat, mlp
from experiments.continual.structures import Structure
from experiments.data import digits

LIKELIHOOD = lf.Categorical()
SMALL, LARGE = mlp(64, (20,), 10), mlp(784, (100, 100), 10)
SMALL_FLAT, UNRAVEL = flat(SMALL)


class Split(NamedTuple):
    """Digits to learn from and to test on."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def digits_split(seed: int, train: int) -> Split:
    """The first ``train`` digits in a seed's order, and the last 500."""
    images, labels = digits.load()
    rows = np.random.default_rng(seed).permutation(len(images))
    x, y = images.reshape(len(images), -1)[rows], labels[rows]
    return Split(*(jnp.asarray(part) for part in (x[:train], y[:train], x[-500:], y[-500:])))


@jax.jit
def dense_curvature(vector: Float[Array, " D"], x: Array, y: Array) -> Float[Array, "D D"]:
    """The generalised Gauss-Newton matrix, dense."""

    def rows(x: Array, y: Array) -> Array:
        jacobian = jax.jacobian(lambda p: SMALL_FLAT.apply(p, x[None])[0])(vector)
        return LIKELIHOOD.root(SMALL_FLAT.apply(vector, x[None])[0], y).T @ jacobian

    stack = jax.lax.map(lambda pair: rows(*pair), (x, y)).reshape(-1, len(vector))
    return stack.T @ stack


@jax.jit
def output_variance(vector: Float[Array, " D"], precision: Float[Array, "D D"], x: Array) -> Float[Array, " B"]:
    """The summed variance of each example's outputs."""
    jacobian = jax.jacobian(lambda p: SMALL_FLAT.apply(p, x))(vector)
    solved = jnp.linalg.solve(precision, jacobian.reshape(-1, len(vector)).T).T.reshape(jacobian.shape)
    return jnp.sum(jacobian * solved, axis=(1, 2))


def gaussian_kl(first: Array, second: Array) -> Array:
    """KL of N(0, first⁻¹) from N(0, second⁻¹), in nats."""
    trace = jnp.trace(jnp.linalg.solve(first, second))
    return 0.5 * (trace - len(first) + logdet(first) - logdet(second))


def logdet(matrix: Array) -> Array:
    """Of a positive definite matrix."""
    return jnp.linalg.slogdet(matrix)[1]


def costs(structures: dict[str, Structure]) -> dict[str, dict[str, float]]:
    """Bytes of each precision, and seconds of a Laplace update with 1,000 examples, for 784-100-100-10."""
    params = LARGE.init(jax.random.key(0))
    x = jax.random.uniform(jax.random.key(1), (1000, 784))
    y = jnp.arange(1000) % 10
    found = {}
    for name, structure in structures.items():
        update = jax.jit(lambda b, p, x, y: lf.laplace_update(b, p, LARGE.apply, LIKELIHOOD, x, y))
        belief = structure.prior(params, 1.0)
        belief, _ = jax.block_until_ready(update(belief, params, x, y))
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            jax.block_until_ready(update(belief, params, x, y))
            seconds.append(time.perf_counter() - began)
        found[name] = {
            "rank": structure.rank,
            "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(belief.precision)),
            "update_seconds": statistics.median(seconds),
        }
    return found
