"""Errors at the boundary: what was expected, what came, what to do.

Shapes are checked always, also under tracing. Values are checked where they can be seen.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def count(name: str, value: Any, *, minimum: int) -> None:
    """A static integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        advice = "mark it static under jax.jit" if isinstance(value, Tracer) else "give a Python integer"
        raise ValueError(f"{name}: expected a static integer >= {minimum}, got {value!r}; {advice}")


def choice(name: str, value: Any, options: tuple[str, ...]) -> None:
    """One of a few strings."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}; choose one of these")


def flag(name: str, value: Any) -> None:
    """A static boolean."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected a static True or False, got {value!r}; give one of them")


def static(name: str, value: Any) -> None:
    """A number that is known when a function is built."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        advice = "mark it static under jax.jit" if isinstance(value, Tracer) else "give a Python number"
        raise TypeError(f"{name}: expected a static number, got {type(value).__name__}; {advice}")


def instance(name: str, value: Any, kind: type, advice: str) -> None:
    """A value of one of the package's own types."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected a {kind.__name__}, got {type(value).__name__}; {advice}")


def numbers(name: str, value: Any, advice: str) -> Array:
    """An array of real numbers, floating point."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array of real numbers, got {type(value).__name__}; {advice}") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{name}: expected an array of real numbers, got {array.dtype}; {advice}")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def not_negative(name: str, value: Any) -> None:
    """One number ≥ 0 and finite, where it can be seen."""
    within(name, value, 0.0, np.inf, "non-negative values")


def rows(name: str, value: Any) -> Array:
    """A row for each time step."""
    array = numbers(name, value, "one row per time step")
    if array.ndim != 2:
        raise ValueError(f"{name}: expected shape (T, dim), got {array.shape}; one row per time step")
    return array


def positive(name: str, value: Any) -> None:
    """One number > 0 and finite, where it can be seen."""
    within(name, value, np.nextafter(0, 1), np.inf, "positive values")


def within(name: str, value: Any, lowest: float, highest: float, wanted: str) -> None:
    """One finite number between two, where it can be seen."""
    advice = "give one number; a grid of them is a vmap"
    array = numbers(name, value, advice)
    shape(name, array, (), advice)
    if not isinstance(array, Tracer):
        number = float(array)
        if not (np.isfinite(number) and lowest <= number <= highest):
            raise ValueError(f"{name}: expected {wanted}, got {value}; correct it")


def shape(name: str, value: Any, expected: tuple[int, ...], advice: str) -> None:
    """An array of exactly this shape."""
    if not hasattr(value, "shape"):
        value = numbers(name, value, advice) if not isinstance(value, bool) else np.asarray(value)
    if jnp.shape(value) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {jnp.shape(value)}; {advice}")


def key(value: Any, *, many: bool = False) -> None:
    """A typed random key, or an array of them."""
    if not (hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)):
        came = getattr(value, "dtype", type(value).__name__)
        wanted = "a jax.random.key, or an array of them" if many else "a jax.random.key"
        raise TypeError(f"key: expected {wanted}, got {came}; make one with jax.random.key(0)")
    if value.ndim > many:
        raise ValueError(
            f"key: expected shape {'() or (S,)' if many else '()'}, got {value.shape}; vmap over more keys"
        )


def like(name: str, value: Any, template: Any, advice: str) -> None:
    """A pytree of a template's structure and shapes."""
    expected, came = jax.tree.structure(template), jax.tree.structure(value)
    if expected != came:
        raise ValueError(f"{name}: expected the structure {expected}, got {came}; {advice}")
    for (path, leaf), reference in zip(
        jax.tree_util.tree_leaves_with_path(value), jax.tree.leaves(template), strict=True
    ):
        where = f"{name}{jax.tree_util.keystr(path)}"
        wanted = "integer" if jnp.issubdtype(reference.dtype, jnp.integer) else "floating-point"
        kind = jnp.integer if wanted == "integer" else jnp.floating
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, kind)):
            raise TypeError(
                f"{where}: expected a {wanted} array, got {getattr(leaf, 'dtype', type(leaf).__name__)}; {advice}"
            )
        shape(where, leaf, reference.shape, advice)


def function(name: str, value: Any, signature: str) -> None:
    """Something that can be called."""
    if not callable(value):
        raise TypeError(
            f"{name}: expected a function {signature}, got {type(value).__name__}; pass the function itself"
        )


def model(value: Any) -> None:
    """A model of a stream."""
    missing = [
        name for name in ("init", "initial_state", "rollout", "loss") if not callable(getattr(value, name, None))
    ]
    if missing:
        raise TypeError(
            f"model: expected functions init, initial_state, rollout and loss, got {type(value).__name__} without "
            f"{', '.join(missing)}; build one with latenttrack.build"
        )


def training(
    model: Any,
    learning_rate: Any,
    clip: Any,
    beta: Any,
    warmup: Any,
    recency: Any,
    options: Any,
    optimizer: Any,
    progress: Any,
) -> None:
    """The knobs of a training."""
    for name, value in (("learning_rate", learning_rate), ("beta", beta), ("warmup", warmup)):
        not_negative(name, value)
    positive("clip", clip)
    within("recency", recency, np.nextafter(0, 1), 1.0, "values in (0, 1]")
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(
            f"options: expected a mapping of the loss's keyword arguments, got {type(options).__name__}; write "
            '{"predictive": 0.5}'
        )
    _accepted(model, options or {})
    if optimizer is not None and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"optimizer: expected an optax.GradientTransformation, got {type(optimizer).__name__}; for instance "
            "optax.adam(1e-3)"
        )
    if progress is not None:
        function("progress", progress, "(updates, scores) -> None")


