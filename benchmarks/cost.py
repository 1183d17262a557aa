"""What a network will cost: bytes of state for each structure, and milliseconds of each kernel on this machine.

Measured on a network with two hidden layers of equal width and twice as many inputs as that, with about the number of
parameters that was asked for and random weights and data: times depend on shapes, not on values.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from rich.console import Console

import lowrank_filter as lf
from benchmarks import networks
from benchmarks.measure import interleaved, memory, report

NOISE = 1e-4


def sizes(parameters: int, outputs: int) -> tuple[int, ...]:
    """Widths (2h, h, h, C) with 3h² + (C + 2)h + C parameters, nearest to what was asked for."""
    width = max(1, round((math.sqrt((outputs + 2) ** 2 + 12 * max(parameters - outputs, 1)) - outputs - 2) / 6))
    return 2 * width, width, width, outputs


def main(parameters: int, rank: int, outputs: int, examples: int, repeats: int = 5) -> None:
    """Print each row as it is measured, then the table."""
    shape = sizes(parameters, outputs)
    params = networks.initial(shape, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (examples, shape[0]))
    y = jax.random.randint(jax.random.key(2), (examples,), 0, outputs)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    rows, console = [], Console()
    structures: tuple[Literal["network", "unit", "kronecker"], ...] = ("network", "unit", "kronecker")
    for structure in structures:
        kronecker = structure == "kronecker"
        belief = (
            lf.init(params, structure="kronecker") if kronecker else lf.init(params, rank=rank, structure=structure)
        )
        for name, (call, arguments) in kernels(belief, params, x, y).items():
            compiled = jax.jit(call)
            timing = interleaved({name: functools.partial(compiled, *arguments)}, repeats)[name]
            used = memory(compiled, *arguments)
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(belief))
            rows.append((structure, name, size / 1e6, used.temporary / 1e6, 1e3 * timing.median, timing.compile))
            console.print(f"{structure}, {name}: {1e3 * timing.median:.3g} ms, compiled in {timing.compile:.1f} s")
    title = f"{'-'.join(map(str, shape))}: D = {count:,}, rank {rank}, {outputs} outputs, {examples:,} examples"
    report("cost", title, ("structure", "kernel", "state MB", "working MB", "ms", "compile s"), rows)


def kernels(belief: lf.Belief, params: Any, x: Any, y: Any) -> dict[str, tuple[Any, tuple]]:
    """Each kernel with its arguments."""

    def smooth(belief: lf.Belief) -> lf.Belief:
        beliefs = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), belief)
        return lf.smooth(beliefs, beliefs.precision, NOISE)

    def step(belief: lf.Belief, x: Any, y: Any) -> lf.Belief:
        return lf.update(belief, networks.apply, lf.Categorical(), x, y, process_noise=NOISE)[0]

    def laplace(belief: lf.Belief, params: Any, x: Any, y: Any) -> lf.Belief:
        return lf.laplace_update(belief, params, networks.apply, lf.Categorical(), x, y)[0]

    def predictive(belief: lf.Belief, x: Any) -> Any:
        return lf.predictive(belief, networks.apply, x)

    return {
        "predict": (functools.partial(lf.predict, process_noise=NOISE), (belief,)),
        "predict + update, one example": (step, (belief, x[:1], y[:1])),
        f"Laplace update, {len(x):,} examples": (laplace, (belief, params, x, y)),
        "smooth, one step": (smooth, (belief,)),
        f"predictive, {len(x[:256])} examples": (predictive, (belief, x[:256])),
    }
