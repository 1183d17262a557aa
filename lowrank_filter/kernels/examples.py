"""A batch of examples as the kernels see it: checked, masked, and with its targets in shape."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lowrank_filter.algebra import widths
from lowrank_filter.algebra.tree import Tree
from lowrank_filter.common import checks
from lowrank_filter.common.compiled import compiled, output_of
from lowrank_filter.kernels.coupling import check_uncoupled
from lowrank_filter.kernels.likelihoods import Likelihood

Apply = Callable[[Tree, Any], Array]
# What y should be.
TARGETS = (
    "an array of targets with one row per example, labels numbered over all data "
    "(numpy.unique(y, return_inverse=True)[1])"
)


class Batch(NamedTuple):
    """B examples. What does not count is replaced, so that not even a NaN can leak.

    Attributes:
        x: inputs, a pytree of arrays with leading axis B; in place of an unusable one stands the first usable one
            (ones if there is none), because a network may have no derivative at zero.
        y: targets [B, …]; zero where masked.
        mask: [B], which examples were given.
        usable: [B], which of them can be used: finite inputs, outputs and curvature, a target in the domain.
        observed: [B, m], which targets of an example there are; None for all.
        weights: [B], for how many each counts; None for one.
    """

    x: Any
    y: Array
    mask: Bool[Array, " B"]
    usable: Bool[Array, " B"]
    observed: Bool[Array, "B m"] | None = None
    weights: Float[Array, " B"] | None = None


class Examples(NamedTuple):
    """Inputs, targets, mask and weights (None: all, once) as they were given, checked and in shape."""

    x: Any
    y: Any
    mask: Any = None
    weights: Any = None


def check_examples(
    params: Tree, apply_fn: Apply, likelihood: Likelihood, x: Any, y: Any, mask: Any, weights: Any = None
) -> Examples:
    """Examples that fit the model and the likelihood.

    Raises:
        TypeError: apply_fn or the likelihood is not one; labels are not integers.
        ValueError: an empty batch, leading axes that differ, outputs not [B, C], targets or mask of another shape, or
            (where values can be seen) NaN or targets out of the likelihood's domain in an unmasked example.
    """
    check_likelihood(likelihood)
    x = as_inputs(x)
    y = checks.array("y", y, TARGETS)
    outputs = output_count(params, apply_fn, x)
    size = _size(x)
    check_rows(y, size)
    likelihood.check(outputs)
    y = check_targets(likelihood, outputs, y)
    if mask is not None:
        mask = _checked_mask(likelihood, y, mask)
    if weights is not None:
        weights = checks.numbers("weights", weights, "one number per example")
        checks.shape("weights", weights, (size,), "one number per example")
        checks.not_negative("weights", weights)
    examples = Examples(x, y, mask, weights)
    check_visible(likelihood, outputs, examples)
    return examples


def check_stream(likelihood: Likelihood, outputs: int, y: Any, mask: Any = None) -> Any:
    """Targets of a stream, in shape, before any is learned from: a missing one (NaN) is left out and counted when its
    turn comes, one that the likelihood has no place for is a mistake in how all of them are coded.

    Raises:
        TypeError: labels are not integers.
        ValueError: outputs that do not fit, another shape, or finite targets out of the domain where they can be seen.
    """
    likelihood.check(outputs)
    y = check_targets(likelihood, outputs, y)
    if mask is not None:
        mask = _checked_mask(likelihood, y, mask)
    if checks.concrete((likelihood, y, mask)):
        _check_domain(likelihood, outputs, y, mask, missing=True)
    return y


def check_rows(y: Any, size: int) -> None:
    """Raise ValueError unless there is one target per example."""
    if y.shape[:1] != (size,):
        raise ValueError(f"y: expected a leading axis of {size} like x, got shape {y.shape}; one target per example")


def prepare(
    params: Tree, apply_fn: Apply, likelihood: Likelihood, examples: Examples, batch_size: int | None = None
) -> Batch:
    """Replace what is masked or cannot be used; the network sees ``batch_size`` examples at once.

    Raises:
        ValueError: the network couples examples.
    """
    x, y = jax.tree.map(jnp.asarray, examples.x), jnp.asarray(examples.y)
    if jnp.issubdtype(y.dtype, jnp.floating):
        y = y.astype(widths.common(params, x))
    check_uncoupled(apply_fn, params, x)
    size, observed = len(y), None
    kept = jnp.ones(size, bool) if examples.mask is None else jnp.asarray(examples.mask)
    if kept.ndim == 2:
        kept, observed = jnp.any(kept, axis=1), kept
        y = jnp.where(observed, y, jnp.zeros((), y.dtype))
    usable = kept & _finite(x, size)
    batch = Batch(_filled(usable, x), zero_where_masked(kept, y), kept, usable, observed, examples.weights)
    # An example whose outputs overflow must not be differentiated either: a zero cotangent times infinity is NaN.
    usable &= jax.vmap(valid, in_axes=(None, 0, 0))(
        likelihood, in_pieces(functools.partial(apply_fn, params), batch.x, batch_size), batch.y
    )
    return batch._replace(x=_filled(usable, batch.x), usable=usable)


def in_pieces(function: Callable[[Any], Tree], x: Any, batch_size: int | None) -> Tree:
    """``function`` of examples, which has a row for each, of ``batch_size`` at once; the last pieces overlap."""
    size = _size(x)
    if batch_size is None or size <= batch_size:
        return function(x)

    def piece(start: Array) -> Tree:
        return function(jax.tree.map(lambda v: jax.lax.dynamic_slice_in_dim(v, start, batch_size), x))

    whole = size // batch_size
    rest = size - whole * batch_size
    starts = np.minimum(np.arange(-(-size // batch_size)) * batch_size, size - batch_size)

    def rows(found: Array) -> Array:
        rows = found[:whole].reshape(whole * batch_size, *found.shape[2:])
        return jnp.concatenate([rows, found[-1, -rest:]]) if rest else rows

    return jax.tree.map(rows, jax.lax.map(piece, jnp.asarray(starts)))


def _checked_mask(likelihood: Likelihood, y: Any, mask: Any) -> Any:
    """An entry per example, or one per target where the likelihood factorises."""
    mask = as_mask(mask)
    size = len(y)
    if mask.shape == (size,):
        return mask
    if mask.ndim == 2 and not likelihood.factorises:
        raise ValueError(
            f"mask: expected shape ({size},) for {likelihood!r}, whose targets are not independent given the outputs, "
            f"got {mask.shape}; one entry per example"
        )
    if y.ndim != 2 or mask.ndim != 2:
        raise ValueError(f"mask: expected shape ({size},), got {mask.shape}; one entry per example")
    if mask.shape != y.shape:
        raise ValueError(f"mask: expected shape ({size},) or that of y, {y.shape}, got {mask.shape}; cut them alike")
    return mask


def check_model(apply_fn: Any, likelihood: Any) -> None:
    """A function and a likelihood, before there are examples.

    Raises:
        TypeError: they are not.
    """
    if not callable(apply_fn):
        raise TypeError(
            f"apply_fn: expected a function (params, x) -> outputs [B, C], got {type(apply_fn).__name__}; "
            "pass the function itself"
        )
    check_likelihood(likelihood)


def check_likelihood(likelihood: Any) -> None:
    """An instance of a likelihood.

    Raises:
        TypeError: something else.
    """
    if not isinstance(likelihood, Likelihood):
        came = f"an array of shape {likelihood.shape}" if hasattr(likelihood, "shape") else repr(likelihood)
        raise TypeError(
            f"likelihood: expected a Likelihood such as Categorical(), got {came}; to bring your own, "
            "subclass lowrank_filter.Likelihood"
        )


def as_inputs(x: Any) -> Any:
    """Inputs as arrays.

    Raises:
        TypeError: a leaf is no array.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(x)
    advice = "an array, or a pytree of arrays, with one row per example"
    if isinstance(x, list | tuple) and paths and all(isinstance(leaf, int | float) for _, leaf in paths):
        raise TypeError(
            f"x: expected {advice}, got a Python {type(x).__name__} of {len(paths)} numbers, which JAX takes for a "
            "pytree; give jnp.asarray(x)"
        )
    arrays = [checks.array(f"x{jax.tree_util.keystr(path)}", leaf, advice) for path, leaf in paths]
    if any(jnp.issubdtype(leaf.dtype, jnp.complexfloating) for leaf in arrays):
        raise TypeError(
            "x: expected real numbers, got complex ones; give real and imaginary parts as inputs of their own"
        )
    return structure.unflatten(arrays)


