"""Errors at the boundary, of tokens and of what decodes them: what was expected, what came, what to do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from lowrank_filter.common import checks

_FUNCTIONS = ("init", "hidden", "embed", "logits", "initial_cache", "extend")


def tokens(
    name: str, value: Any, vocabulary: int | None = None, window: int | None = None, axes: tuple[int, ...] | None = None
) -> Int[Array, "*shape"]:
    """Integers 0 … V−1 along at most ``window`` positions, at least one."""
    try:
        array = value if isinstance(value, jax.Array) else jnp.asarray(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected integers, got {type(value).__name__}; give the tokens' numbers") from error
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: expected integers, got {array.dtype}; give the tokens' numbers, 0 … vocabulary − 1")
    if axes is not None and (array.ndim not in axes or 0 in array.shape):
        wanted = " or ".join({0: "()", 1: "(T,)", 2: "(B, T)"}[axis] for axis in axes)
        raise ValueError(f"{name}: expected shape {wanted}, not empty, got {array.shape}; one row per sequence")
    if window is not None and array.ndim and array.shape[-1] > window:
        raise ValueError(
            f"{name}: expected at most {window} tokens, the model's window, got {array.shape[-1]}; cut them, or build "
            "the model with a larger window"
        )
    if vocabulary is not None and not isinstance(array, Tracer):
        seen = np.asarray(array)
        if seen.size and not (seen.min() >= 0 and seen.max() < vocabulary):
            raise ValueError(
                f"{name}: expected tokens 0 … {vocabulary - 1}, got {seen.min()} … {seen.max()}; build the model with "
                "a vocabulary that has them"
            )
    return array


def sequence_mask(name: str, value: Any, expected: tuple[int, ...]) -> Array:
    """A boolean for each token."""
    array = checks.booleans(name, value)
    checks.shape(name, array, expected, "one boolean per token")
    return array


def last_axis(name: str, value: Any, width: int, advice: str) -> Array:
    """An array of numbers whose last axis has this size."""
    array = checks.numbers(name, value, advice)
    if not array.ndim or array.shape[-1] != width:
        raise ValueError(f"{name}: expected shape (…, {width}), got {array.shape}; {advice}")
    return array


def length(name: str, value: Any, window: int | None, least: int = 1) -> None:
    """A number of tokens in the window."""
    checks.count(name, value, minimum=1)
    if value < least or (window is not None and value > window):
        wanted = f"at least {least}" if window is None else f"{least} … {window}, the model's window"
        raise ValueError(f"{name}: expected {wanted}, got {value}; shorten it, or build the model with a larger window")


def prompt_length(value: Any, prompt: tuple[int, ...]) -> Int[Array, "*B"]:
    """A number of tokens of each row, 1 … P."""
    array = tokens("prompt_length", value)
    checks.shape("prompt_length", array, prompt[:-1], "one number a row")
    if not isinstance(array, Tracer):
        seen = np.asarray(array)
        if not ((seen >= 1) & (seen <= prompt[-1])).all():
            raise ValueError(
                f"prompt_length: expected 1 … {prompt[-1]}, got {seen.min()} … {seen.max()}; count a row's own tokens"
            )
    return array


def room(cached: int, size: int, position: Any) -> None:
    """A position from which so many tokens fit into the cache, where it can be seen."""
    number = isinstance(position, int | np.integer | jax.Array | np.ndarray) and not isinstance(position, bool)
    if not number or not jnp.issubdtype(jnp.result_type(position), jnp.integer) or jnp.ndim(position):
        raise TypeError(f"position: expected one integer, got {position!r}; vmap over rows at their own positions")
    if not isinstance(position, Tracer) and not 0 <= int(position) <= cached - size:
        raise ValueError(
            f"position: expected 0 … {cached - size} for {size} tokens and a cache of {cached}, got {int(position)}; "
            "make the cache longer"
        )


def model(value: Any) -> None:
    """A model of token sequences."""
    missing = [name for name in _FUNCTIONS if not callable(getattr(value, name, None))]
    if missing:
        raise TypeError(
            f"model: expected functions {', '.join(_FUNCTIONS)}, got {type(value).__name__} without "
            f"{', '.join(missing)}; build one with latenttrack.transformer"
        )
    _hashable("model", value)


def dynamics(value: Any) -> None:
    """Latent dynamics."""
    if not callable(getattr(value, "apply", None)) or isinstance(value, type):
        raise TypeError(
            f"dynamics: expected a function apply(params, h, embedding), got {type(value).__name__}; for instance "
            "latenttrack.LatentDynamics(width)"
        )
    _hashable("dynamics", value)


def pair(params: Any) -> tuple[Any, Any]:
    """Parameters of the model and of ψ."""
    if not isinstance(params, tuple) or len(params) != 2:
        raise TypeError(
            f"params: expected the pair (model's, dynamics'), got {type(params).__name__}; write "
            "latenttrack.NextLatParams(model.init(key), dynamics.init(key))"
        )
    return params[0], params[1]


def _hashable(name: str, value: Any) -> None:
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"{name}: expected something hashable, got {type(value).__name__}, which is not; it is static under "
            "jax.jit: use a NamedTuple of functions or a frozen dataclass"
        ) from error
