"""The table of bad calls: every parameter of every public function × every kind of wrong argument for its role.

A *role* is what an argument is for, as a mapping from kinds of wrong argument to one of each. A table names for every
public function a good call and the role of each parameter of its signature; what is missing there is an error.
"""

import inspect
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

# Name: expected …, got …; do …
PARTS = re.compile(r"(?s)^[^:]+: expected .+[,;] (got|but) .+[;.] \S.+")
# What JAX, NumPy, optax or flax say to those who know them.
INTERNAL = re.compile(r"jax\.errors|ConcretizationTypeError|ufunc|dot_general|broadcast_shapes|add got incomp")


class Traced(NamedTuple):
    """An argument that comes as a tracer."""

    value: Any


class Call(NamedTuple):
    """A public function, arguments that it takes, and the role of every parameter."""

    function: Any
    good: dict[str, Any]
    roles: dict[str, dict[str, Any]]


def cases(table: dict[str, Call]) -> list:
    return [
        pytest.param(call, parameter, wrong, id=f"{name}({parameter}: {kind})")
        for name, call in table.items()
        for parameter, role in call.roles.items()
        for kind, wrong in role.items()
    ]


def assert_complete(table: dict[str, Call], public: dict[str, Any], without: set[str]) -> None:
    """Every public function is in the table, with every parameter of its signature and a kind for each."""
    assert not set(without) & set(table)
    assert set(public) == set(table) | without, set(public) ^ (set(table) | without)
    for name, call in table.items():
        expected = [
            parameter.name
            for parameter in inspect.signature(public[name]).parameters.values()
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        assert sorted(call.roles) == sorted(expected), name
        assert all(call.roles.values()), name


def assert_good(call: Call) -> None:
    """The call without a wrong argument goes through, so that what is refused is the wrong one."""

    def good() -> None:
        call.function(**call.good)

    jax.eval_shape(good)


def assert_refused(call: Call, parameter: str, wrong: Any) -> None:
    """One clear error of three parts that names the parameter."""
    # Without the run-time checks of annotations that the tests add.
    function = inspect.unwrap(call.function)

    def bad(value: Any) -> list:
        return jax.tree.leaves(function(**{**call.good, parameter: value}))

    with pytest.raises((TypeError, ValueError)) as caught:
        jax.jit(bad)(wrong.value) if isinstance(wrong, Traced) else bad(wrong)
    message = str(caught.value)
    assert type(caught.value) in (TypeError, ValueError), type(caught.value)
    assert PARTS.match(message), message
    assert not INTERNAL.search(message.split("from it:", maxsplit=1)[0]), message
    words = {"belief": "belief|precision", "xs": "xs|x"}.get(parameter, parameter)
    assert re.search(rf"\b({words})\b", message), message


NAN, INF = float("nan"), float("inf")


def count(minimum: int, *, optional: bool = False) -> dict[str, Any]:
    """A static integer."""
    wrong = {
        "negative": -1,
        "fraction": 1.5,
        "whole number as float": 2.0,
        "bool": True,
        "text": "2",
        "NaN": NAN,
        "infinity": INF,
        "array": jnp.asarray([2]),
        "tracer": Traced(2),
    }
    return wrong | ({"zero": 0} if minimum > 0 else {}) | ({} if optional else {"None": None})


def folder() -> dict[str, Any]:
    """The path of one, or None."""
    return {"number": 1, "bool": True, "object": object(), "tracer": Traced(1.0)}


def hook() -> dict[str, Any]:
    """True, False or a function."""
    return {"text": "bar", "number": 1, "None": None}


def choice() -> dict[str, Any]:
    """One of a few strings."""
    return {
        "unknown option": "other",
        "None": None,
        "number": 1,
        "bool": True,
        "array": jnp.ones(2),
        "tracer": Traced(1.0),
    }


def flag() -> dict[str, Any]:
    return {"number": 1, "None": None, "text": "yes", "tracer": Traced(True)}


def number(*, zero: bool = False, negative: bool = False, infinite: bool = False, optional: bool = False) -> dict:
    """One real number."""
    wrong = {"NaN": NAN, "text": "1", "bool": True, "complex": 1j, "list of texts": ["words"], "object": object()}
    wrong |= {"wrong shape": jnp.ones(3), "wrong shape, traced": Traced(np.ones(3, np.float32))}
    if not optional:
        wrong["None"] = None
    if not zero:
        wrong["zero"] = 0.0
    if not negative:
        wrong["negative"] = -1.0
    if not infinite:
        wrong["infinity"] = INF
    return wrong


def key(*, optional: bool = False, many: bool = False) -> dict[str, Any]:
    wrong = {"seed": 0, "text": "key", "floats": jnp.zeros(2)}
    keys = jax.random.split(jax.random.key(0), 4)
    wrong["many"] = keys.reshape(2, 2) if many else keys
    return wrong | ({} if optional else {"None": None})


def optimizer(*, optional: bool = False) -> dict[str, Any]:
    return {"text": "adam", "number": 0.1, "class": dict} | ({} if optional else {"None": None})


def mask(size: int) -> dict[str, Any]:
    return {
        "wrong shape": np.ones((size, 2), bool),
        "wrong length": np.ones(size - 1, bool),
        "fractions": np.full(size, 0.5),
        "NaN": np.full(size, NAN),
        "text": "all",
        "tree": {"a": np.ones(size, bool)},
        "wrong length, traced": Traced(np.ones(size - 1, bool)),
    }