def as_mask(mask: Any) -> Array | np.ndarray:
    """A mask as booleans; numbers are welcome where they are 0 and 1.

    Raises:
        TypeError: no array.
        ValueError: other numbers.
    """
    kept = checks.array("mask", mask, "one boolean per example")
    if kept.dtype != bool and checks.concrete(kept) and not np.isin(np.asarray(kept), (0, 1)).all():
        raise ValueError(
            f"mask: expected booleans, got {kept.dtype} with other values than 0 and 1; True keeps an example"
        )
    return kept.astype(bool)


def valid(likelihood: Likelihood, output: Float[Array, " C"], target: Array) -> Bool[Array, ""]:
    """Whether an example can be used: a target in the domain, finite outputs and loss, a curvature with a square."""
    finite = jnp.all(jnp.isfinite(output)) & jnp.isfinite(likelihood.nll(output, target))
    representable = likelihood.curvature(output, target) <= float(jnp.finfo(output.dtype).max) ** 0.5
    return finite & representable & likelihood.in_domain(target, len(output))


def output_count(params: Tree, apply_fn: Apply, x: Any) -> int:
    """C, having checked that x has one leading axis B ≥ 1 and that apply_fn returns [B, C].

    Raises:
        TypeError: apply_fn is not callable.
        ValueError: leading axes that differ, an empty batch, or outputs of another shape.
    """
    if not callable(apply_fn):
        raise TypeError(
            f"apply_fn: expected a function (params, x) -> outputs [B, C], got {type(apply_fn).__name__}; "
            "pass the function itself"
        )
    size = _size(x)
    try:
        out = output_of(apply_fn, params, x)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(
            f"apply_fn: expected a function of (params, x) that takes x of shape {_shapes(x)}, got "
            f"{type(error).__name__} from it: {str(error).split(chr(10))[0]}; correct it, the parameters or the shape "
            "of x"
        ) from error
    if not hasattr(out, "shape") or len(out.shape) != 2 or out.shape[0] != size:
        raise ValueError(
            f"apply_fn: expected outputs of shape ({size}, C) for x with {checks.counted(size, 'example')}, got "
            f"{_shapes(out)}; one example is x[None], one output is f[:, None]"
        )
    return out.shape[1]


