"""Predict and update on one example at a time, in one scan: against the published LO-FI filters.

Everything filters the same stream with the same model: y = f(θ, x) + noise with variance ½, one-hot targets, a random
walk, the same rank, prior and starting parameters. With the Euclidean metric ours is the peers' algorithm in exact
arithmetic, so "same posterior" is the distance of the final means over the distance they moved.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

import lowrank_filter as lf
from benchmarks import networks, peers
from benchmarks.measure import interleaved, report
from experiments.data import digits, mnist

MODEL = {"noise": 1e-5, "prior": 100.0, "variance": 0.5}
CASES = (((784, 100, 100, 10), 10, 20), ((784, 100, 100, 10), 20, 20), ((64, 50, 50, 10), 10, 1000))


def ours(network: Callable, metric: Any, *, rank: int, noise: float, prior: float, variance: float) -> peers.Stream:
    """The built filter, as a user would write it."""

    def run(params: Array, x: Array, y: Array) -> Array:
        structure = lf.LowRank(rank, metric=metric)
        stream = lf.extended_filter(
            network, lf.Gaussian(variance), structure=structure, process_noise=noise, precision=prior
        )
        return lf.filter_stream(stream, stream.init(params), x, y)[0].mean

    return run


def data(inputs: int, steps: int) -> tuple[Array, Array]:
    """The first images of MNIST, or of the digits that scikit-learn ships, and their one-hot classes."""
    images, labels = digits.load() if inputs == 64 else mnist.mnist()[:2]
    return jnp.asarray(images[:steps].reshape(steps, -1)), jnp.asarray(np.eye(10, dtype=np.float32)[labels[:steps]])


def main(repeats: int = 7) -> None:
    """Milliseconds a step of every filter, and how far their posteriors are apart."""
    rows = []
    for sizes, rank, steps in CASES:
        params = networks.initial(sizes, jax.random.key(0))
        flat, unravel = ravel_pytree(params)
        x, y = data(sizes[0], steps)

        def single(theta: Array, x: Array, unravel: Callable = unravel) -> Array:
            return networks.apply(unravel(theta), x)

        model = {"rank": rank, **MODEL}
        streams = {
            "lf, relative metric": (ours(networks.apply, "relative", **model), params),
            "lf, Euclidean metric": (ours(networks.apply, "euclidean", **model), params),
            "lf, flat parameters": (ours(single, "euclidean", **model), flat),
            "rebayes LO-FI, diagonal": (peers.rebayes_lofi(single, **model), flat),
            "bong DLR, full Fisher": (peers.bong_dlr(single, **model), flat),
        }
        compiled = {name: functools.partial(jax.jit(run), start, x, y) for name, (run, start) in streams.items() if run}
        timings = interleaved(compiled, repeats)
        means = {name: np.asarray(ravel_pytree(call())[0]) for name, call in compiled.items()}
        reference = means["lf, Euclidean metric"]
        baseline = timings.get("rebayes LO-FI, diagonal")
        for name, timing in timings.items():
            apart = np.linalg.norm(means[name] - reference) / np.linalg.norm(reference - np.asarray(flat))
            rows.append(
                (
                    f"{'-'.join(map(str, sizes))}, rank {rank}",
                    name,
                    1e3 * timing.median / steps,
                    None if baseline is None else baseline.median / timing.median,
                    float(apart),
                    timing.compile,
                )
            )
    columns = ("network", "filter", "ms a step", "rebayes' time / its", "means apart", "compile s")
    report("streaming", "Predict + update on one example", columns, rows, {"model": MODEL, "repeats": repeats})
