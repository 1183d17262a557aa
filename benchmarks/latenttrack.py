"""The latent filter: cost along a stream and against a VRNN, memory in the length, and seeds side by side or in turn.

Times are medians of calls that take turns in one process. Run with OPENBLAS_NUM_THREADS=1.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import latenttrack as lt
from experiments.baselines import vrnn
from experiments.results import versions, written_whole
from experiments.streams.models import LT, latent

X, Y, SAMPLES, REPEATS = 10, 1, 32, 15
STEPS, CHUNK = 100_000, 1_000
SEEDS, WINDOWS, WINDOW, UPDATES = 4, 8, 256, 10
RESULTS = Path(__file__).parent / "results" / "latenttrack.json"

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
    """Seconds of each call, interleaved, so that a slow moment of the machine hits all."""
    for call in calls.values():
        jax.block_until_ready(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


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


def table(title: str, *columns: str) -> Table:
    made = Table(title=f"{title}, float32, {jax.devices()[0].device_kind}", title_justify="left")
    for column in ("", *columns):
        made.add_column(column, justify="right" if column else "left")
    return made


def main() -> None:
    console = Console()
    ours = MODELS["LatentTrack, structured"]
    found = {"along": along(ours), "temporary_bytes": memory(ours), "per_step": per_step(), "training": training()}

    made = table(f"{STEPS:,} steps, K = {SAMPLES}", f"first {CHUNK:,}, µs/step", f"last {CHUNK:,}", "ratio", "programs")
    line = found["along"]
    made.add_row(
        "structured", f"{line['first']:.1f}", f"{line['last']:.1f}", f"{line['ratio']:.2f}", f"{line['compilations']}"
    )
    console.print(made)
    made = table("Temporary memory by length, bytes", *found["temporary_bytes"])
    made.add_row("structured", *(f"{size:,}" for size in found["temporary_bytes"].values()))
    console.print(made)
    made = table(f"A streamed step, K = {SAMPLES}", "µs/step", "time / VRNN's")
    for name, value in found["per_step"].items():
        made.add_row(name, f"{value:.1f}", f"{value / found['per_step']['VRNN']:.2f}")
    console.print(made)
    made = table(f"Training {SEEDS} seeds, windows of {WINDOW} a second", *found["training"])
    for way in found["training"]["VRNN"]:
        made.add_row(way, *(f"{rates[way]:,.0f}" for rates in found["training"].values()))
    console.print(made)

    with written_whole(RESULTS) as file:
        device = jax.devices()[0].device_kind
        file.write(json.dumps(found | {"device": device, "versions": versions()}, indent=2).encode())


if __name__ == "__main__":
    main()