def _size(x: Any) -> int:
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"x: expected one leading axis of B examples, got shapes {_shapes(x)}; put examples along the first axis"
        )
    size = sizes.pop()[0]
    if size == 0:
        raise ValueError(
            "x: expected at least one example, got an empty batch; leave the call out where there are none"
        )
    return size


def _shapes(value: Any) -> Any:
    return jax.tree.map(jnp.shape, value)


def check_targets(likelihood: Likelihood, outputs: int, y: Array) -> Array:
    """Targets in shape.

    Raises:
        TypeError: labels that are not integers.
        ValueError: another shape.
    """
    wanted = likelihood.targets(outputs)
    if wanted is None:
        return y
    if wanted == () and not jnp.issubdtype(y.dtype, jnp.integer):
        advice = "take their argmax" if y.ndim == 2 else "convert them with y.astype(int)"
        raise TypeError(
            f"y: expected integer labels of shape ({len(y)},), got {y.dtype} of shape {y.shape}; "
            f"{advice}, or take another likelihood"
        )
    if wanted == (1,) and y.ndim == 1:
        y = y[:, None]
    if y.shape[1:] != wanted:
        labels = "give y[:, 0]" if y.shape[1:] == (1,) else "one label per example, the argmax where they are one-hot"
        raise ValueError(
            f"y: expected shape {(len(y), *wanted)} for {type(likelihood).__name__} with "
            f"{checks.counted(outputs, 'output')}, got {y.shape}; {'one row per example' if wanted else labels}"
        )
    if wanted != ():
        return y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(float)
    return y if y.dtype.itemsize >= 4 else y.astype(np.int32)  # 256 classes do not fit into the uint8 of their labels


