"""What the first call costs: each kernel called, and traced and compiled within a ``jax.jit``, against a gradient of
the same loss.

CPU seconds of fresh processes without the compilation cache; each process compiles the gradient before its kernel, and
the ratio is to the median of those. One network has three layers, the other 62 leaves of different shapes.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

import lowrank_filter as lf
from benchmarks import networks
from benchmarks.measure import report

RANK, EXAMPLES, STEPS, NOISE, TARGET = 10, 128, 20, 1e-4, 6
WAYS = ("called", "in a jit")
SIZES = {"64-50-50-10": (64, 50, 50, 10), "62 leaves": (64, *(20 + 7 * n % 31 for n in range(30)), 10)}
LIKELIHOOD = lf.Categorical()
Call = tuple[Callable, tuple]


def kernels(params: Any) -> dict[str, Call]:
    """Each kernel with its arguments, by name; the gradient is what they are measured against."""
    belief = lf.init(params, rank=RANK)
    x = jax.random.normal(jax.random.key(1), (EXAMPLES, 64))
    y = jnp.arange(EXAMPLES) % 10

    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.sum(jax.vmap(LIKELIHOOD.nll)(networks.apply(params, x), y))

    beliefs = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), belief)

    def smooth(beliefs: lf.Belief) -> lf.Belief:
        return lf.smooth(beliefs, beliefs.precision, NOISE)

    def update(belief: lf.Belief, x: Any, y: Any, **options: Any) -> Any:
        return lf.update(belief, networks.apply, LIKELIHOOD, x, y, **options)

    def stream(belief: lf.Belief, x: Any, y: Any) -> Any:
        built = lf.extended_filter(networks.apply, LIKELIHOOD, rank=RANK, process_noise=NOISE)
        return lf.filter_stream(built, belief, x, y)

    return {
        "gradient": (jax.grad(loss), (params, x, y)),
        "predict": (functools.partial(lf.predict, process_noise=NOISE), (belief,)),
        "update": (update, (belief, x[:1], y[:1])),
        "update, 10 iterations": (functools.partial(update, iterations=10), (belief, x[:1], y[:1])),
        "laplace_update": (
            lambda belief, params, x, y: lf.laplace_update(belief, params, networks.apply, LIKELIHOOD, x, y),
            (belief, params, x, y),
        ),
        "smooth": (smooth, (beliefs,)),
        "sample": (lambda key, belief: lf.sample(key, belief, 5), (jax.random.key(2), belief)),
        "filter_stream": (stream, (belief, x[:STEPS], y[:STEPS])),
        "predictive": (lambda belief, x: lf.predictive(belief, networks.apply, x), (belief, x)),
    }


def seconds(call: Callable, arguments: tuple) -> float:
    """Of a first call, all threads together."""
    began = time.process_time()
    jax.block_until_ready(call(*arguments))
    return time.process_time() - began


def one(network: str, kernel: str, way: str) -> list[float]:
    """The gradient and a kernel, in this process."""
    calls = kernels(networks.initial(SIZES[network], jax.random.key(0)))
    gradient, arguments = calls["gradient"]
    call, own = calls[kernel]
    return [seconds(jax.jit(gradient), arguments), seconds(call if way == "called" else jax.jit(call), own)]


def main(only: str | None = None) -> None:
    """Seconds of each kernel and network, and how many gradients they are."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    console, rows = Console(), []
    for network, sizes in SIZES.items():
        names = list(kernels(networks.initial(sizes, jax.random.key(0))))[1:]
        found: dict[str, list[float]] = {}
        gradients = []
        for kernel in names if only is None else [name for name in names if name == only]:
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.compile", network, kernel, way]
                ran = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                gradient, own = json.loads(ran.stdout)
                gradients.append(gradient)
                found.setdefault(kernel, []).append(own)
            console.print(f"{network}, {kernel}: " + ", ".join(f"{s:.1f} s" for s in found[kernel]))
        gradient = statistics.median(gradients)
        rows.append((network, "gradient", gradient, 1.0, gradient, 1.0))
        rows += [(network, name, *(v for s in own for v in (s, s / gradient))) for name, own in found.items()]
    columns = ("network", "kernel", *(c for way in WAYS for c in (f"{way}, s", "of a gradient's")))
    report("compile", f"First calls, rank {RANK}; asked: {TARGET} gradients", columns, rows)


if __name__ == "__main__":
    print(json.dumps(one(*sys.argv[1:])))
