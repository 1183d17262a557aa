"""Errors at the boundary of the room: what was expected, what came, what to do."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from lowrank_filter.common.checks import choice, count, flag, instance, key, like, numbers

__all__ = [
    "choice",
    "count",
    "count_of_outputs",
    "flag",
    "instance",
    "key",
    "like",
    "marginals",
    "model",
    "number",
    "numbers",
    "share",
    "sites",
    "square",
    "steps",
    "tokens",
    "values",
]


def static_numbers(name: str, value: Any, advice: str) -> np.ndarray:
    """Real numbers that are known before tracing."""
    if isinstance(value, Tracer):
        raise TypeError(f"{name}: expected static numbers, got a traced array; close over them, or {advice}")
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array of real numbers, got {type(value).__name__}; {advice}") from error
    return array


def number(name: str, value: Any, *, zero: bool = False) -> Array:
    """One finite number > 0 (or ≥ 0), where it can be seen."""
    advice = "give one number; a vmap is for several"
    array = numbers(name, value, advice)
    if array.ndim:
        raise ValueError(f"{name}: expected one number, got shape {array.shape}; {advice}")
    _seen(name, array, lambda v: (v >= 0) if zero else (v > 0), "non-negative" if zero else "positive", "correct it")
    return array


def share(name: str, value: Any) -> None:
    """A static number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        advice = "mark it static under jax.jit" if isinstance(value, Tracer) else "give a Python number"
        raise ValueError(f"{name}: expected a static number in [0, 1], got {value!r}; {advice}")


def steps(value: Any) -> Array:
    """Time between neighbours: one number > 0, or [T−1] numbers ≥ 0."""
    array = numbers("step", value, "give the time between neighbours, a number or [T-1]")
    if array.ndim > 1:
        raise ValueError(f"step: expected a number or shape (T-1,), got {array.shape}; for instance jnp.diff(times)")
    if not array.ndim:
        return number("step", value)
    _seen("step", array, lambda v: v >= 0, "non-negative", "sort the times before jnp.diff(times)")
    return array


def square(name: str, value: Any) -> Array:
    """A matrix [S, S]."""
    array = numbers(name, value, "a matrix [S, S]; vmap over several")
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not array.size:
        raise ValueError(f"{name}: expected shape (S, S), got {array.shape}; vmap over several")
    return array


def model(value: Any, kind: type, *, name: str = "model") -> int:
    """A state-space model whose shapes fit together; its state's size."""
    instance(name, value, kind, "make one with matern, rbf, coupled, add or multiply")
    advice = "make it with matern, rbf, coupled, add or multiply; vmap over channels"
    arrays = [numbers(f"{name}.{field}", part, advice) for field, part in zip(value._fields, value, strict=True)]
    transition, noise, stationary = arrays
    size = stationary.shape[0] if stationary.ndim == 2 else 0
    fits = transition.ndim in (2, 3) and transition.shape[-2:] == (size, size) and noise.ndim == transition.ndim
    if not fits or noise.shape[:-1] != transition.shape[:-1]:
        raise ValueError(
            f"{name}: expected transition (S, S) or (T-1, S, S), noise_root (.., S, N) and stationary_root (S, S), got "
            f"{transition.shape}, {noise.shape} and {stationary.shape}; {advice}"
        )
    return size


def count_of_outputs(value: Any, size: int) -> int:
    """How many of the state's first coordinates are observed; None for one without an axis of its own."""
    if value is None:
        return 1
    count("outputs", value, minimum=1)
    if value > size:
        raise ValueError(f"outputs: expected at most the {size} coordinates of the state, got {value}; give fewer")
    return int(value)


def fits(name: str, length: int, model: Any) -> None:
    """As many steps as a model of irregular steps has."""
    if model.transition.ndim == 3 and model.transition.shape[0] + 1 != length:
        raise ValueError(
            f"{name}: expected {model.transition.shape[0] + 1} steps, as the model has, "
            f"got {length}; give as many, or a model of one regular step"
        )


def values(name: str, value: Any, model: Any, size: int, *, finite: bool = True) -> Array:
    """Values [T], or [T, C] of the state's first C coordinates."""
    array = numbers(name, value, "one value per time step")
    if array.ndim not in (1, 2) or not array.size or (array.ndim == 2 and array.shape[1] > size):
        raise ValueError(
            f"{name}: expected shape (T,), or (T, C) with C <= {size}, got {array.shape}; vmap over channels"
        )
    if model is not None:
        fits(name, len(array), model)
    if finite:
        _seen(name, array, np.isfinite, "finite", "leave them out: precision 0 or a mask")
    return array


def pair(name: str, value: Any, kind: type, model: Any, size: int, *, zero: bool) -> Any:
    """Two arrays of one shape, the second positive (or ≥ 0)."""
    instance(name, value, kind, f"write gaussian_process.{kind.__name__}({', '.join(kind._fields)})")
    first, second = value._fields
    mean = values(f"{name}.{first}", value[0], model, size, finite=False)
    spread = numbers(f"{name}.{second}", value[1], f"of the shape of {first}")
    if spread.shape != mean.shape:
        raise ValueError(f"{name}.{second}: expected shape {mean.shape} as {first} has, got {spread.shape}; repeat it")
    wanted = "non-negative" if zero else "positive"
    _seen(f"{name}.{second}", spread, lambda v: v >= 0 if zero else v > 0, wanted, "correct them")
    if not isinstance(mean, Tracer) and not isinstance(spread, Tracer):
        bad = ~np.isfinite(np.asarray(mean)) & (np.asarray(spread) > 0)
        if bad.any():
            raise ValueError(
                f"{name}.{first}: expected finite values where {second} > 0, got {int(bad.sum())} that are not; "
                f"{'give these steps precision 0' if zero else 'correct them'}"
            )
    return kind(mean, spread)


def sites(value: Any, kind: type, model: Any, size: int) -> Any:
    """Means and precisions of sites."""
    return pair("sites", value, kind, model, size, zero=True)


def marginals(value: Any, kind: type, model: Any, size: int) -> Any:
    """Means and variances of a mean-field posterior."""
    return pair("posterior", value, kind, model, size, zero=False)


def tokens(value: Any, vocabulary: int, longest: int, *, name: str = "tokens", shortest: int = 1) -> Array:
    """Tokens [T] of a vocabulary, at most as many as the window is long."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: expected an array of integers, got {type(value).__name__}; encode the text first"
        ) from error
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an array of integers, got {array.dtype}; encode the text first")
    if array.ndim != 1 or len(array) < shortest:
        raise ValueError(f"{name}: expected shape (T,), T >= {shortest}, got {array.shape}; vmap over a batch")
    if len(array) > longest:
        raise ValueError(
            f"{name}: expected at most the window of {longest} tokens, got {len(array)}; cut them, or build a "
            "model of a longer window"
        )
    if not isinstance(array, Tracer):
        seen = np.asarray(array)
        if seen.min() < 0 or seen.max() >= vocabulary:
            raise ValueError(
                f"{name}: expected integers in 0 ... {vocabulary - 1}, got {seen.min()} ... {seen.max()}; use the "
                "vocabulary that the model was built with"
            )
    return array


def _seen(name: str, array: Array, test: Any, wanted: str, advice: str) -> None:
    if isinstance(array, Tracer):
        return
    seen = np.asarray(array)
    bad = ~(np.isfinite(seen) & test(seen))
    if bad.any():
        raise ValueError(
            f"{name}: expected {wanted} values, got {seen[bad].ravel()[0]} ({int(bad.sum())} of {seen.size}); {advice}"
        )
