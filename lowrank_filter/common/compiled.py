"""A core compiled once, also where it is called without an outer ``jax.jit``."""

import dataclasses
import functools
import operator
import os
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Self

import jax
import numpy as np
from jax.core import Tracer

from lowrank_filter.common.registered import registered

# Programs kept, and of those that hold many bytes through their functions' closures.
_PROGRAMS, _HEAVY_PROGRAMS, _HEAVY = 128, 2, 2**20
# An array of so many bytes is told from another one by what it holds, a larger one by being another object.
_SMALL = 2**10
# Whose code does not change while a program runs.
_PACKAGES = {"lowrank_filter", "latenttrack", "jax", "optax", "flax"}


def compiled(core: Callable, /, *args: Any, **static: Any) -> Any:
    """``core(*args, **static)``, in a program that is kept for the next call with the same functions and shapes.

    Functions are the same where their code and what they close over are: a lambda or an ``optax.adam(1e-2)`` written
    into a loop is compiled once. They must be pure, as under ``jax.jit``. What is staged out by an outer ``jax.jit`` or
    ``lax.scan`` is the plain core.

    Args:
        core: a function of a module; its arguments ``args`` are traced.
        static: its keyword arguments, which are not.
    """
    leaves, structure = jax.tree.flatten(args)
    staged, traced = _staged(), any(isinstance(leaf, Tracer) for leaf in leaves)
    if not all(map(_is_number, leaves)) or (traced and staged):
        return _lenient(core, *args, **static)
    try:
        choices = Static(static, structure)
    except _TracedError:
        return _lenient(core, *args, **static)
    kept = _heavy_program if choices.weight > _HEAVY else _program
    return kept(core, choices, not (staged or traced))(*args)


def output_of(apply_fn: Callable, *args: Any) -> Any:
    """``jax.eval_shape(apply_fn, *args)``, traced once for each function and shape."""
    try:
        choices = Static({"apply_fn": apply_fn}, jax.tree.structure(args))
    except _TracedError:
        return jax.eval_shape(apply_fn, *args)
    program: Any = _program if choices.weight <= _HEAVY and not _staged() else _jitted
    return program(_apply, choices, False).eval_shape(*args)


def _apply(*args: Any, apply_fn: Callable) -> Any:
    return apply_fn(*args)


def described(function: Any, depth: int = 6) -> dict[str, Any]:
    """What a function was built with, by name: numbers, text and arrays that it and those within it close over."""
    if depth == 0:
        return {}
    if isinstance(function, functools.partial):
        parts = [described(part, depth - 1) for part in (function.func, *function.args)]
        return functools.reduce(operator.or_, parts) | _named(function.keywords, depth)
    if isinstance(function, tuple):
        return functools.reduce(operator.or_, [described(part, depth - 1) for part in function], {})
    if not isinstance(function, types.FunctionType):
        return {}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return _named({name: cell.cell_contents for name, cell in cells if _filled(cell)}, depth)


def _named(values: Mapping[str, Any], depth: int) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        leaves = jax.tree.leaves(value)
        if value is None or isinstance(value, str) or (leaves and all(map(_is_number, leaves))):
            found[name] = value
        else:
            found |= {f"{name}.{inner}": v for inner, v in described(value, depth - 1).items()}
    return found


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@registered
@dataclasses.dataclass(frozen=True)
class Shared:
    """A pytree in which one number that stands in several places stays one where it is traced.

    Attributes:
        values: the different leaves.
        places: which of them stands where.
        structure: of the whole.
    """

    values: list[Any]
    places: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, tree: Any) -> Self:
        """Scalars that can be seen are one where they are equal, others where they are the same object."""
        leaves, structure = jax.tree.flatten(tree)
        seen = [not isinstance(leaf, Tracer) and np.ndim(leaf) == 0 for leaf in leaves]
        names = [float(leaf) if known else f"{id(leaf)}" for leaf, known in zip(leaves, seen, strict=True)]
        first = dict(zip(reversed(names), reversed(leaves), strict=True))
        order = {name: index for index, name in enumerate(first)}
        return cls(list(first.values()), tuple(order[name] for name in names), structure)

    @property
    def tree(self) -> Any:
        """As it was."""
        return self.structure.unflatten([self.values[place] for place in self.places])


class Static:
    """Static arguments, and the structure of the others, as one hashable value: equal where no program could differ.

    Attributes:
        values: the arguments.
        weight: bytes of the arrays that they hold.
    """

    def __init__(self, values: Mapping[str, Any], structure: Any = None) -> None:
        self.values = values
        reading = _Reading()
        # Structures of two of a caller's dataclasses may be equal (see `registered`); their hashes are not.
        self.key = (hash(structure), *((name, reading.key(value)) for name, value in values.items()))
        self.weight = reading.weight

    def __hash__(self) -> int:
        """Of the key."""
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        """By the key."""
        return isinstance(other, Static) and self.key == other.key


