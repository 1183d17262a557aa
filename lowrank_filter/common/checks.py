"""Errors at the boundary: what was expected, what came, what to do.

Shapes and structures are checked always, also under tracing. Values are checked where they can be seen, that is
outside a traced computation; inside one, the updates report them in ``info.invalid``.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

Tree = Any
Function = TypeVar("Function", bound=Callable)

LAYOUT = "use a scalar, one scalar per layer, or one value per parameter"


def concrete(value: Any) -> bool:
    """Whether a value can be looked at now: it is not traced, and no part of it is in another process alone."""
    return all(map(_seen, jax.tree.leaves(value)))


def _seen(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    return not isinstance(leaf, Tracer) and (leaf.is_fully_addressable or leaf.is_fully_replicated)


def parameters(params: Tree) -> None:
    """At least one leaf, all of them floating point."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(
            "params: expected a pytree with at least one array, got an empty one; pass the network's parameters"
        )
    _no_statistics(params)
    for path, leaf in leaves:
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise TypeError(
                f"params{_name(path)}: expected a floating-point array, got {_kind(leaf)}; pass only the trainable "
                "arrays and close over the rest in apply_fn"
            )


# What flax keeps beside parameters: collections of linen, and classes of variables of nnx.
_COLLECTIONS = frozenset({"batch_stats", "cache", "intermediates", "carry"})
_VARIABLES = frozenset({"BatchStat", "Cache", "Intermediate", "RngState", "RngKey", "RngCount"})


def _no_statistics(params: Tree) -> None:
    """Nothing that flax would call a statistic: it is no weight, and must not be filtered."""
    found = sorted(_COLLECTIONS.intersection(params)) if isinstance(params, Mapping) and "params" in params else []

    def look(node: Any) -> bool:
        kinds = {each.__name__ for each in (*type(node).__mro__, *getattr(node, "type", type(None)).__mro__)}
        known = type(node).__module__.startswith("flax.") and bool(kinds & _VARIABLES)
        if known:
            found.append(sorted(kinds & _VARIABLES)[0])
        return known

    jax.tree.leaves(params, is_leaf=look)
    if found:
        raise ValueError(
            f"params: expected weights only, got flax variables with {', '.join(dict.fromkeys(found))}; pass "
            'variables["params"] (nnx.split(model, nnx.Param, ...) with nnx), and close over the rest in apply_fn, in '
            "evaluation mode"
        )


def same_shapes(name: str, value: Tree, like: Tree, *, leading: int | None = None, advice: str = "") -> None:
    """``value`` has ``like``'s structure and shapes, behind a leading axis if one is named, and holds numbers."""
    advice = advice or "give it the structure and shapes of the parameters"
    expected, came = jax.tree.structure(like), jax.tree.structure(value)
    if expected != came:
        kind = f"one {type(value).__name__}" if jax.tree_util.treedef_is_leaf(came) else came
        raise ValueError(f"{name}: expected the tree structure of the parameters, {expected}; got {kind}; {advice}")
    prefix = () if leading is None else (leading,)
    pairs = zip(jax.tree_util.tree_leaves_with_path(value), jax.tree.leaves(like), strict=True)
    for (path, leaf), reference in pairs:
        shape = shape_of(f"{name}{_name(path)}", leaf)
        if shape != prefix + jnp.shape(reference):
            raise ValueError(
                f"{name}{_name(path)}: expected shape {prefix + jnp.shape(reference)}, got {shape}; {advice}"
            )


def prefix(name: str, value: Tree, like: Tree) -> None:
    """``value`` is a pytree prefix of ``like`` whose leaves broadcast to the leaves they cover."""

    def covers(leaf: Any, subtree: Tree) -> None:
        for path, reference in jax.tree_util.tree_leaves_with_path(subtree):
            shape = shape_of(name, leaf)
            if not broadcastable(shape, jnp.shape(reference)):
                raise ValueError(
                    f"{name}{_name(path)}: expected a shape that broadcasts to {jnp.shape(reference)}, got "
                    f"{shape}; {LAYOUT}"
                )

    map_prefix(name, covers, value, like)