def check_visible(likelihood: Likelihood, outputs: int, examples: Examples) -> None:
    """What concrete examples show before anything is computed."""
    x, y, mask, _ = examples
    if checks.concrete((x, mask)):
        kept = _any_target(mask)
        bad = kept & ~_looked_finite(x, len(y))
        if bad.any():
            raise ValueError(
                f"x: expected finite values, got {checks.counted(int(bad.sum()), 'example')} with NaN or infinity "
                f"(first: x[{bad.argmax()}]); leave them out with mask="
            )
    if checks.concrete((likelihood, y, mask)):
        _check_domain(likelihood, outputs, y, mask)


def _check_domain(likelihood: Likelihood, outputs: int, y: Any, mask: Any, *, missing: bool = False) -> None:
    """All targets that are not masked out, or with ``missing`` those that are finite."""
    kept = _any_target(mask)
    if np.ndim(mask) == 2:
        y = np.where(np.asarray(mask), np.asarray(y), 0)
    with jax.ensure_compile_time_eval():
        bad = kept & ~np.asarray(compiled(_in_domain, likelihood, y, outputs=outputs))
    if missing:
        bad = bad & _looked_finite(y, len(y))
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(
            f"y: expected targets in the domain of {type(likelihood).__name__} with "
            f"{checks.counted(outputs, 'output')}, got {int(bad.sum())} outside it (first: y[{first}] = "
            f"{np.asarray(y)[first]}); correct them or leave them out with a mask"
        )


def _any_target(mask: Any) -> np.ndarray:
    """Which examples a mask that can be seen keeps, or keeps a target of."""
    kept = np.asarray(True if mask is None else mask)
    return np.asarray(kept.any(axis=1)) if kept.ndim == 2 else kept


def _in_domain(likelihood: Likelihood, y: Array, *, outputs: int) -> Bool[Array, " B"]:
    return jax.vmap(lambda target: likelihood.in_domain(target, outputs))(y)


def _looked_finite(x: Any, size: int) -> np.ndarray:
    """Which examples have finite inputs, by numpy."""
    finite = np.ones(size, bool)
    for leaf in map(np.asarray, jax.tree.leaves(x)):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite &= np.isfinite(leaf).reshape(size, -1).all(axis=1)
    return finite


def _finite(x: Any, size: int) -> Bool[Array, " B"]:
    """Which examples have finite inputs."""
    finite = jnp.ones(size, bool)
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            finite &= jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
    return finite


def _filled(usable: Bool[Array, " B"], x: Any) -> Any:
    """x with the first usable example in place of those that are not."""

    def leaf(v: Array) -> Array:
        stand_in = jnp.where(jnp.any(usable), v[jnp.argmax(usable)], jnp.ones((), v.dtype))
        return jnp.where(usable.reshape(usable.shape + (1,) * (v.ndim - 1)), v, stand_in)

    return jax.tree.map(leaf, x)


def zero_where_masked(keep: Bool[Array, " B"], value: Any) -> Any:
    """Arrays with leading axis B, zero where an example is left out."""

    def leaf(v: Array) -> Array:
        return jnp.where(keep.reshape(keep.shape + (1,) * (v.ndim - 1)), v, jnp.zeros((), v.dtype))

    return jax.tree.map(leaf, value)
