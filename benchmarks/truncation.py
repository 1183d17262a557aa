"""Truncation of a 20,000 × 30 factor in float32: ours against Householder QR with a small SVD, and one Gram matrix.

Singular values 1e2 … 1e-5, columns mixed by a rotation. Errors are against a float64 SVD of the same float32 matrix.
Run with OPENBLAS_NUM_THREADS=1.
"""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from rich.console import Console
from rich.table import Table

import lowrank_filter as lf

D, N, REPEATS = 20_000, 30, 30


def ours(rows: Array, rank: int) -> Array:
    precision = lf.DiagLowRank(jnp.ones(rows.shape[1]), rows)
    return lf.truncate(precision, rank, residual="drop", metric="euclidean").factor


def householder(rows: Array, rank: int) -> Array:
    q, r = jnp.linalg.qr(rows.T)
    u, s, _ = jnp.linalg.svd(r)
    return ((q @ u[:, :rank]) * s[:rank]).T


def gram(rows: Array, rank: int) -> Array:
    _, vectors = jnp.linalg.eigh(jnp.matmul(rows, rows.T, precision="highest"))
    return jnp.matmul(vectors[:, ::-1][:, :rank].T, rows, precision="highest")


METHODS: dict[str, Callable[[Array, int], Array]] = {
    "lf.truncate": ours,
    "QR + small SVD": householder,
    "one Gram matrix + eigh": gram,
}


def problem() -> Array:
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(D, N)))[0]
    mix = np.linalg.qr(rng.normal(size=(N, N)))[0]
    return jnp.asarray((left * np.logspace(2, -5, N) @ mix.T).T, jnp.float32)


def errors(rows: Array, kept: Array) -> tuple[float, float]:
    """Largest relative error of a kept singular value, and of orthogonality."""
    exact = np.linalg.svd(np.asarray(rows, np.float64), compute_uv=False)[: len(kept)]
    wide = np.asarray(kept, np.float64)
    norms = np.linalg.norm(wide, axis=1)
    cosines = (wide / norms[:, None]) @ (wide / norms[:, None]).T
    return float(np.abs(norms / exact - 1).max()), float(np.abs(cosines - np.eye(len(kept))).max())


def main() -> None:
    rows, console = problem(), Console()
    for rank in (10, 20):
        compiled = {name: jax.jit(function, static_argnums=1) for name, function in METHODS.items()}
        kept = {name: jax.block_until_ready(function(rows, rank)) for name, function in compiled.items()}
        times: dict[str, list[float]] = {name: [] for name in METHODS}
        for _ in range(REPEATS):  # interleaved, so that a slow moment of the machine hits all
            for name, function in compiled.items():
                began = time.perf_counter()
                jax.block_until_ready(function(rows, rank))
                times[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(values) for name, values in times.items()}
        table = Table(title=f"{D:,} × {N}, rank {rank}, float32, {jax.devices()[0].device_kind}", title_justify="left")
        for column in ("", "ms", "time / QR's", "worst singular value", "orthogonality"):
            table.add_column(column, justify="right" if column else "left")
        for name, median in medians.items():
            value, orthogonality = errors(rows, kept[name])
            ratio = median / medians["QR + small SVD"]
            table.add_row(name, f"{1e3 * median:.2f}", f"{ratio:.2f}", f"{value:.1e}", f"{orthogonality:.1e}")
        console.print(table)


if __name__ == "__main__":
    main()