def map_prefix(name: str, function: Callable[[Any, Tree], Any], value: Tree, like: Tree) -> Tree:
    """``function(leaf, covered subtree)`` over a pytree prefix."""
    leaves, structure = jax.tree.flatten(value)
    try:
        covered = structure.flatten_up_to(like)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{name}: expected a scalar or a pytree prefix of {jax.tree.structure(like)}, got {structure}; {LAYOUT}"
        ) from error
    return jax.tree.unflatten(structure, [function(*pair) for pair in zip(leaves, covered, strict=True)])


def broadcastable(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of ``shape`` broadcasts to exactly ``target``."""
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def scalar(name: str, value: Any) -> None:
    """One positive number."""
    shape = shape_of(name, value)
    if shape != ():
        raise ValueError(f"{name}: expected one number, got shape {shape}; a sweep over several is a vmap")
    positive(name, value)


def positive(name: str, value: Tree) -> None:
    """Every element that can be seen is > 0 (and finite)."""
    _values(name, value, lambda v: v > 0, "positive")


def not_negative(name: str, value: Tree) -> None:
    """Every element that can be seen is ≥ 0 (and finite)."""
    _values(name, value, lambda v: v >= 0, "non-negative")


def finite(name: str, value: Tree) -> None:
    """Every element that can be seen is finite."""
    _values(name, value, np.isfinite, "finite")


def rank(value: Any) -> None:
    """A static integer ≥ 0."""
    count("rank", value, minimum=0)


def count(name: str, value: Any, *, minimum: int) -> None:
    """A static integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        advice = f"give {minimum} or more" if whole else "give a Python integer"
        advice = "mark it static under jax.jit" if isinstance(value, Tracer) else advice
        raise ValueError(f"{name}: expected a static integer >= {minimum}, got {value!r}; {advice}")


def choice(name: str, value: Any, options: tuple[str, ...]) -> None:
    """One of a few strings."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}; choose one of these")


def flag(name: str, value: Any) -> None:
    """A static boolean."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected a static True or False, got {value!r}; give one of them")


def instance(name: str, value: Any, kind: type, advice: str) -> None:
    """A value of one of the package's own types."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{name}: expected {article} {kind.__name__}, got {type(value).__name__}; {advice}")


def operations(name: str, value: Any, needed: tuple[str, ...], advice: str) -> None:
    """Something with these functions."""
    missing = [operation for operation in needed if not callable(getattr(value, operation, None))]
    if missing or isinstance(value, type):
        came = f"{type(value).__name__} without {', '.join(missing)}" if missing else f"the class {value.__name__}"
        raise TypeError(f"{name}: expected {', '.join(needed)} to be there, got {came}; {advice}")


def folder(name: str, value: Any) -> None:
    """A path, or None."""
    if value is not None and not isinstance(value, str | Path):
        raise TypeError(f"{name}: expected the path of a folder, got {_kind(value)}; give a str or a Path")


def key(name: str, value: Any, *, many: bool = False) -> Array:
    """One random key, or with ``many`` an array of them, typed; a ``jax.random.PRNGKey`` is welcome."""
    wanted = "a jax.random.key, or an array of them" if many else "a jax.random.key"
    if hasattr(value, "dtype") and value.dtype == np.uint32 and value.shape[-1:] == (2,):
        value = jax.random.wrap_key_data(value)
    if not (hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)):
        raise TypeError(f"{name}: expected {wanted}, got {_kind(value)}; make one with jax.random.key(0)")
    if value.ndim > many:
        shapes = "() or (S,)" if many else "()"
        raise ValueError(f"{name}: expected shape {shapes}, got {value.shape}; vmap over more keys")
    return value


def floating(name: str, value: Any) -> None:
    """A dtype of real numbers."""
    try:
        real = value is not None and jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        real = False
    if not real:
        raise TypeError(f"{name}: expected a floating-point dtype, got {value!r}; for instance jnp.bfloat16")


def array(name: str, value: Any, advice: str) -> Array | np.ndarray:
    """An array of numbers or booleans; what is not JAX's becomes one of numpy, which can be looked at in a trace."""
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value) if concrete(value) else jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array of numbers, got {_kind(value)}; {advice}") from error
    if not (array.dtype == bool or jnp.issubdtype(array.dtype, np.number)):
        text = array.dtype.kind in "USO" and all(isinstance(each, str) for each in array.ravel())
        raise TypeError(f"{name}: expected an array of numbers, got {'text' if text else _kind(value)}; {advice}")
    return array


