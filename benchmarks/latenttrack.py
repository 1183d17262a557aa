"""The latent filter: cost along a stream and against a VRNN, memory in the length, and seeds side by side or in turn.

Times are medians of calls that take turns in one process.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import latenttrack as lt
from benchmarks.measure import interleaved, report
from experiments.streaming.models import vrnn
from experiments.streaming.models.latent import LT, latent

X, Y, SAMPLES, REPEATS = 10, 1, 32, 15
STEPS, CHUNK = 100_000, 1_000
SEEDS, WINDOWS, WINDOW, UPDATES = 4, 8, 256, 10

MODELS = {
    "LatentTrack, structured": lt.build(LT, X, Y),
    "LatentTrack, unstructured": latent(transition="unstructured").build(X, Y, 0),
    "LatentTrack, structured, random points": latent(points="random").build(X, Y, 0),
    "VRNN": vrnn.build(X, Y),
}


def stream(steps: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(steps, X)), jnp.float32), jnp.asarray(rng.normal(size=(steps, Y)), jnp.float32)


def medians(calls: Mapping[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, float]:
    """Seconds of each call."""
    return {name: timing.median for name, timing in interleaved(calls, repeats).items()}


def along(model: Any) -> dict[str, Any]:
    """The first and the last 1,000 of 100,000 steps, each in the state that the stream has there; µs per step."""
    xs, ys = stream(CHUNK)
    params = model.init(jax.random.key(0))
    compiled = jax.jit(lambda params, xs, ys, state: model.rollout(params, jax.random.key(1), xs, ys, state, SAMPLES))
    first = last = model.initial_state(params)
    for _ in range(STEPS // CHUNK - 1):
        last, _ = compiled(params, xs, ys, last)
    calls = {"first": lambda: compiled(params, xs, ys, first), "last": lambda: compiled(params, xs, ys, last)}
    times = {name: 1e6 * seconds / CHUNK for name, seconds in medians(calls).items()}
    return times | {"ratio": times["last"] / times["first"], "compilations": compiled._cache_size()}  # type: ignore[attr-defined]


def memory(model: Any) -> dict[str, int]:
    """Bytes that a compiled rollout needs beside its arguments and results, by the length of the stream."""
    params = model.init(jax.random.key(0))
    found = {}
    for steps in (1_000, 10_000, 100_000):
        xs, ys = (jax.ShapeDtypeStruct((steps, width), jnp.float32) for width in (X, Y))
        rollout = jax.jit(lambda params, xs, ys: model.rollout(params, jax.random.key(1), xs, ys, samples=SAMPLES))
        analysis = rollout.lower(params, xs, ys).compile().memory_analysis()
        found[f"{steps:,}"] = analysis.temp_size_in_bytes  # type: ignore[union-attr]
    return found


def per_step() -> dict[str, float]:
    """Microseconds of a streamed step of each model."""
    xs, ys = stream(CHUNK)

    def call(model: Any) -> Callable[[], Any]:
        params = model.init(jax.random.key(0))
        compiled = jax.jit(lambda params: model.rollout(params, jax.random.key(1), xs, ys, samples=SAMPLES)[1])
        return lambda: compiled(params)

    times = medians({name: call(model) for name, model in MODELS.items()})
    return {name: 1e6 * seconds / CHUNK for name, seconds in times.items()}


def training() -> dict[str, dict[str, float]]:
    """Training windows a second, seeds (and the windows of an update) side by side by ``vmap`` or by ``lax.map``."""
    xs, ys = stream(WINDOW * (WINDOWS + 2))
    keys = jax.random.split(jax.random.key(0), SEEDS)
    options: dict[str, Any] = {"updates": UPDATES, "evaluate_every": UPDATES, "window": WINDOW, "batch": WINDOWS}

    def call(model: Any, seeds: Any, windows: Any) -> Callable[[], Any]:
        return lambda: lt.fit(model, keys, xs, ys, seeds=seeds, windows=windows, **options).history.loss

    found = {}
    for name in ("LatentTrack, structured", "VRNN"):
        calls = {
            f"seeds by {seeds}, windows by {windows}": call(MODELS[name], seeds, windows)
            for seeds in ("vmap", "map")
            for windows in ("vmap", "map")
        }
        times = medians(calls, repeats=3)
        found[name] = {way: SEEDS * WINDOWS * UPDATES / seconds for way, seconds in times.items()}
    return found


def main() -> None:
    """One table of all of it."""
    ours = MODELS["LatentTrack, structured"]
    line, bytes_, steps, rates = along(ours), memory(ours), per_step(), training()
    rows = [
        (f"step at the start of {STEPS:,}", "µs", line["first"], None),
        ("step at the end", "µs", line["last"], line["ratio"]),
        ("programs compiled", "", line["compilations"], None),
        *((f"temporary memory, {name} steps", "bytes", size, None) for name, size in bytes_.items()),
        *((f"step, {name}", "µs", value, value / steps["VRNN"]) for name, value in steps.items()),
        *(
            (f"training, {name}, {way}", "windows/s", rate, rate / found["seeds by vmap, windows by vmap"])
            for name, found in rates.items()
            for way, rate in found.items()
        ),
    ]
    title = f"K = {SAMPLES}, {SEEDS} seeds, {WINDOWS} windows of {WINDOW} an update"
    columns = ("", "unit", "value", "/ first, VRNN's, vmap's")
    report("latenttrack", title, columns, rows)
