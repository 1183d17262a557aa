"""The Laplace update's curvature: the top 20 eigenvalues of a trained GGN, at equal accuracy and by the clock.

A 784-100-100-10 network trained on MNIST, 1,000 examples, Euclidean metric, nothing added to the diagonal, so that
every method is asked for the same: the leading eigenpairs of Σ JᵢᵀHᵢJᵢ. Errors are against a float64 Lanczos iteration
run to convergence. laplax takes as many iterations as there are eigenvectors; "accurate" is the smallest number at
which its leading 20 are within 1e-3, found in steps of five.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import lowrank_filter as lf
from benchmarks import networks, peers
from benchmarks.measure import interleaved, report
from experiments.data import mnist

SIZES, RANK, EXAMPLES = (784, 100, 100, 10), 20, 1000
LIKELIHOOD = lf.Categorical()


def trained(x: Array, y: Array) -> Any:
    """300 Adam steps on batches of 100."""
    belief = lf.init(networks.initial(SIZES, jax.random.key(0)), precision=1e-3, rank=0)
    run = functools.partial(lf.fit, belief, networks.apply, LIKELIHOOD, x, y, optimizer=optax.adam(1e-3))
    return jax.jit(lambda: run(steps=300, batch_size=100, key=jax.random.key(1))[0])()


def update(params: Any, x: Array, y: Array, **policy: Any) -> tuple[Any, Any]:
    """From a unit prior."""
    belief = lf.init(params, structure=lf.LowRank(RANK, **policy))
    return lf.laplace_update(belief, params, networks.apply, LIKELIHOOD, x, y)


def factor(params: Any, x: Array, y: Array) -> Any:
    """The leading eigenpairs alone."""
    _, info = update(params, x, y, residual="drop", metric="euclidean")
    return info.site.factor


def spectrum(params: Any, x: Array) -> np.ndarray:
    """The eigenvalues of the GGN in float64, by a Lanczos iteration whose products come from the network."""
    with jax.enable_x64(True):
        wide, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params))
        inputs = jnp.asarray(x, jnp.float64)

        @jax.jit
        def product(vector: Array) -> Array:
            outputs, forward = jax.linearize(lambda p: networks.apply(unravel(p), inputs), wide)
            p, change = jax.nn.softmax(outputs), forward(vector)
            weighted = p * change - p * jnp.sum(p * change, axis=1, keepdims=True)
            return jax.linear_transpose(forward, wide)(weighted)[0]

        basis = np.zeros((90, wide.size))
        image, images = np.random.default_rng(0).normal(size=wide.size), np.zeros((90, wide.size))
        for step in range(90):
            for _ in range(2):
                image = image - basis[:step].T @ (basis[:step] @ image)
            basis[step] = image / np.linalg.norm(image)
            images[step] = image = np.asarray(product(jnp.asarray(basis[step])))
        return np.linalg.eigvalsh((basis @ images.T + images @ basis.T) / 2)[::-1][:RANK]


def main(repeats: int = 9) -> None:
    """Milliseconds and the largest relative error of an eigenvalue."""
    images, labels = mnist.mnist()[:2]
    x, y = jnp.asarray(images[:10_000].reshape(-1, 784)), jnp.asarray(labels[:10_000])
    params = trained(x, y)
    x, y = x[:EXAMPLES], y[:EXAMPLES]
    exact = spectrum(params, x)

    def ours(factor: Any) -> np.ndarray:
        squares = [np.sum(np.square(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(factor)]
        return np.sort(sum(squares))[::-1]

    methods: dict[str, tuple[Callable, Callable]] = {
        "lf, curvature only": (jax.jit(factor), ours),
        "lf, whole update": (jax.jit(update), lambda out: None),
    }
    methods |= {
        name: (method, lambda values: np.sort(np.asarray(values))[::-1][:RANK])
        for name, method in peers.laplax_eigenvalues(networks.apply, params, x, RANK, exact).items()
    }
    compiled = {name: functools.partial(method, params, x, y) for name, (method, _) in methods.items()}
    timings = interleaved(compiled, repeats)
    found = {name: read(compiled[name]()) for name, (_, read) in methods.items()}
    rows = []
    for name, timing in timings.items():
        error = None if found[name] is None else float(np.abs(found[name] / exact - 1).max())
        rows.append((name, 1e3 * timing.median, error, timing.compile))
    few = x[:128], y[:128]
    small = {"lf, whole update, 128 examples": functools.partial(jax.jit(update), params, *few)}
    rows += [(name, 1e3 * timing.median, None, timing.compile) for name, timing in interleaved(small, repeats).items()]
    authors = peers.authors_update(networks.apply, params, RANK)
    if authors is not None:
        host = {"LR-LGF authors, 128 examples": functools.partial(authors, params, *few)}
        rows += [(name, 1e3 * timing.median, None, timing.compile) for name, timing in interleaved(host, 1).items()]
    columns = ("method", "ms", "largest error of 20 eigenvalues", "compile s")
    report("laplace", f"D = {ravel_pytree(params)[0].size:,}, {EXAMPLES:,} examples, rank {RANK}", columns, rows)
