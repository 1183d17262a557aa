"""Errors at the boundary: what was expected, what came, what to do.

Shapes are checked always, also under tracing. Values are checked where they can be seen.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def count(name: str, value: Any, *, minimum: int) -> None:
    """A static integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(
            f"{name}: expected a static integer >= {minimum}, got {value!r}"
            + ("; mark it static under jax.jit" if isinstance(value, Tracer) else "")
        )


def choice(name: str, value: Any, options: tuple[str, ...]) -> None:
    """One of a few strings."""
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")


def not_negative(name: str, value: Any) -> None:
    """Every element is ≥ 0 and finite, where it can be seen."""
    if isinstance(value, Tracer):
        return
    array = np.asarray(value)
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        raise ValueError(f"{name}: expected non-negative values, got {array[bad].ravel()[0]}")


def shape(name: str, value: Any, expected: tuple[int, ...], advice: str) -> None:
    """An array of exactly this shape."""
    if jnp.shape(value) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {jnp.shape(value)}; {advice}")


def stream(xs: Any, ys: Any, mask: Any, x_dim: int | None = None, y_dim: int | None = None) -> None:
    """Inputs [T, x_dim], targets [T, y_dim] and, if any, a mask [T]."""
    for name, value, width in (("xs", xs, x_dim), ("ys", ys, y_dim)):
        came = jnp.shape(value)
        if len(came) != 2 or (width is not None and came[1] != width):
            raise ValueError(
                f"{name}: expected shape (T, {'dim' if width is None else width}), got {came}; "
                "one row per time step, and a vmap over several streams"
            )
    lengths = {"xs": len(xs), "ys": len(ys)} | ({} if mask is None else {"mask": len(mask)})
    if len(set(lengths.values())) > 1:
        raise ValueError(f"xs, ys, mask: expected the same number of time steps, got {lengths}; cut them to one length")
    if mask is not None:
        shape("mask", mask, (len(xs),), "one boolean per time step")
