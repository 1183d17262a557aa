"""Options of an experiment in their ranges, before anything is computed."""

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from experiments.claim import read_json

T = TypeVar("T", bound=Any)
_FROM_ZERO = ("rank", "noises", "betas", "angle")
"""Numbers that may be zero; all others are positive."""
_MAY_BE_EMPTY = ("betas",)


def check(options: Any) -> None:
    """Every field of a dataclass of options against its type: numbers are positive and finite, choices are known.

    Raises:
        ValueError: one is not; the message names it.
    """
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value, hint = getattr(options, field.name), hints[field.name]
        _check(field.name, value, hint)


def from_file(path: Path, defaults: T) -> T:
    """``defaults`` with the options that a JSON file names: ``{"seeds": 3, "noises": [0.1, 0.3]}``.

    Raises:
        ValueError: no such file, no JSON object, an option that there is not, or a value out of its range; the message
            names the file and the option.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a JSON file of options, but there is none")
    given = read_json(path, None)
    hints = typing.get_type_hints(type(defaults))
    names = [field.name for field in dataclasses.fields(defaults)]
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected an object of options such as {{{names[-1]!r}: …}}, got {given!r}")
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(f"{path}: expected some of the options {', '.join(names)}, got {', '.join(unknown)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    values = {n: Path(v) if Path in (hints[n], *typing.get_args(hints[n])) else v for n, v in values.items()}
    try:
        return dataclasses.replace(defaults, **values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check(name: str, value: Any, hint: Any) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is not None:
            _check(name, value, next(argument for argument in arguments if argument is not types.NoneType))
    elif origin is tuple:
        if not isinstance(value, tuple) or not (value or name in _MAY_BE_EMPTY):
            raise _wrong(name, "at least one value", value)
        for element in value:
            _check(name, element, arguments[0])
    elif origin is typing.Literal:
        if value not in arguments:
            raise _wrong(name, f"one of {', '.join(map(str, arguments))}", value)
    elif hint is int:
        least = 0 if name in _FROM_ZERO else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _wrong(name, f"an integer of at least {least}", value)
    elif hint is float:
        above = "non-negative" if name in _FROM_ZERO else "positive"
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and name not in _FROM_ZERO):
            raise _wrong(name, f"a {above} number", value)
    elif hint in (bool, str, Path) and not isinstance(value, hint):
        raise _wrong(name, f"a {hint.__name__}", value)


def _wrong(name: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{name}: expected {expected}, got {value!r}; --help shows every option")
