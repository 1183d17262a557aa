"""Ten million parameters: predict and the smoothing gain against a copy of the same bytes.

The state is a belief N(m, P⁻¹) with P diagonal plus rank 20. A copy reads and writes it once; predict has to do that
and two products with its factor, the gain reads the factor and returns one vector.
"""

import jax
from jaxtyping import Array

import lowrank_filter as lf
from benchmarks.measure import interleaved, memory, report

D, RANK, NOISE = 10_000_000, 20, 1e-4


def state(parameters: int = D) -> lf.Belief:
    """A belief with a factor of small random numbers, as one flat vector of parameters."""
    keys = jax.random.split(jax.random.key(0), 3)
    diag = 1 + jax.random.uniform(keys[0], (parameters,))
    factor = 1e-3 * jax.random.normal(keys[2], (RANK, parameters))
    return lf.Belief(jax.random.normal(keys[1], (parameters,)), lf.DiagLowRank(diag, factor))


def copy(belief: lf.Belief) -> lf.Belief:
    """Every number read and written once."""
    return jax.tree.map(lambda leaf: leaf + 1, belief)


def predict(belief: lf.Belief) -> lf.Belief:
    """The kernel."""
    return lf.predict(belief, NOISE)


def gain(belief: lf.Belief) -> Array:
    """G v of the smoother for a vector v."""
    precision = belief.precision
    noise, transition = (precision.in_structure("", value, belief.mean) for value in (NOISE, 1.0))
    return precision.smoothing_gain(belief.mean, noise, transition)


def main(repeats: int = 7) -> None:
    """Seconds in copies, and peak memory in states."""
    belief = jax.block_until_ready(jax.jit(state)())
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(belief))
    calls = {"copy": copy, "predict": predict, "smoothing gain": gain}
    compiled = {name: jax.jit(call) for name, call in calls.items()}
    timings = interleaved({name: lambda call=call: call(belief) for name, call in compiled.items()}, repeats)
    rows = []
    for name, call in compiled.items():
        used = memory(call, belief)
        rows.append(
            (
                name,
                timings[name].median,
                timings[name].median / timings["copy"].median,
                (size + used.temporary + used.results) / size,
                timings[name].compile,
            )
        )
    title = f"D = {D:,}, rank {RANK}: a state of {size / 1e6:,.0f} MB"
    report("large", title, ("", "seconds", "copies", "peak / state", "compile s"), rows, {"repeats": repeats})
