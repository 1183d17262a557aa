"""Options of an experiment: their ranges stand with the fields and are looked at before anything is computed."""

import argparse
import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

T = TypeVar("T", bound=Any)


class Range(NamedTuple):
    """The least value a number may have, or a bound that it has to exceed; of a tuple, the fewest values it has."""

    least: float
    exceeds: bool = False


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, exceeds=True)]
NonNegative = Annotated[float, Range(0)]


def check(options: Any) -> None:
    """Every field of a dataclass of options against its type: numbers are finite and in range, choices are known.

    Raises:
        ValueError: one is not; the message names it.
    """
    hints = typing.get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        _check(field.name, getattr(options, field.name), hints[field.name])


def _check(name: str, value: Any, hint: Any, limit: Range | None = None) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if origin is Annotated:
        _check(name, value, arguments[0], next((extra for extra in arguments if isinstance(extra, Range)), None))
    elif origin in (types.UnionType, typing.Union):
        if value is not None:
            _check(name, value, next(argument for argument in arguments if argument is not types.NoneType))
    elif origin is tuple:
        if not isinstance(value, tuple) or len(value) < (1 if limit is None else limit.least):
            raise _wrong(name, "at least one value", value)
        for element in value:
            _check(name, element, arguments[0])
    elif origin is typing.Literal:
        if value not in arguments:
            raise _wrong(name, f"one of {', '.join(map(str, arguments))}", value)
    elif hint is int:
        if not number or not isinstance(value, int) or (limit is not None and value < limit.least):
            raise _wrong(name, f"an integer{'' if limit is None else f' of at least {limit.least:g}'}", value)
    elif hint is float:
        if not number or (limit is not None and (value < limit.least or (limit.exceeds and value == limit.least))):
            kind = "" if limit is None else "positive " if limit.exceeds else "non-negative "
            raise _wrong(name, f"a {kind}number", value)
    elif hint in (bool, str, Path) and not isinstance(value, hint):
        raise _wrong(name, f"a {hint.__name__}", value)


def _wrong(name: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{name}: expected {expected}, got {value!r}; --help shows every option")


def from_file(path: Path, defaults: T) -> T:
    """``defaults`` with the options that a JSON file names: ``{"seeds": 3, "noises": [0.1, 0.3]}``.

    Raises:
        ValueError: no such file, no JSON object, an option that there is not, or a value out of its range; the message
            names the file and the option.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a JSON file of options, but there is none; correct its name")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected a whole JSON file, but {error}; correct it") from error
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


def run(kind: type, name: str, arguments: Sequence[str]) -> None:
    """Run one experiment with options from the command line, before those from ``--config``, before its preset's."""
    import tyro  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    # The preset and a file decide the defaults that --help shows and that the other options replace.
    first, second = (argparse.ArgumentParser(add_help=False, allow_abbrev=False) for _ in range(2))
    first.add_argument("--config", type=Path)
    second.add_argument("--preset", default="default")
    known, rest = first.parse_known_args(arguments)
    presets = "\n".join(f"--preset {name}: {_differing(options)}" for name, options in kind.presets.items())
    try:
        defaults = kind.of(second.parse_known_args(rest)[0].preset)
        if known.config is not None:
            defaults = from_file(known.config, defaults)
        experiment = tyro.cli(
            kind,
            args=rest,
            default=defaults,
            prog=f"python -m experiments {name}",
            description=f"{kind.__doc__}\n\n{presets}\n\n--config FILE takes options from a JSON file.",
        )
    except ValueError as error:
        first.exit(2, f"{error}\n")
    experiment.run(Console())


def _differing(options: Mapping[str, Any]) -> str:
    listed = {name.replace("_", "-"): one if isinstance(one, tuple) else (one,) for name, one in options.items()}
    return ", ".join(f"{name} {' '.join(map(str, values))}" for name, values in listed.items()) or "the default"


def run_all(kinds: Mapping[str, type], arguments: Sequence[str]) -> None:
    """Run every experiment whose data is at hand; what was computed before is not computed again."""
    from rich.console import Console  # noqa: PLC0415

    parser = argparse.ArgumentParser("python -m experiments all", allow_abbrev=False)
    parser.add_argument("--preset", default="default", help="of each experiment that has one of this name")
    parser.add_argument("--output", type=Path, default=Path("experiments/results"), help="folder for the results")
    parser.add_argument("--no-resume", dest="resume", action="store_false", help="forget what was computed before")
    given = parser.parse_args(arguments)
    console = Console()
    for name, kind in kinds.items():
        if kind.by_hand:
            continue
        console.rule(name)
        preset = given.preset if given.preset in kind.presets else "default"
        kind.of(preset, output=given.output, resume=given.resume).run(console)
