"""Structures as flax saves them; pickle, orbax and JAX's key paths take them as they are."""

import dataclasses
import functools
import sys
from typing import Any


def known_to_flax(structure: type, *arrays: str) -> None:
    """``flax.serialization`` takes a structure's arrays, what is static from the target; where flax is imported.

    Called where a structure is made, so whoever imports flax before a belief can save it.
    """
    if "flax" in sys.modules:
        _register(structure, *arrays)


@functools.cache
def _register(structure: type, *arrays: str) -> None:
    from flax import serialization  # noqa: PLC0415  a tenth of a second that most do not need

    def to_state(value: Any) -> dict[str, Any]:
        return {name: serialization.to_state_dict(getattr(value, name)) for name in arrays}

    def from_state(target: Any, state: dict[str, Any]) -> Any:
        found = {name: serialization.from_state_dict(getattr(target, name), state[name]) for name in arrays}
        return dataclasses.replace(target, **found)

    serialization.register_serialization_state(structure, to_state, from_state)
