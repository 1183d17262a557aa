"""Many classes: an update's memory in bytes of the parameters and its time in gradients of the same loss.

A network 32-45-C takes random inputs, from a prior of its own; of 512 outputs and fewer a batch, matrices of outputs by
outputs are held, of more the structure of the last layer is used.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

import lowrank_filter as lf
from benchmarks import networks
from benchmarks.measure import interleaved, memory, report

INPUTS, HIDDEN, RANK, NOISE = 32, 45, 10, 1e-5
CASES = ((10, 1), (100, 1), (1000, 1), (1000, 16))
LIKELIHOOD = lf.Categorical()


def loss(params: Any, x: Array, y: Array) -> Array:
    """Of all examples."""
    return jnp.sum(jax.vmap(LIKELIHOOD.nll)(networks.apply(params, x), y))


def update(belief: lf.Belief, x: Array, y: Array, iterations: int) -> tuple[lf.Belief, Array]:
    """Predict and update."""
    options: dict[str, Any] = {"process_noise": NOISE, "iterations": iterations}
    after, info = lf.update(belief, networks.apply, LIKELIHOOD, x, y, **options)
    return after, info.log_evidence


def main(repeats: int = 9) -> None:
    """A row for each number of classes and examples, and each kind of step."""
    rows = []
    for classes, examples in CASES:
        params = networks.initial((INPUTS, HIDDEN, classes), jax.random.key(0))
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        x = jax.random.normal(jax.random.key(1), (examples, INPUTS))
        y = jnp.arange(examples) % classes
        belief = lf.init(params, lf.scaled(networks.apply, x), rank=RANK)
        steps = {
            "guarded": jax.jit(functools.partial(update, iterations=1)),
            "plain": jax.jit(functools.partial(update, iterations=0)),
        }
        calls: dict[str, Any] = {"gradient": functools.partial(jax.jit(jax.grad(loss)), params, x, y)}
        timings = interleaved(calls | {name: functools.partial(s, belief, x, y) for name, s in steps.items()}, repeats)
        for name, step in steps.items():
            used = memory(step, belief, x, y).temporary
            ms, gradients = 1e3 * timings[name].median, timings[name].median / timings["gradient"].median
            rows.append((classes, examples, name, ms, gradients, used / 1e6, used / size, timings[name].compile))
    columns = ("classes", "examples", "step", "ms", "gradients", "MB", "parameters' bytes", "compile s")
    report("classes", f"{INPUTS}-{HIDDEN}-C, rank {RANK}", columns, rows, {"noise": NOISE, "repeats": repeats})
