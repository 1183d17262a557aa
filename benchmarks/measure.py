"""Side-by-side timing: what is compared runs interleaved in one process, so that a slow moment hits all alike."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from experiments.run.results import plain, versions, written_whole

RESULTS = Path(__file__).parent / "results"


class Timing(NamedTuple):
    """Seconds: the median and the quartiles of the calls after the first, and what the first took beyond them."""

    median: float
    lower: float
    upper: float
    compile: float


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Time each call ``repeats`` times, one after another in turn, after one call that compiles."""
    first, times = {}, {name: [] for name in calls}
    for name, call in calls.items():
        first[name] = _seconds(call)
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(_seconds(call))
    timings = {}
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        lower, _, upper = statistics.quantiles(seconds, n=4) if repeats > 1 else (middle,) * 3
        timings[name] = Timing(middle, lower, upper, max(first[name] - middle, 0))
    return timings


class Memory(NamedTuple):
    """Bytes that a compiled function needs beyond its arguments: while it runs, and for its results."""

    temporary: int
    results: int


def memory(compiled: Any, *arguments: Any) -> Memory:
    """What the compiler says of a jitted function."""
    analysis = compiled.lower(*arguments).compile().memory_analysis()
    return Memory(analysis.temp_size_in_bytes, analysis.output_size_in_bytes)


def report(
    name: str,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    facts: Any = None,
    *,
    command: str | None = None,
) -> None:
    """Print a table and write it, with the machine and the command, to benchmarks/results/NAME.json."""
    table = Table(title=f"{title} — {device()}", title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(_shown, row))
    Console(width=160).print(table)
    record(name, columns, rows, facts, command=command)


def record(
    name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], facts: Any = None, *, command: str | None = None
) -> None:
    """Write a table, with the machine and the command, to benchmarks/results/NAME.json."""
    content = {
        "command": f"python -m benchmarks {command or name}",
        "machine": {
            "device": device(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS", "not set"),
        },
        "versions": versions(),
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "facts": facts,
    }
    RESULTS.mkdir(exist_ok=True)
    with written_whole(RESULTS / f"{name}.json") as file:
        file.write((json.dumps(content, indent=1, default=plain) + "\n").encode())


def recorded(name: str, columns: Sequence[str], facts: Any) -> list[list[Any]]:
    """The rows that were recorded with these columns and facts and the same versions; none where others were."""
    try:
        content = json.loads((RESULTS / f"{name}.json").read_text())
    except FileNotFoundError:
        return []
    same = json.loads(json.dumps([list(columns), facts, versions()], default=plain))
    return content["rows"] if [content[key] for key in ("columns", "facts", "versions")] == same else []


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def device() -> str:
    """What this is measured on."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or "CPU"
    return f"{model}, {os.cpu_count()} cores"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "–" if value is None else str(value)