def _accepted(model: Any, options: Mapping) -> None:
    """The loss takes these options, where its signature can be seen."""
    parameters = inspect.signature(model.loss).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind == parameter.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known))
    if unknown and not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        raise ValueError(
            f"options: expected keyword arguments of the model's loss, {', '.join(known)}; got "
            f"{', '.join(map(repr, unknown))}; leave them out"
        )


def held_out(value: Any) -> tuple:
    """(xs, ys) or (xs, ys, mask)."""
    if not isinstance(value, tuple | list) or len(value) not in (2, 3):
        came = f"{len(value)} entries" if isinstance(value, tuple | list) else type(value).__name__
        raise ValueError(f"validation: expected (xs, ys) or (xs, ys, mask), got {came}; give None to go without")
    return tuple(value)


def folder(name: str, value: Any) -> None:
    """A path."""
    if value is not None and not isinstance(value, str | Path):
        raise TypeError(f"{name}: expected the path of a folder, got {type(value).__name__}; give a str or a Path")


def stream(
    xs: Any, ys: Any, mask: Any, x_dim: int | None = None, y_dim: int | None = None, where: str = ""
) -> tuple[Array, Array, Array | None]:
    """Inputs [T, x_dim], targets [T, y_dim] and, if any, a mask [T]; as arrays."""
    advice = "one row per time step, and a vmap over several streams"
    arrays = []
    for name, value, width in ((f"{where}xs", xs, x_dim), (f"{where}ys", ys, y_dim)):
        array = numbers(name, value, advice)
        came = array.shape
        if len(came) != 2 or (width is not None and came[1] != width):
            raise ValueError(f"{name}: expected shape (T, {'dim' if width is None else width}), got {came}; {advice}")
        arrays.append(array)
    xs, ys = arrays
    if mask is not None:
        mask = booleans(f"{where}mask", mask)
    lengths = {"xs": len(xs), "ys": len(ys)} | ({} if mask is None or not mask.ndim else {"mask": len(mask)})
    if len(set(lengths.values())) > 1 or not len(xs):
        raise ValueError(
            f"{where}xs, ys, mask: expected the same number of time steps, at least one, got {lengths}; "
            "cut them to one length"
        )
    if mask is not None:
        shape(f"{where}mask", mask, (len(xs),), "one boolean per time step")
    return xs, ys, mask


def booleans(name: str, value: Any) -> Array:
    """True and False, or 1 and 0."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected booleans, got {type(value).__name__}; True where y was observed") from error
    seen = None if isinstance(array, Tracer) else np.asarray(array)
    if array.dtype != bool and seen is not None and not np.isin(seen, (0, 1)).all():
        raise ValueError(
            f"{name}: expected booleans, got {array.dtype} with other values than 0 and 1; True where y was observed"
        )
    return array.astype(bool)


def finite_stream(xs: Array, ys: Array, mask: Array | None, where: str = "") -> None:
    """No NaN and no infinity in an unmasked step that can be seen."""
    if any(isinstance(value, Tracer) for value in (xs, ys, mask)):
        return
    kept = np.ones(len(xs), bool) if mask is None else np.asarray(mask)
    for name, value in (("xs", xs), ("ys", ys)):
        bad = kept & ~np.isfinite(np.asarray(value)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{where}{name}: expected finite values, got {int(bad.sum())} steps with NaN or infinity (first: "
                f"{name}[{int(bad.argmax())}]); leave them out with mask=, or call it under jax.jit, where they are "
                "left out and counted in outputs.invalid"
            )


def scored(ys: Any, mean: Any) -> tuple[Array, Array]:
    """Targets [T, y_dim] and means of components [T, K, y_dim]."""
    ys = numbers("ys", ys, "the targets [T, y_dim] of a stream")
    mean = numbers("mean", mean, "outputs.mean of a rollout")
    if ys.ndim != 2:
        raise ValueError(f"ys: expected shape (T, y_dim), got {ys.shape}; one row per time step")
    if mean.ndim != 3 or (mean.shape[0], mean.shape[2]) != ys.shape:
        wanted = f"({ys.shape[0]}, K, {ys.shape[1]})"
        raise ValueError(
            f"mean: expected shape {wanted} for ys of shape {ys.shape}, got {mean.shape}; take outputs.mean"
        )
    return ys, mean


def components(mean: Any, variance: Any) -> tuple[Array, Array]:
    """Means and variances of components [T, K, y_dim]."""
    arrays = []
    for name, value in (("mean", mean), ("variance", variance)):
        array = numbers(name, value, f"outputs.{name} of a rollout")
        if array.ndim != 3 or (arrays and array.shape != arrays[0].shape):
            wanted = arrays[0].shape if arrays else "(T, K, y_dim)"
            raise ValueError(f"{name}: expected shape {wanted}, got {array.shape}; outputs.{name} of a rollout")
        arrays.append(array)
    return arrays[0], arrays[1]


def threshold(value: Any) -> None:
    """A number of nats; infinity is one."""
    array = numbers("threshold", value, "a number of nats")
    shape("threshold", array, (), "one number of nats")
    if not isinstance(array, Tracer) and np.isnan(float(array)):
        raise ValueError("threshold: expected a number of nats, got nan; correct it")


def axes(name: str, value: Any, minimum: int, wanted: str) -> Array:
    """An array of at least so many axes."""
    array = numbers(name, value, wanted)
    if array.ndim < minimum:
        raise ValueError(f"{name}: expected shape {wanted}, got {array.shape}; see the docstring")
    return array