def _lenient(core: Callable, /, *args: Any, **static: Any) -> Any:
    """Kernels broadcast and promote as ``jax.numpy`` does by default, whatever switches the caller has thrown."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return core(*args, **static)


def _jitted(core: Callable, static: Static, outermost: bool) -> Callable:
    # Only a program that is not part of another one may have options of its own.
    options = _compiler_options() if outermost else None
    return jax.jit(functools.partial(_lenient, core, **static.values), compiler_options=options)


@functools.cache
def _compiler_options() -> dict[str, bool | int] | None:
    """XLA's older emitters of loops on a CPU and fewer passes of LLVM compile in half of the time, to programs that are
    as fast."""
    if jax.default_backend() != "cpu":
        return None
    options = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
    asked_for = os.environ.get("XLA_FLAGS", "")
    options = {name: value for name, value in options.items() if name not in asked_for}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:  # an XLA that does not know them
        return None
    return options


_program = functools.lru_cache(_PROGRAMS)(_jitted)
_heavy_program = functools.lru_cache(_HEAVY_PROGRAMS)(_jitted)


class _TracedError(TypeError):
    """A static argument holds a tracer."""


class _Same:
    """An object that equals itself alone. It is held, so that no other one can take its place."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


class _Reading:
    """One walk through static arguments."""

    def __init__(self) -> None:
        self.weight = 0
        self._functions: dict[types.FunctionType, int] = {}

    def key(self, value: Any) -> Hashable:
        """Equal for what behaves in the same way."""
        if isinstance(value, Tracer):
            raise _TracedError
        if value is None or isinstance(value, bool | int | str | bytes):
            return type(value), value
        if isinstance(value, float):
            return float, value.hex()
        if isinstance(value, types.ModuleType | type):
            return _Same(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return types.MethodType, self.key(value.__func__), self.key(value.__self__)
        if isinstance(value, functools.partial):
            return functools.partial, self.key(value.func), self.key(value.args), self.key(value.keywords)
        if isinstance(value, tuple | list):
            return type(value), tuple(map(self.key, value))
        if isinstance(value, dict):
            return type(value), tuple((self.key(k), self.key(v)) for k, v in value.items())
        return self._other(value)

    def _function(self, value: types.FunctionType) -> Hashable:
        if value in self._functions:  # it calls itself, or came before
            return types.FunctionType, self._functions[value]
        self._functions[value] = len(self._functions)
        cells = tuple(self._cell(cell) for cell in value.__closure__ or ())
        defaults = self.key(value.__defaults__), self.key(value.__kwdefaults__)
        if (value.__module__ or "").partition(".")[0] in _PACKAGES:
            return value.__code__, _Same(value.__globals__), defaults, cells
        # What a notebook changes between two calls: numbers and helpers that the function finds by their names.
        found = value.__globals__
        names = tuple((name, self.key(found[name])) for name in _names(value.__code__) if name in found)
        return value.__code__, names, defaults, cells

    def _cell(self, cell: types.CellType) -> Hashable:
        try:
            return self.key(cell.cell_contents)
        except ValueError:  # nothing in it yet
            return _Same(cell)

    def _other(self, value: Any) -> Hashable:
        leaves = jax.tree.leaves(value)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            raise _TracedError
        array = isinstance(value, np.ndarray | np.generic | jax.Array)
        held = leaves if array or not hasattr(value, "__dict__") else jax.tree.leaves(vars(value))
        size = sum(leaf.nbytes for leaf in held if isinstance(leaf, np.ndarray | np.generic | jax.Array))
        if array and size <= _SMALL and _plain(value):
            about = (value.sharding, value.weak_type) if isinstance(value, jax.Array) else ()
            return type(value), value.dtype, value.shape, about, np.asarray(value).tobytes()
        self.weight += size
        try:
            hash(value)
        except TypeError:
            return _Same(value)
        return type(value), value


@functools.lru_cache(4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names that a function's code, and that of functions within it, may look up in its module."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    return tuple(dict.fromkeys((*code.co_names, *(name for names in inner for name in names))))


def _plain(array: Any) -> bool:
    """Numbers that this process can look at."""
    seen = not isinstance(array, jax.Array) or (array.is_fully_addressable and not array.is_deleted())
    return seen and isinstance(array.dtype, np.dtype) and not array.dtype.hasobject


def _is_number(leaf: Any) -> bool:
    """Whether JAX takes it for an array."""
    if isinstance(leaf, np.ndarray | np.generic):
        return leaf.dtype.kind in "biufcV"
    return isinstance(leaf, jax.Array | bool | int | float | complex)


def _staged() -> bool:
    """Whether what is computed now becomes part of a program, as under jit and scan but not under grad and vmap."""
    return isinstance(jax.lax.add(0, 0), Tracer)
