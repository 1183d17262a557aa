"""Many seeds at once: 32 streams by vmap in one program, against the same program for one stream, 32 times."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from benchmarks import networks, streaming
from benchmarks.measure import interleaved, report

SIZES, RANK, SEEDS, STEPS = (64, 50, 50, 10), 10, 32, 1000


def main(repeats: int = 2) -> None:
    """Seconds for all seeds."""
    x, y = streaming.data(SIZES[0], STEPS)
    starts = jax.vmap(functools.partial(networks.initial, SIZES))(jax.random.split(jax.random.key(0), SEEDS))
    run = streaming.ours(networks.apply, "relative", rank=RANK, **streaming.MODEL)
    together, single = jax.jit(jax.vmap(run, in_axes=(0, None, None))), jax.jit(run)
    mapped = jax.jit(lambda starts: jax.lax.map(lambda start: run(start, x, y), starts))

    def one(number: int) -> Array:
        return jax.block_until_ready(single(jax.tree.map(lambda leaf: leaf[number], starts), x, y))

    def one_by_one() -> list[Array]:
        return [one(number) for number in range(SEEDS)]

    calls = {
        "one after another": one_by_one,
        "lax.map": lambda: mapped(starts),
        "vmap": lambda: together(starts, x, y),
    }
    timings = interleaved(calls, repeats)
    slow = timings["one after another"].median
    each = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one())
    pairs = zip(jax.tree.leaves(together(starts, x, y)), jax.tree.leaves(each), strict=True)
    apart = max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in pairs)
    rows = [(name, timing.median, slow / timing.median) for name, timing in timings.items()]
    title = f"{SEEDS} seeds, {'-'.join(map(str, SIZES))}, rank {RANK}, {STEPS:,} steps"
    report("seeds", title, ("", "seconds", "speed-up"), rows, {"relative difference of the means": apart})