def shape_of(name: str, value: Any) -> tuple[int, ...]:
    """The shape of something that is an array of real numbers."""
    dtype = getattr(value, "dtype", None)
    if dtype is None and isinstance(value, bool | int | float | np.number | list | tuple):
        try:
            dtype = np.asarray(value).dtype
        except ValueError:
            dtype = None
    real = dtype is not None and (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer))
    if not real:
        raise TypeError(f"{name}: expected real numbers, got {_kind(value)}; convert them to a floating-point array")
    return np.shape(value) if isinstance(value, list | tuple) else jnp.shape(value)


def static(name: str, value: Any) -> None:
    """A number that is known when a function is built."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        advice = "mark it static under jax.jit" if isinstance(value, Tracer) else "give a Python number"
        raise TypeError(f"{name}: expected a static number, got {type(value).__name__}; {advice}")


def numbers(name: str, value: Any, advice: str) -> Array:
    """An array of real numbers, floating point."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected an array of real numbers, got {type(value).__name__}; {advice}") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{name}: expected an array of real numbers, got {array.dtype}; {advice}")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(jnp.result_type(float))


def within(name: str, value: Any, lowest: float, highest: float, wanted: str) -> None:
    """One finite number between two, where it can be seen."""
    advice = "give one number; a grid of them is a vmap"
    array = numbers(name, value, advice)
    shape(name, array, (), advice)
    if concrete(array):
        number = float(array)
        if not (np.isfinite(number) and lowest <= number <= highest):
            raise ValueError(f"{name}: expected {wanted}, got {value}; correct it")


def shape(name: str, value: Any, expected: tuple[int, ...], advice: str) -> None:
    """An array of exactly this shape."""
    if not hasattr(value, "shape"):
        value = numbers(name, value, advice) if not isinstance(value, bool) else np.asarray(value)
    if jnp.shape(value) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {jnp.shape(value)}; {advice}")


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


def booleans(name: str, value: Any) -> Array:
    """True and False, or 1 and 0."""
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected booleans, got {type(value).__name__}; True where y was observed") from error
    seen = np.asarray(array) if concrete(array) else None
    if array.dtype != bool and seen is not None and not np.isin(seen, (0, 1)).all():
        raise ValueError(
            f"{name}: expected booleans, got {array.dtype} with other values than 0 and 1; True where y was observed"
        )
    return array.astype(bool)


def all_given(function: Function) -> Function:
    """The function, which shows what it takes and what came where one of its arguments is left out: Python names the
    last of them, whichever was forgotten."""
    parameters = inspect.signature(function).parameters.values()
    needed = {
        parameter.name: f"{parameter.name}=" if parameter.kind == parameter.KEYWORD_ONLY else parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
    }
    names = tuple(needed)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if [name for name in names[len(args) :] if name not in kwargs]:
            came = [*map(_kind_of_argument, args), *(f"{k}={_kind_of_argument(v)}" for k, v in kwargs.items())]
            raise TypeError(
                f"{function.__name__}: expected ({', '.join(needed.values())}), got ({', '.join(came)}); give all of "
                "them, in this order or by name"
            )
        return function(*args, **kwargs)

    return called  # type: ignore[return-value]


def _kind_of_argument(value: Any) -> str:
    return "array" if hasattr(value, "dtype") else type(value).__name__


def _values(name: str, value: Tree, test: Callable, wanted: str) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        shape_of(f"{name}{_name(path)}", leaf)
        if not concrete(leaf):
            continue
        array = np.asarray(leaf)
        bad = ~(np.isfinite(array) & test(array))
        if bad.any():
            raise ValueError(
                f"{name}{_name(path)}: expected {wanted} values, got {array[bad].ravel()[0]} "
                f"({int(bad.sum())} of {counted(array.size, 'value')}); correct them"
            )


def counted(number: int, noun: str) -> str:
    """1 example, 2 examples."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _kind(value: Any) -> str:
    return str(value.dtype) if hasattr(value, "dtype") else type(value).__name__


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path)
