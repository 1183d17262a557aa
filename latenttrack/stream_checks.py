"""What only streams are checked for: rows, masks, a model of a stream, its training and its predictions."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from lowrank_filter.common import checks


def rows(name: str, value: Any) -> Array:
    """A row for each time step."""
    array = checks.numbers(name, value, "one row per time step")
    if array.ndim != 2:
        raise ValueError(f"{name}: expected shape (T, dim), got {array.shape}; one row per time step")
    return array


def ahead(value: Any) -> Array:
    """Inputs of the steps ahead, at least one row; all of them known, where they can be seen."""
    xs = rows("xs", value)
    if not len(xs):
        raise ValueError(
            f"xs: expected the inputs of at least one step ahead, got shape {xs.shape}; give a row for each"
        )
    if checks.concrete(xs) and not np.isfinite(np.asarray(xs)).all():
        bad = int((~np.isfinite(np.asarray(xs)).all(axis=1)).sum())
        raise ValueError(
            f"xs: expected finite inputs of every step ahead, got {bad} rows with NaN or infinity; leave out of x what "
            "is not known ahead"
        )
    return xs


def probabilities(name: str, value: Any) -> Array:
    """One number in [0, 1] or a vector of them, where they can be seen."""
    array = checks.numbers(name, value, "one probability, or several")
    if array.ndim > 1:
        raise ValueError(f"{name}: expected shape () or (Q,), got {array.shape}; give one probability, or several")
    if checks.concrete(array):
        bad = ~((np.asarray(array) >= 0) & (np.asarray(array) <= 1))
        if bad.any():
            raise ValueError(f"{name}: expected values in [0, 1], got {np.asarray(array)[bad].ravel()[0]}; correct it")
    return array


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
        checks.within(name, value, 0.0, np.inf, "non-negative values")
    checks.scalar("clip", clip)
    checks.within("recency", recency, np.nextafter(0, 1), 1.0, "values in (0, 1]")
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
        checks.function("progress", progress, "(updates, scores) -> None")


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


def stream(
    xs: Any, ys: Any, mask: Any, x_dim: int | None = None, y_dim: int | None = None, where: str = ""
) -> tuple[Array, Array, Array | None]:
    """Inputs [T, x_dim], targets [T, y_dim] and, if any, a mask [T]; as arrays."""
    advice = "one row per time step, and a vmap over several streams"
    arrays = []
    for name, value, width in ((f"{where}xs", xs, x_dim), (f"{where}ys", ys, y_dim)):
        array = checks.numbers(name, value, advice)
        came = array.shape
        if len(came) != 2 or (width is not None and came[1] != width):
            wanted = "dim" if width is None else width
            how = f"one channel is {name}[:, None], one step {name}[None]" if len(came) == 1 else advice
            raise ValueError(f"{name}: expected shape (T, {wanted}), got {came}; {how}")
        arrays.append(array)
    xs, ys = arrays
    if mask is not None:
        mask = checks.booleans(f"{where}mask", mask)
    lengths = {"xs": len(xs), "ys": len(ys)} | ({} if mask is None or not mask.ndim else {"mask": len(mask)})
    if len(set(lengths.values())) > 1 or not len(xs):
        raise ValueError(
            f"{where}xs, ys, mask: expected the same number of time steps, at least one, got {lengths}; "
            "cut them to one length"
        )
    if mask is not None:
        checks.shape(f"{where}mask", mask, (len(xs),), "one boolean per time step")
    return xs, ys, mask


def channels(ys: Array, value: Any) -> tuple[Array, Array | None]:
    """Targets, 0 where a channel was not observed, and which were [T, y_dim]."""
    if value is None:
        return ys, None
    value = checks.booleans("channels", value)
    checks.shape("channels", value, ys.shape, "which channels of each step's y were observed")
    return jnp.where(value, ys, 0), value


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
    ys = checks.numbers("ys", ys, "the targets [T, y_dim] of a stream")
    mean = checks.numbers("mean", mean, "outputs.mean of a rollout")
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
        array = checks.numbers(name, value, f"outputs.{name} of a rollout")
        if array.ndim != 3 or (arrays and array.shape != arrays[0].shape):
            wanted = arrays[0].shape if arrays else "(T, K, y_dim)"
            raise ValueError(f"{name}: expected shape {wanted}, got {array.shape}; outputs.{name} of a rollout")
        arrays.append(array)
    return arrays[0], arrays[1]


def quantiles(ys: Any, values: Any, q: Any) -> tuple[Array, Array, Array]:
    """Targets [T, y_dim], quantiles of them [Q, T, y_dim] and their probabilities [Q]."""
    ys = rows("ys", ys)
    values = checks.numbers("quantiles", values, "from metrics.quantile, one for each probability")
    q = probabilities("q", q)
    checks.shape("q", q, (q.size,), "the probabilities of the quantiles")
    checks.shape("quantiles", values, (len(q), *ys.shape), "one for each probability, step and channel of ys")
    return ys, values, q


def points(ys: Any, values: Any) -> tuple[Array, Array]:
    """Targets [T, y_dim] and a point forecast of each."""
    ys = rows("ys", ys)
    values = checks.numbers("points", values, "one for each of ys")
    checks.shape("points", values, ys.shape, "one for each of ys")
    return ys, values


def intervals(ys: Any, lower: Any, upper: Any) -> tuple[Array, Array, Array]:
    """Targets [N, h, y_dim] and the ends of an interval for each."""
    ys = checks.numbers("ys", ys, "the targets [N, h, y_dim] of N forecasts")
    if ys.ndim != 3:
        raise ValueError(f"ys: expected shape (N, h, y_dim), got {ys.shape}; one entry per forecast and step ahead")
    ends = []
    for name, value in (("lower", lower), ("upper", upper)):
        ends.append(checks.numbers(name, value, "one for each of ys"))
        checks.shape(name, ends[-1], ys.shape, "one for each of ys")
    return ys, *ends


def paths(name: str, value: Any, ys: Array) -> Array:
    """Paths [K, h, y_dim] of targets [h, y_dim]."""
    array = checks.numbers(name, value, "the samples [K, h, y_dim] of a forecast")
    if array.ndim != 3 or array.shape[1:] != ys.shape:
        raise ValueError(
            f"{name}: expected shape (K, {ys.shape[0]}, {ys.shape[1]}), got {array.shape}; give paths of ys"
        )
    return array


def threshold(value: Any) -> None:
    """A number of nats; infinity is one."""
    array = checks.numbers("threshold", value, "a number of nats")
    checks.shape("threshold", array, (), "one number of nats")
    if not isinstance(array, Tracer) and np.isnan(float(array)):
        raise ValueError("threshold: expected a number of nats, got nan; correct it")


def axes(name: str, value: Any, minimum: int, wanted: str) -> Array:
    """An array of at least so many axes."""
    array = checks.numbers(name, value, wanted)
    if array.ndim < minimum:
        raise ValueError(f"{name}: expected shape {wanted}, got {array.shape}; see the docstring")
    return array
