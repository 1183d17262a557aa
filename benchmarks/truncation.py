"""Truncation of a 20,000 × 30 factor in float32: ours against Householder QR with a small SVD, and one Gram matrix.

Singular values 1e2 … 1e-5, columns mixed by a rotation. Errors are against a float64 SVD of the same float32 matrix.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import lowrank_filter as lf
from benchmarks.measure import interleaved, report

D, N = 20_000, 30


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


def main(repeats: int = 30) -> None:
    """Milliseconds, and the errors of what is kept."""
    stack, rows = problem(), []
    for rank in (10, 20):
        compiled = {name: functools.partial(jax.jit(f, static_argnums=1), stack, rank) for name, f in METHODS.items()}
        timings = interleaved(compiled, repeats)
        for name, timing in timings.items():
            ratio = timing.median / timings["QR + small SVD"].median
            rows.append((rank, name, 1e3 * timing.median, ratio, *errors(stack, compiled[name]())))
    columns = ("rank", "", "ms", "time / QR's", "worst singular value", "orthogonality")
    report("truncation", f"{D:,} × {N}, float32", columns, rows)
