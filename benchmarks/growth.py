"""How time and memory grow: the exponent of each size on log axes, and working memory in the length of a stream."""

import functools
from typing import Any

import jax
import numpy as np

import lowrank_filter as lf
from benchmarks import networks
from benchmarks.measure import interleaved, memory, report

NOISE, LIKELIHOOD = 1e-4, lf.Categorical()
START = {"D": 400_000, "k": 10, "B": 200, "T": 100}


def problem(sizes: dict[str, int]) -> tuple[Any, Any, Any, Any]:
    """A network of two layers with about D parameters, its belief and B examples."""
    width = round(sizes["D"] / 800)
    params = networks.initial((790, width, 10), jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (max(sizes["B"], sizes["T"]), 790))
    y = jax.random.randint(jax.random.key(2), (len(x),), 0, 10)
    return lf.init(params, rank=sizes["k"]), params, x, y


def call(kernel: str, sizes: dict[str, int]) -> tuple[Any, tuple]:
    """A jitted kernel and its arguments."""
    belief, params, x, y = problem(sizes)
    if kernel == "predict":
        return jax.jit(functools.partial(lf.predict, process_noise=NOISE)), (belief,)
    if kernel == "stream":
        stream = lf.extended_filter(networks.apply, LIKELIHOOD, rank=sizes["k"], process_noise=NOISE)
        run = jax.jit(lambda belief, x, y: lf.filter_stream(stream, belief, x, y))
        return run, (belief, x[: sizes["T"]], y[: sizes["T"]])
    update = jax.jit(lambda b, p, x, y: lf.laplace_update(b, p, networks.apply, LIKELIHOOD, x, y))
    return update, (belief, params, x[: sizes["B"]], y[: sizes["B"]])


CASES = (
    ("predict", "D", (3_200_000, 6_400_000, 12_800_000, 25_600_000)),
    ("predict", "k", (10, 20, 40)),
    ("stream", "D", (1_600_000, 3_200_000, 6_400_000)),
    ("stream", "T", (25, 50, 100)),
    ("laplace update", "D", (200_000, 400_000, 800_000)),
    ("laplace update", "B", (250, 500, 1000)),
)


def main(repeats: int = 5) -> None:
    """The table."""
    rows = []
    for kernel, axis, values in CASES:
        start = START | ({"T": 5} if kernel == "stream" and axis == "D" else {})
        made = {str(value): call(kernel, start | {axis: value}) for value in values}
        timings = interleaved({name: functools.partial(run, *args) for name, (run, args) in made.items()}, repeats)
        times = [timings[name].median for name in made]
        bytes_ = [memory(run, *args).temporary for run, args in made.values()]
        slopes = [float(np.polyfit(np.log(values), np.log(np.maximum(v, 1e-9)), 1)[0]) for v in (times, bytes_)]
        steps = ", ".join(f"{1e3 * t:.3g}" for t in times)
        rows.append((kernel, axis, ", ".join(f"{v:,}" for v in values), steps, *slopes))
    columns = ("kernel", "", "values", "ms", "exponent of time", "of working memory")
    report("growth", f"From {START}", columns, rows)
