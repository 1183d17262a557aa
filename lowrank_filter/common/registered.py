"""Dataclasses as pytrees that jit tells from one another."""

import dataclasses
from typing import Any, TypeVar

import jax

_T = TypeVar("_T", bound=type)


def registered(cls: _T) -> _T:
    """A dataclass as a pytree whose leaves are its fields, but those with ``metadata={"static": True}``.

    As ``jax.tree_util.register_dataclass``, of which jaxlib 0.10 takes the structures of two classes for the same where
    their static fields are: ``jax.jit`` then runs, about once in a hundred times, the program of a Bernoulli
    likelihood for a Poisson one. Structures of classes registered here differ.

    Args:
        cls: a class made by ``dataclasses.dataclass``.

    Returns:
        the class.

    Raises:
        TypeError: it is no dataclass.

    Example:
        >>> import dataclasses, jax, lowrank_filter as lf
        >>> @lf.registered
        ... @dataclasses.dataclass(frozen=True)
        ... class Scaled:
        ...     scale: float
        >>> jax.tree.leaves(Scaled(2.0))
        [2.0]
    """
    made: Any = cls
    if not (isinstance(made, type) and dataclasses.is_dataclass(made)):
        raise TypeError(f"cls: expected a dataclass, got {cls!r}; put @registered above @dataclasses.dataclass")
    fields = [field for field in dataclasses.fields(made) if field.init]
    names = [field.name for field in fields if not field.metadata.get("static")]
    static = [field.name for field in fields if field.metadata.get("static")]
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    def flatten(value: Any) -> tuple[list[Any], tuple]:
        return [getattr(value, name) for name in names], tuple(getattr(value, name) for name in static)

    def flatten_with_keys(value: Any) -> tuple[list[tuple], tuple]:
        leaves, held = flatten(value)
        return list(zip(keys, leaves, strict=True)), held

    def unflatten(held: tuple, leaves: Any) -> Any:
        made = object.__new__(cls)  # what a constructor checks was checked, and leaves need not be arrays
        for name, value in zip((*names, *static), (*leaves, *held), strict=True):
            object.__setattr__(made, name, value)
        return made

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
